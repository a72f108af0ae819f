"""The schema: one migration path, the rules in it and the plans of the queries."""

import subprocess
import sys

import pytest
from alembic import command
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from flagon_catalog.__main__ import MIGRATIONS
from flagon_catalog.domain import products
from flagon_catalog.models import SEARCH, Base
from flagon_chassis import db
from flagon_chassis.testing import differences


class TestMigrations:
    def test_add_up_to_the_models(self, database_url):
        assert differences(database_url, Base.metadata) == []

    def test_make_the_search_column_that_the_model_says(self, database_url):
        engine = create_engine(database_url, poolclass=NullPool)
        generated = text(
            "select pg_get_expr(adbin, adrelid) from pg_attrdef"
            " join pg_attribute on attrelid = adrelid and attnum = adnum"
            " where adrelid = cast(:table as regclass) and attname = 'search'"
        )
        with engine.begin() as connection:
            connection.execute(
                text(
                    "create temp table twin (name text, sku text, description text,"
                    " attributes jsonb, search tsvector generated always as"
                    f" ({SEARCH.replace(':', chr(92) + ':')}) stored)"
                )
            )
            ours, twins = (
                connection.scalar(generated, {"table": table})
                for table in ("product", "twin")
            )

        assert ours == twins

    def test_can_be_taken_back(self, make_database):
        url = make_database()
        config = db.config(url, MIGRATIONS)
        command.upgrade(config, "head")
        command.downgrade(config, "base")

        engine = create_engine(url, poolclass=NullPool)
        with engine.connect() as connection:
            tables = connection.scalars(
                text("select tablename from pg_tables where schemaname = 'public'")
            )
            assert set(tables) == {"alembic_version"}

    def test_of_tags_and_trees_keep_what_is_there(self, make_database):
        url = make_database()
        config = db.config(url, MIGRATIONS)
        engine = create_engine(url, poolclass=NullPool)
        command.upgrade(config, "0003")
        with engine.begin() as connection:
            connection.execute(
                text(
                    "insert into category (id, slug, name, description)"
                    " values (gen_random_uuid(), 'old', 'Old', '')"
                )
            )
            connection.execute(
                text(
                    "insert into product (id, sku, slug, name, description,"
                    " price_minor, currency, status, stock, category_id, attributes,"
                    " version) select gen_random_uuid(), 'a', 'a', 'A', '', 7, 'CHF',"
                    " 'active', 0, id, '{}', 3 from category"
                )
            )

        command.upgrade(config, "head")

        with engine.connect() as connection:
            paths = connection.scalars(text("select path from category")).all()
            prices = connection.execute(
                text("select version, price_minor, currency from price")
            ).all()
        assert paths == [["old"]]
        assert [tuple(price) for price in prices] == [(3, 7, "CHF")]
        command.downgrade(config, "0003")
        with engine.connect() as connection:
            kept = connection.scalar(
                text(
                    "select sku from product join category on category_id = category.id"
                )
            )
        assert kept == "a"

    def test_run_as_a_command(self, make_database):
        url = make_database()
        environment = {
            "CATALOG_SECRET_KEY": "s" * 32,
            "CATALOG_DATABASE_URL": url,
            "CATALOG_OWNER_DATABASE_URL": url,
            "CATALOG_IMAGES_DIR": "/nowhere",
        }

        for _ in range(2):
            subprocess.run(
                [sys.executable, "-m", "flagon_catalog", "migrate"],
                env=environment,
                check=True,
                capture_output=True,
            )

        engine = create_engine(url, poolclass=NullPool)
        with engine.connect() as connection:
            assert connection.scalar(text("select count(*) from product")) == 0


class TestRules:
    @pytest.mark.parametrize(
        "change", ["price_minor = -1", "stock = -1", "status = 'gone'"]
    )
    def test_hold_in_the_database_too(self, make, session, change):
        product = make()

        with pytest.raises(IntegrityError), session.begin_nested():
            session.execute(
                text(f"update product set {change} where id = :id"),
                {"id": product["id"]},
            )


@pytest.fixture(scope="module")
def crowded(migrated):
    """A database with rows enough for a plan to matter."""
    engine = create_engine(migrated(), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into category (id, slug, name, description, path)"
                " select gen_random_uuid(), 'c' || n, 'C', '', array['c' || n]"
                " from generate_series(1, 20) n"
            )
        )
        # The first four are one tree.
        connection.execute(
            text(
                "update category set path = array['c1', slug],"
                " parent_id = (select id from category where slug = 'c1')"
                " where slug in ('c2', 'c3', 'c4')"
            )
        )
        connection.execute(
            text(
                "insert into product (id, sku, slug, name, description, price_minor,"
                " currency, status, stock, category_id, attributes, created_at)"
                " select gen_random_uuid(), 's' || n, 's' || n, 'Name ' || n, '',"
                " n, 'EUR', 'active', n % 5,"
                " (select id from category where slug = 'c' || (1 + n % 20)), '{}',"
                " now() - n * interval '1 minute'"
                " from generate_series(1, 5000) n"
            )
        )
        # Of each product two are held, one of them for too long, and eight were sold.
        connection.execute(
            text(
                "insert into reservation (id, product_id, quantity, outcome, ended_at,"
                " holder, expires_at)"
                " select gen_random_uuid(), product.id, 1,"
                " case when n > 2 then 'committed' end, case when n > 2 then now() end,"
                " 'h' || n % 7,"
                " now() + (2 * n - 3) * interval '1 hour'"
                " from product, generate_series(1, 10) n"
            )
        )
        connection.execute(
            text(
                "insert into tag (id, slug, name)"
                " select gen_random_uuid(), 't' || n, 'T' from generate_series(1, 30) n"
            )
        )
        connection.execute(
            text(
                "insert into product_tag (product_id, tag_id)"
                " select product.id, tag.id from product, tag"
                " where (hashtext(sku || tag.slug) & 7) = 0"
            )
        )
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(
            text("analyze")
        )
    return engine


class TestPlans:
    @pytest.fixture
    def plan_of(self, crowded):
        """Explain a list and return its plan."""

        def plan_of(sort="-created_at", after=None, analyze=False, **filters):
            caught = []
            with Session(crowded) as session:
                connection = session.connection()
                event.listen(
                    connection,
                    "before_cursor_execute",
                    lambda *args: caught.append((args[2], args[3])),
                )
                products.list_products(
                    session,
                    products.Filter(**filters),
                    sort=sort,
                    limit=21,
                    after=after,
                )
                statement, parameters = caught[0]
                (plan,) = connection.exec_driver_sql(
                    f"explain (format json, analyze {analyze}) {statement}", parameters
                ).scalar_one()
            return plan["Plan"]

        return plan_of

    @pytest.fixture
    def index_of(self, plan_of):
        """Explain a list and return the nodes of its plan."""
        return lambda *args, **filters: list(nodes(plan_of(*args, **filters)))

    @pytest.mark.parametrize(
        ("sort", "filters", "index"),
        [
            ("-created_at", {}, "ix_product_status_created_at_id"),
            ("created_at", {}, "ix_product_status_created_at_id"),
            ("name", {}, "ix_product_status_name_id"),
            ("-name", {}, "ix_product_status_name_id"),
            ("price_minor", {}, "ix_product_status_price_minor_id"),
            (
                "price_minor",
                {"price_minor_min": 10, "price_minor_max": 500},
                "ix_product_status_price_minor_id",
            ),
            (
                "-created_at",
                {"category": "c7"},
                "ix_product_category_id_status_created_at_id",
            ),
            ("-created_at", {"sku": "s9"}, "uq_product_sku"),
            ("-created_at", {"slug": "s9"}, "uq_product_slug"),
            ("relevance", {"q": "777"}, "ix_product_search"),
        ],
    )
    def test_use_the_index_that_is_meant_for_them(self, index_of, sort, filters, index):
        found = index_of(sort, **filters)

        assert index in [node.get("Index Name") for node in found]
        assert ("Seq Scan", "product") not in [
            (node["Node Type"], node.get("Relation Name")) for node in found
        ]

    @pytest.mark.parametrize("filters", [{}, {"in_stock": True}, {"in_stock": False}])
    def test_add_up_only_what_is_held_and_only_of_what_is_shown(
        self, index_of, filters
    ):
        found = index_of(**filters)

        looked = [node for node in found if node.get("Relation Name") == "reservation"]
        assert looked
        assert "Seq Scan" not in {node["Node Type"] for node in looked}
        indexes = {node.get("Index Name", "") for node in found}
        assert {name for name in indexes if "reservation" in name} == {
            "ix_reservation_open"
        }

    @pytest.mark.parametrize("sort", ["-created_at", "name", "price_minor"])
    def test_do_not_sort_what_an_index_gives_in_order(self, index_of, sort):
        found = index_of(sort)

        assert "Sort" not in [node["Node Type"] for node in found]

    @pytest.mark.parametrize(
        ("sort", "index"),
        [
            ("-created_at", "ix_product_category_id_status_created_at_id"),
            ("name", "ix_product_category_id_status_name_id"),
            ("-price_minor", "ix_product_category_id_status_price_minor_id"),
        ],
    )
    def test_merge_a_page_of_each_category(self, plan_of, sort, index):
        plan = plan_of(sort, analyze=True, category="c1")

        (scan,) = (node for node in every(plan) if node.get("Index Name") == index)
        # Four categories, 250 products in each, and no more than a page of any is read.
        assert scan["Actual Loops"] == 4
        assert scan["Actual Rows"] <= 21
        assert "Index Cond" in scan
        assert "Filter" not in scan

    def test_walk_an_order_and_look_whether_the_tag_is_there(self, index_of):
        found = index_of("-created_at", tag=("t1",))

        indexes = [node.get("Index Name") for node in found]
        assert "ix_product_status_created_at_id" in indexes
        assert {"pk_product_tag", "ix_product_tag_tag_id_product_id"} & set(indexes)
        assert "Sort" not in [node["Node Type"] for node in found]

    def test_begin_at_a_tag_when_an_order_is_no_help(self, index_of):
        found = index_of("-created_at", tag=("t1", "t2", "t3"))

        assert "product_tag" in [node.get("Relation Name") for node in found]
        assert ("Seq Scan", "product") not in [
            (node["Node Type"], node.get("Relation Name")) for node in found
        ]

    @pytest.mark.parametrize(
        ("sort", "filters"),
        [("-created_at", {}), ("name", {}), ("relevance", {"q": "name"})],
    )
    def test_fetch_tags_and_holds_of_what_is_shown_alone(self, plan_of, sort, filters):
        plan = plan_of(sort, analyze=True, **filters)

        beside = [
            node for node in every(plan) if "SubPlan" in node.get("Subplan Name", "")
        ]
        # What is held of a product is fetched so, too.
        assert [node["Actual Loops"] for node in beside] == [21, 21]


def nodes(plan):
    """Yield the nodes of a plan without those that work out one column of one row."""
    if plan.get("Parent Relationship") == "SubPlan" and "Sort" in str(plan):
        return
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def every(plan):
    yield plan
    for child in plan.get("Plans", ()):
        yield from every(child)
