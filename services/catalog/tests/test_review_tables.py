"""The table of reviews: the rules in it and the plans of the queries."""

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from flagon_catalog.domain import reviews
from flagon_catalog.models import Product


@pytest.fixture(scope="module")
def crowded(migrated):
    """A database with reviews enough for a plan to matter."""
    engine = create_engine(migrated(), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into product (id, sku, slug, name, description, price_minor,"
                " currency, status, stock, attributes)"
                " select gen_random_uuid(), 's' || n, 's' || n, 'Name', '', 1, 'EUR',"
                " 'active', 1, '{}' from generate_series(1, 50) n"
            )
        )
        connection.execute(
            text(
                "insert into review (id, product_id, subject, author, rating, title,"
                " body, body_html, state, created_at)"
                " select gen_random_uuid(), id, gen_random_uuid(), 'A', 1 + n % 5, 'T',"
                " '', '', case when n % 20 = 0 then 'pending' else 'published' end,"
                " now() - n * interval '1 minute'"
                " from product, generate_series(1, 200) n"
            )
        )
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(
            text("analyze")
        )
    return engine


@pytest.fixture
def plan_of(crowded):
    """Return the nodes of the plan of a list's last statement."""

    def plan_of(call):
        caught = []
        with Session(crowded) as session:
            connection = session.connection()
            event.listen(
                connection,
                "before_cursor_execute",
                lambda *args: caught.append((args[2], args[3])),
            )
            call(session)
            statement, parameters = caught[-1]
            (plan,) = connection.exec_driver_sql(
                f"explain (format json) {statement}", parameters
            ).scalar_one()
        return list(nodes(plan["Plan"]))

    return plan_of


def nodes(plan):
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


class TestPlans:
    @pytest.mark.parametrize(
        ("sort", "index"),
        [
            ("newest", "ix_review_product_id_created_at_id"),
            ("highest", "ix_review_product_id_rating_id"),
            ("lowest", "ix_review_product_id_rating_id"),
        ],
    )
    def test_of_a_product_read_an_index_in_order(self, plan_of, sort, index):
        def call(session):
            reviews.list_product_reviews(
                session,
                product_id=session.query(Product.id).limit(1).scalar(),
                hidden=False,
                sort=sort,
                limit=21,
            )

        found = plan_of(call)

        assert index in [node.get("Index Name") for node in found]
        assert "Sort" not in [node["Node Type"] for node in found]

    def test_of_the_queue_read_an_index_in_order(self, plan_of):
        found = plan_of(
            lambda session: reviews.list_reviews(
                session, subject=None, state="pending", sort="oldest", limit=21
            )
        )

        names = [node.get("Index Name") for node in found]
        assert "ix_review_state_created_at_id" in names
        assert "Sort" not in [node["Node Type"] for node in found]

    def test_of_a_person_read_an_index(self, plan_of, crowded):
        with crowded.connect() as connection:
            subject = connection.scalar(text("select subject from review limit 1"))

        found = plan_of(
            lambda session: reviews.list_reviews(
                session, subject=subject, state=None, sort="newest", limit=21
            )
        )

        names = [node.get("Index Name") for node in found]
        assert "ix_review_subject_created_at_id" in names


class TestRules:
    @pytest.mark.parametrize(
        "change", ["rating = 0", "rating = 6", "state = 'gone'", "author = null"]
    )
    def test_hold_in_the_database_too(self, crowded, change):
        with pytest.raises(IntegrityError), crowded.begin() as connection:
            connection.execute(text(f"update review set {change}"))
