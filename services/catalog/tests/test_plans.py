"""What every list and search costs at 200,000 products: statements, plans, rows read."""

from hashlib import md5
from urllib.parse import quote_plus
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import event

from flagon_catalog.domain import exports

PRODUCTS = 200_000
FILL = f"""
insert into category (id, slug, name, description, path)
    select gen_random_uuid(), 'c' || n, 'Category ' || n, '', array['c' || n]
    from generate_series(1, 500) n;
update category set path = array['c1', slug],
    parent_id = (select id from category where slug = 'c1')
    where slug in ('c2', 'c3', 'c4');
insert into tag (id, slug, name)
    select gen_random_uuid(), 't' || n, 'Tag ' || n from generate_series(1, 1000) n;
insert into product (id, sku, slug, name, description, price_minor, currency, status,
        stock, category_id, attributes, created_at)
    -- Ids in the order of making, as UUIDv7 are.
    select lpad(to_hex(n), 32, '0')::uuid, 'sku-' || n, 'slug-' || n,
        'Product ' || n || ' w' || n % 2000, '', n,
        case when n % 1000 = 0 then 'CHF' else 'EUR' end,
        case when n % 100 = 0 then 'draft' else 'active' end, n % 50, category.id,
        jsonb_build_object('code', n % 2000),
        '2026-01-01'::timestamptz + n * interval '1 minute'
    from generate_series(1, {PRODUCTS}) n
    join category on category.slug = 'c' || (1 + n % 500);
insert into product_tag (product_id, tag_id)
    select product.id, tag.id from product
    join tag on tag.slug = 't' || (1 + product.price_minor % 1000);
-- As many words as a shop of books has.
insert into word (text)
    select 'product' union all
    select translate(left(md5(n::text), 9), '0123456789', 'ghijklmnop')
    from generate_series(1, 100000) n;
insert into price (product_id, version, price_minor, currency, "from")
    select id, n, price_minor, currency, created_at
    from product, generate_series(1, 40) n where product.price_minor % 400 = 1;
insert into reservation (id, product_id, quantity, outcome, ended_at, holder, expires_at)
    select gen_random_uuid(), product.id, 1,
        case when n > 1 or price_minor % 400 > 1 then 'committed' end,
        case when n > 1 or price_minor % 400 > 1 then now() end,
        'holder-' || price_minor % 97,
        now() + interval '1 day'
    from product, generate_series(1, 4) n where product.price_minor % 40 = 1;
insert into review (id, product_id, subject, author, rating, title, body, body_html,
        created_at, state)
    select gen_random_uuid(), product.id, lpad(to_hex(n), 32, '0')::uuid, 'A',
        1 + n % 5, 'T', 'B', 'B', created_at + n * interval '1 second',
        case when n % 50 = 0 then 'pending' else 'published' end
    from product, generate_series(1, 100) n where product.price_minor % 1000 = 1;
insert into picture (sha256, bytes, width, height)
    select lpad(to_hex(n), 64, '0'), 1, 1, 1 from generate_series(1, 20000) n;
insert into image (id, product_id, sha256, alt, position)
    select gen_random_uuid(), product.id,
        lpad(to_hex(1 + (product.price_minor + n) % 20000), 64, '0'), '', n
    from product, generate_series(0, 3) n where product.price_minor % 10 = 1;
insert into audit (at, actor, action, entity, entity_id, version, changes)
    select created_at, 'holder-' || price_minor % 97, 'created',
        case when price_minor % 5000 = 1 then 'tag' else 'product' end, id, 1, '{{}}'
    from product order by id;
"""
PRODUCT = UUID(int=1)
"""Has reservations, reviews, four images and forty prices."""
OLD, OLD_TOO = "2026-01-20T00:00:00Z", "2026-02-20T00:00:00Z"
"""Times in the middle of the audit."""


# Each list, and for each question that leads to another plan the most rows that may be
# read for a page of it, of whatever tables; on a page there are 20.
LISTS = {
    "/api/v1/products": {
        "": 120,
        "sort=created_at": 120,
        "sort=name": 120,
        "sort=-name": 120,
        "sort=price_minor": 120,
        "sort=-price_minor": 120,
        "limit=100": 600,
        "category=c7": 150,
        "category=c1&sort=name": 800,
        "category=c1&status=any": 1000,
        "tag=t5": 1200,
        "tag=t5&tag=t6": 1200,
        "status=any": 200,
        "status=any&sort=-price_minor": 200,
        "status=draft": 120,
        "q=w77": 900,
        "q=w77&sort=name": 900,
        "q=w77&category=c78": 900,
        "in_stock=true": 200,
        # One in fifty is sold out.
        "in_stock=false": 2500,
        "in_stock=false&category=c7": 1500,
        "price_minor_min=1000&price_minor_max=1100": 900,
        "price_minor_min=1000&price_minor_max=1100&sort=price_minor": 120,
        # Few have it, nobody has it, nearly all have it.
        "currency=CHF": 1000,
        "currency=USD": 10,
        "currency=EUR": 200,
        "sku=sku-7": 20,
        "slug=slug-7": 20,
        "fields=id,name&include=category": 200,
        "include=images": 300,
        # How many have an attribute Postgres only guesses, and so may walk the order.
        "attribute=code:77": 60_000,
        "attribute=code:77&category=c78": 900,
        "q=w77&highlight=true": 1000,
        "facets=category,tag,status,currency,price&category=c7": 5000,
    },
    # In batches of 2,000.
    "/api/v1/products/export": {"": 10_000, "category=c7": 4000},
    "/api/v1/products/{product_id}/prices": {"": 40},
    "/api/v1/products/{product_id}/reviews": {
        "": 40,
        "sort=highest": 40,
        "sort=lowest": 40,
    },
    "/api/v1/products/{product_id}/images": {"": 30},
    "/api/v1/categories": {"": 30, "parent=c1": 30, "parent=": 30},
    "/api/v1/tags": {"": 30},
    "/api/v1/reviews": {"": 30, "state=pending": 30, "sort=oldest": 30},
    "/api/v1/audit": {
        "": 30,
        "entity=tag": 30,
        f"id={PRODUCT}": 30,
        "actor=holder-7": 30,
        # One in 5,000 of everything, one in 97 of what they did.
        "actor=holder-7&entity=tag": 2500,
        f"actor=holder-7&id={PRODUCT}": 30,
        # One a minute for weeks; an hour more at each end is looked at, and where they are.
        f"since={OLD}": 100,
        f"until={OLD}": 200,
        f"since={OLD}&until={OLD_TOO}": 200,
        f"until={OLD}&actor=holder-7": 200,
        f"until={OLD}&id={PRODUCT}": 200,
        f"since={OLD}&until={OLD}": 300,
    },
    "/api/v1/reservations": {
        "": 30,
        "holder=any": 30,
        # All that are held now, at most: few beside all that ever were.
        "state=held": 700,
        "state=committed&holder=any": 30,
        f"product_id={PRODUCT}&holder=any": 30,
    },
}

# What has to look at everything that it finds, and at most at this many rows: to tell the
# best of all matches, or to count them. Limits of requests and of time keep it in bounds.
WHOLE = {
    "q=product": 2 * PRODUCTS,
    "facets=category,tag,status,currency,price": 2 * PRODUCTS,
}

# One thing each.
SINGLE = {
    f"/api/v1/products/{PRODUCT}/images/{{image_id}}",
    "/api/v1/products/{product_id}",
    "/api/v1/products/by-slug/slug-7",
    "/api/v1/products/by-sku/sku-7",
    "/api/v1/categories/{category_id}",
    "/api/v1/categories/by-slug/c7",
    "/api/v1/tags/{tag_id}",
    "/api/v1/tags/by-slug/t7",
    "/api/v1/reviews/{review_id}",
    "/api/v1/reservations/{reservation_id}",
}

# Few rows, and each of them in a few pages that are always in memory.
SMALL = {"category", "tag"}


@pytest.fixture(scope="module")
def full(migrated, make_app):
    """An app with a database that is full."""
    url = migrated()
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("set synchronous_commit = off")
        # An index is built much faster than it is kept right 200,000 times.
        later = connection.execute(
            "select indexrelid::regclass::text, pg_get_indexdef(indexrelid)"
            " from pg_index left join pg_constraint on conindid = indexrelid"
            " where indrelid = 'product'::regclass and conindid is null"
        ).fetchall()
        assert len(later) > 5
        for name, _ in later:
            connection.execute(f"drop index {name}")
        connection.execute(FILL)
        for _, definition in later:
            connection.execute(definition)
        connection.execute("vacuum analyze")
    return make_app(url, answer_seconds=0)


@pytest.fixture(scope="module")
def ids(full):
    """The id of one thing of each kind, by its name in paths."""
    with full.extensions["flagon.sessions"]() as session:
        first = {
            f"{table}_id": session.connection()
            .exec_driver_sql(f"select id from {table} limit 1")
            .scalar_one()
            for table in ("category", "tag", "review", "reservation")
        }
        first["image_id"] = (
            session.connection()
            .exec_driver_sql(f"select id from image where product_id = '{PRODUCT}'")
            .scalars()
            .first()
        )
    return {**first, "product_id": PRODUCT}


@pytest.fixture
def headers(bearer):
    return bearer(
        *("catalog:write", "reviews:moderate", "ops:read"),
        sub="holder-1",
        roles=["merchandiser"],
    )


@pytest.fixture
def sent(full, monkeypatch):
    """The statements that were really sent, with their parameters."""
    caught = []

    def note(_connection, _cursor, statement, parameters, *_more):
        caught.append((statement, parameters))

    copy_command = exports.copy_command

    def note_copy(some, kind):
        command, parameters = copy_command(some, kind)
        query = command.removeprefix("copy (").rpartition(") to stdout")[0]
        caught.append((query, parameters))
        return command, parameters

    monkeypatch.setattr(exports, "copy_command", note_copy)
    engine = full.extensions["flagon.sessions"].kw["bind"]
    event.listen(engine, "before_cursor_execute", note)
    yield caught
    event.remove(engine, "before_cursor_execute", note)


@pytest.fixture
def cost(full, ids, headers, sent):
    """Send a request; return how many rows were read for it, and its answer."""
    client = full.test_client()
    engine = full.extensions["flagon.sessions"].kw["bind"]

    def cost(path, *, whole=False, most=2):
        sent.clear()
        answer = client.get(path.format(**ids), headers=headers)
        assert answer.status_code == 200, answer.text
        asked = list(sent)
        # The list and its facets, or a batch and where it ends; one for all else.
        assert 1 <= len(asked) <= most
        rows = 0
        with engine.connect() as connection:
            for statement, parameters in asked:
                (plan,) = connection.exec_driver_sql(
                    f"explain (analyze, format json) {statement}", parameters
                ).scalar_one()
                for node in nodes(plan["Plan"]):
                    if "Relation Name" not in node:
                        continue
                    if not whole and node["Relation Name"] not in SMALL:
                        assert node["Node Type"] != "Seq Scan", (statement, node)
                    rows += read(node)
        return rows, answer

    return cost


def nodes(plan):
    """Yield the nodes of a plan."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def read(node):
    """Return how many rows of its table a scan looked at."""
    looked = (
        node["Actual Rows"]
        + node.get("Rows Removed by Filter", 0)
        + node.get("Rows Removed by Index Recheck", 0)
    )
    return node["Actual Loops"] * looked


class TestLists:
    def test_are_all_here(self, full, ids):
        """A new route has to say what it may cost."""
        adapter = full.url_map.bind("localhost")
        known = {adapter.match(path.format(**ids))[0] for path in (*LISTS, *SINGLE)}
        there = {
            rule.endpoint
            for rule in full.url_map.iter_rules()
            if rule.rule.startswith("/api/")
            and "GET" in rule.methods
            # It has as many statements as levels (test_graphql.py).
            and rule.endpoint != "graphql.queries"
        }

        assert there == known

    @pytest.mark.parametrize(
        ("path", "query", "most"),
        [
            (path, query, most)
            for path, questions in LISTS.items()
            for query, most in questions.items()
        ],
    )
    def test_read_no_more_than_they_need(self, cost, path, query, most):
        rows, answer = cost(f"{path}?{query}")

        assert rows <= most
        # The next page is as cheap.
        cursor = (answer.json or {}).get("next_cursor") if answer.is_json else None
        if cursor:
            rows, _ = cost(f"{path}?{query}&cursor={cursor}")
            assert rows <= most

    def test_sort_no_more_of_a_match_than_its_place(self, full, sent):
        """With all that is shown of it a search of many would take half as long again."""
        answer = full.test_client().get("/api/v1/products?q=product")
        assert len(answer.json["items"]) == 20

        ((statement, parameters),) = list(sent)
        engine = full.extensions["flagon.sessions"].kw["bind"]
        with engine.connect() as connection:
            (plan,) = connection.exec_driver_sql(
                f"explain (analyze, format json) {statement}", parameters
            ).scalar_one()
        widths = [
            node["Plan Width"]
            for node in nodes(plan["Plan"])
            if node["Node Type"] == "Sort" and node["Plans"][0]["Actual Rows"] > 100
        ]
        # The id and the position.
        assert widths
        assert max(widths) <= 24

    @pytest.mark.parametrize("query", WHOLE)
    def test_read_each_match_once_where_all_of_them_count(self, cost, query):
        rows, _ = cost(f"/api/v1/products?{query}", whole=True)

        assert rows <= WHOLE[query]


def letters(number):
    """Return a word that is like one of the database's, with a slip."""
    word = md5(str(number).encode(), usedforsecurity=False).hexdigest()[:9]
    word = word.translate(str.maketrans("0123456789", "ghijklmnop"))
    return word[:4] + word[5] + word[4] + word[6:]


class TestWordsThatNoProductHas:
    @pytest.mark.parametrize(
        ("q", "most"),
        [
            # All near words of one, of as many as are replaced, and of nonsense.
            (letters(7), 1000),
            (" ".join(map(letters, range(4))), 4000),
            ("qqqqqqqqqzzzzzzzzz" * 2, 1000),
            # Too many: nothing is looked at.
            (" ".join(map(letters, range(20))), 0),
            ("zyx" * 66, 0),
            # It is there after all: whether it is, one row tells, and then the page.
            ("prodcut w77", 1500),
        ],
    )
    def test_cost_an_index(self, cost, q, most):
        # The search, which words are there, which are near, which of those are there,
        # and the search again.
        rows, _ = cost(f"/api/v1/products?q={quote_plus(q)}", most=5)

        assert rows <= most


@pytest.mark.parametrize("path", sorted(SINGLE))
class TestOne:
    def test_is_found_by_a_key(self, cost, path):
        rows, _ = cost(path)

        # At most every category beside it, as one of a small table.
        assert rows <= 10
