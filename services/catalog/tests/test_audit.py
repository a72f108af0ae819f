"""Who changed what: every route that writes leaves one row for each thing it changed."""

import io
import json
import re
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from PIL import Image as Pillow
from sqlalchemy import event, func, select, text, update
from structlog.contextvars import bound_contextvars, clear_contextvars

from flagon_catalog.domain import holds, reviews
from flagon_catalog.models import Reservation
from flagon_catalog.settings import Settings
from flagon_chassis import audit
from flagon_chassis.tables import audit as log

from .conftest import CATEGORIES, PRODUCTS, TAGS

AUDIT = "/api/v1/audit"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def picture():
    file = io.BytesIO()
    colour = tuple(uuid4().bytes[:3])
    Pillow.new("RGB", (40, 30), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def rows(session):
    """A function that returns the rows since it was called last, the oldest first."""
    seen = session.scalar(select(func.coalesce(func.max(log.c.sequence), 0)))

    def rows():
        nonlocal seen
        found = list(
            session.execute(
                select(log).where(log.c.sequence > seen).order_by(log.c.sequence)
            )
        )
        seen = max([seen, *(row.sequence for row in found)])
        return found

    return rows


@pytest.fixture
def changed(rows):
    """A function that returns what the rows since then say, sorted."""
    return lambda: sorted(
        (row.entity, row.action, row.version, tuple(sorted(row.changes)))
        for row in rows()
    )


class World:
    """Sends requests as the one or the other and remembers what was made."""

    def __init__(self, client, people):
        self.client, self.people = client, people

    def __call__(self, method, path, who="merchandiser", status=None, **options):
        headers = {**self.people[who], **options.pop("headers", {})}
        if method in {"PUT", "PATCH", "DELETE"} or path.endswith(
            ("/publish", "/reject")
        ):
            headers.setdefault("If-Match", "*")
        answer = self.client.open(path, method=method, headers=headers, **options)
        if status is not None:
            assert answer.status_code == status, answer.text
        return answer

    def product(self, **fields):
        name = uuid4().hex[:12]
        body = {"sku": f"sku-{name}", "name": name, "price_minor": 5, **fields}
        return self("POST", PRODUCTS, status=201, json=body).json

    def category(self, **fields):
        body = {"name": f"Shelf {uuid4().hex[:12]}", **fields}
        return self("POST", CATEGORIES, status=201, json=body).json

    def tag(self):
        body = {"name": f"Tag {uuid4().hex[:12]}"}
        return self("POST", TAGS, status=201, json=body).json

    def review(self, product, **fields):
        body = {"author": "Ada", "rating": 4, "title": "T", "body": "B", **fields}
        path = f"{PRODUCTS}/{product['id']}/reviews"
        return self("POST", path, "customer", 201, json=body).json

    def image(self, product):
        path = f"{PRODUCTS}/{product['id']}/images"
        data = {"file": (io.BytesIO(picture()), "x.png"), "alt": "A"}
        return self("POST", path, status=201, data=data).json

    def reservation(self, product, **fields):
        path = f"{PRODUCTS}/{product['id']}/reservations"
        return self("POST", path, status=201, json={"quantity": 1, **fields}).json


@pytest.fixture
def world(client, merchandiser, admin, bearer):
    customer = bearer("reviews:write", sub=str(uuid4()))
    people = {"merchandiser": merchandiser, "admin": admin, "customer": customer}
    return World(client, people)


def a_product(send):
    return f"{PRODUCTS}/{send.product(stock=9)['id']}"


def a_category(send):
    return f"{CATEGORIES}/{send.category()['id']}"


def a_tag(send):
    return f"{TAGS}/{send.tag()['id']}"


def a_review(send):
    return f"/api/v1/reviews/{send.review(send.product())['id']}"


def an_image(send):
    product = send.product()
    made = [send.image(product) for _ in range(3)]
    return f"{PRODUCTS}/{product['id']}/images/{made[0]['id']}"


def a_reservation(send):
    return f"/api/v1/reservations/{send.reservation(send.product(stock=9))['id']}"


def full_product(send):
    product = send.product()
    send.review(product)
    send.image(product)
    return f"{PRODUCTS}/{product['id']}"


def nested_category(send):
    top = send.category()
    inside = send.category(parent=top["slug"])
    send.category(parent=inside["slug"])
    send.other = send.category()["slug"]
    return f"{CATEGORIES}/{top['id']}"


def new(**fields):
    return {"name": f"N {uuid4().hex[:12]}", **fields}


def new_product(**fields):
    return new(sku=f"s-{uuid4().hex[:12]}", price_minor=5, **fields)


def line(*items):
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


UPDATED = ("product", "updated", 2)
IMAGES = [("product", "updated", 5, ("images",))]
NDJSON = {"content_type": "application/x-ndjson"}
PRODUCT = ("currency", "name", "price_minor", "sku", "slug", "status", "stock")

# For each way to write: what must be there first, the request, and what has changed then:
# entity, action, version and the names of the members.
WRITES = [
    (
        *("POST", lambda _: PRODUCTS, lambda: {"json": new_product()}),
        [("product", "created", 1, PRODUCT)],
    ),
    (
        *("PUT", a_product, lambda: {"json": new_product(stock=9)}),
        [(*UPDATED, ("name", "sku"))],
    ),
    (
        *("PATCH", a_product, lambda: {"json": {"stock": 3, "attributes": {"a": 1}}}),
        [(*UPDATED, ("attributes", "stock"))],
    ),
    ("DELETE", a_product, dict, [(*UPDATED, ("status",))]),
    (
        *("POST", lambda _: f"{PRODUCTS}/bulk"),
        lambda: {
            "json": {
                "items": [
                    new_product(category="audit-shelf", tags=["audit-tag"]),
                    {"sku": "nobody-has-it"},
                ]
            }
        },
        [
            ("category", "created", 1, ("name", "path", "slug")),
            ("product", "created", 1, tuple(sorted([*PRODUCT, "category", "tags"]))),
            ("tag", "created", 1, ("name", "slug")),
        ],
    ),
    (
        *("POST", lambda _: f"{PRODUCTS}/bulk/lines"),
        lambda: {"data": line(new_product(), new_product()), **NDJSON},
        [("product", "created", 1, PRODUCT)] * 2,
    ),
    (
        *("POST", lambda send: f"{a_product(send)}/images"),
        lambda: {"data": {"file": (io.BytesIO(picture()), "x.png"), "alt": "A"}},
        [
            ("image", "created", 1, ("alt", "position", "product_id", "sha256")),
            (*UPDATED, ("images",)),
        ],
    ),
    (
        *("PATCH", an_image, lambda: {"json": {"alt": "New"}}),
        [("image", "updated", 2, ("alt",)), *IMAGES],
    ),
    (
        *("PATCH", an_image, lambda: {"json": {"position": 2}}),
        [*[("image", "updated", 2, ("position",))] * 3, *IMAGES],
    ),
    (
        *("DELETE", an_image, dict),
        [
            ("image", "deleted", 1, ("alt", "position", "product_id", "sha256")),
            *[("image", "updated", 2, ("position",))] * 2,
            *IMAGES,
        ],
    ),
    (
        *("POST", lambda send: f"{a_product(send)}/reservations"),
        lambda: {"json": {"quantity": 2}},
        [
            (
                *("reservation", "created", 1),
                ("expires_at", "holder", "product_id", "quantity", "state"),
            )
        ],
    ),
    (
        *("POST", lambda send: f"{a_reservation(send)}/commit", dict),
        [(*UPDATED, ("stock",)), ("reservation", "updated", 2, ("state",))],
    ),
    (
        *("POST", lambda send: f"{a_reservation(send)}/release", dict),
        [("reservation", "updated", 2, ("state",))],
    ),
    (
        *("POST", lambda _: CATEGORIES, lambda: {"json": new()}),
        [("category", "created", 1, ("name", "path", "slug"))],
    ),
    (
        *("PUT", a_category, lambda: {"json": new(description="D")}),
        [("category", "updated", 2, ("description", "name"))],
    ),
    (
        *("PATCH", nested_category, lambda: {"json": {"parent": None, "name": "M"}}),
        [("category", "updated", 2, ("name",))],
    ),
    (
        *("DELETE", a_category, dict),
        [("category", "deleted", 1, ("name", "path", "slug"))],
    ),
    (
        *("POST", lambda _: TAGS, lambda: {"json": new()}),
        [("tag", "created", 1, ("name", "slug"))],
    ),
    ("PUT", a_tag, lambda: {"json": new()}, [("tag", "updated", 2, ("name",))]),
    ("PATCH", a_tag, lambda: {"json": new()}, [("tag", "updated", 2, ("name",))]),
    ("DELETE", a_tag, dict, [("tag", "deleted", 1, ("name", "slug"))]),
    (
        *("PATCH", a_review, lambda: {"json": {"title": "Other"}}),
        [("review", "updated", 2, ("title",))],
    ),
    (
        *("POST", lambda send: f"{a_review(send)}/publish", dict),
        [("review", "updated", 2, ("state",))],
    ),
    (
        *("POST", lambda send: f"{a_review(send)}/reject"),
        lambda: {"json": {"note": "No"}},
        [("review", "updated", 2, ("note", "state"))],
    ),
    (
        *("DELETE", a_review, dict),
        [
            (
                *("review", "deleted", 1),
                ("author", "body", "product_id", "rating", "state", "subject", "title"),
            )
        ],
    ),
]
# Not sent as they are above: as somebody else, or with a query.
OTHERS = {("POST", f"{PRODUCTS}/<id>/reviews")}
# Nothing that the API shows as a thing with versions: thumbnails that worker makes, the
# words of searches, and GraphQL, which only reads.
NOTHING = {
    ("PUT", "/internal/pictures/<id>/<id>"),
    ("POST", "/internal/words/learn"),
    ("POST", "/internal/words/forget"),
    ("POST", "/api/v1/graphql"),
}


def rule(path):
    return re.sub(r"<[^>]+>|[0-9a-f]{8}-[0-9a-f-]{27}", "<id>", path)


class TestEveryWayToWrite:
    def test_is_in_the_table(self, app, world):
        routes = {
            (method, rule(str(route)))
            for route in app.url_map.iter_rules()
            for method in route.methods & {"POST", "PUT", "PATCH", "DELETE"}
        }

        tried = {(method, rule(path(world))) for method, path, _, _ in WRITES}

        assert routes - NOTHING == tried | OTHERS

    @pytest.mark.parametrize(("method", "path", "options", "expected"), WRITES)
    def test_leaves_a_row_for_each_change(
        self, world, changed, method, path, options, expected
    ):
        address = path(world)
        changed()

        answer = world(method, address, **options())

        assert answer.status_code < 300, answer.text
        assert answer.data is not None
        assert changed() == sorted(expected)

    @pytest.mark.parametrize(("method", "path", "options", "_expected"), WRITES)
    def test_leaves_none_when_refused(
        self, world, changed, customer, method, path, options, _expected
    ):
        address = path(world)
        gone = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", str(uuid4()), address, count=1)
        world.people["nobody"] = customer
        changed()

        for who, where, more in (
            ("nobody", address, {"If-Match": '"v9"'}),
            ("merchandiser", gone, {"If-Match": '"v9"'}),
            ("merchandiser", address, {"Accept": "image/png", "If-Match": '"v9"'}),
        ):
            if where == gone == address and "Accept" not in more:
                continue
            answer = world(method, where, who, headers=more, **options())
            assert answer.status_code >= 400, answer.text

        assert changed() == []

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            (a_product, {"stock": 9}),
            (a_category, {"parent": None}),
            (a_tag, {}),
            (an_image, {"alt": "A", "position": 0}),
            (a_review, {"title": "T"}),
        ],
    )
    def test_leaves_none_when_nothing_differs(self, world, changed, path, body):
        address = path(world)
        changed()

        world("PATCH", address, status=200, json=body)

        assert changed() == []

    def test_leaves_none_when_it_is_repeated(self, world, changed):
        item = new_product()
        key = {"Idempotency-Key": uuid4().hex}
        for _ in range(2):
            world("POST", PRODUCTS, status=201, json=item, headers=key)
        held = a_reservation(world)
        for _ in range(2):
            world("POST", f"{held}/commit", status=200)
        for _ in range(2):
            world("POST", f"{PRODUCTS}/bulk", json={"items": [item]}, status=200)
        review = a_review(world)
        for _ in range(2):
            world("POST", f"{review}/publish", status=200)

        found = changed()

        assert [row[:3] for row in found] == [
            ("product", "created", 1),
            ("product", "created", 1),
            ("product", "created", 1),
            ("product", "updated", 2),
            ("reservation", "created", 1),
            ("reservation", "updated", 2),
            ("review", "created", 1),
            ("review", "updated", 2),
        ]

    def test_of_a_customer_too(self, world, changed, rows):
        product = world.product()
        changed()

        world.review(product)

        (row,) = rows()
        assert (row.entity, row.action) == ("review", "created")

    def test_tells_of_what_goes_with_a_product(self, world, changed):
        address = full_product(world)
        changed()

        world("DELETE", f"{address}?permanently=true", "admin", 204)

        assert [row[:3] for row in changed()] == [
            ("image", "deleted", 1),
            ("product", "deleted", 2),
            ("review", "deleted", 1),
        ]

    def test_tells_of_what_moves_with_a_category(self, world, rows):
        address = nested_category(world)
        top = world("GET", address).json["slug"]
        rows()

        world("PATCH", address, status=200, json={"parent": world.other})

        found = rows()
        assert [row.action for row in found] == ["updated"] * 3
        assert found[0].changes == {
            "parent": {"from": None, "to": world.other},
            "path": {"from": [top], "to": [world.other, top]},
        }
        for row in found[1:]:
            path = row.changes["path"]
            assert path["to"] == [world.other, *path["from"]]

    def test_leaves_none_when_the_transaction_is_lost(
        self, real_app, real_sessions, merchandiser
    ):
        """The row, the change and the event are one."""
        count = select(func.count()).select_from(log)
        with real_sessions() as session:
            before = session.scalar(count)
        client = real_app.test_client()
        item = new_product()
        client.post(PRODUCTS, json=item, headers=merchandiser)

        twin = client.post(PRODUCTS, json=item, headers=merchandiser)

        assert twin.status_code == 409
        with real_sessions() as session:
            assert session.scalar(count) == before + 1


class TestCommands:
    @pytest.fixture
    def alone(self, app):
        """What a command has around it: no request, and nobody who asks."""

        @contextmanager
        def alone():
            with app.app_context(), bound_contextvars():
                clear_contextvars()
                yield

        return alone

    def test_forgetting_an_account_names_nobody(self, alone, world, session, rows):
        review = world.review(world.product(), body="My address is 1 Main Street")
        rows()

        with alone():
            reviews.forget_subject(session, UUID(review["subject"]))

        (row,) = rows()
        assert (row.actor, row.client, row.action) == ("system", None, "deleted")
        assert row.changes["body"] == row.changes["author"] == {}
        written = json.dumps([*session.scalars(select(log.c.changes))])
        assert "Main Street" not in written
        assert "Ada" not in written

    def test_rendering_anew_is_a_change(self, alone, world, session, rows):
        review = world.review(world.product())
        session.execute(
            text("update review set body_html = 'old' where id = :id"),
            {"id": review["id"]},
        )
        session.expire_all()
        rows()

        with alone():
            reviews.render_reviews(session, after=None)

        (row,) = rows()
        assert (row.entity, row.changes) == ("review", {"body_html": {}})

    def test_time_is_nobody(self, alone, world, session, rows):
        made = world.reservation(world.product(stock=3))
        session.execute(
            update(Reservation)
            .where(Reservation.id == made["id"])
            .values(expires_at=func.now() - text("interval '1 minute'"))
        )
        rows()

        with alone():
            assert holds.sweep(session, limit=10) == 1

        assert rows() == []


class TestRow:
    def test_says_who_and_when_and_in_which_request(self, world, rows, bearer):
        world.people["me"] = bearer("catalog:write", sub="me", client_id="script")
        headers = {
            "X-Request-ID": "my-request-1",
            "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
        }

        made = world("POST", TAGS, "me", json={"name": "T"}, headers=headers)

        (row,) = rows()
        assert (row.actor, row.client) == ("me", "script")
        assert (row.request_id, row.trace_id) == ("my-request-1", TRACE)
        assert str(row.entity_id) == made.json["id"]
        assert row.at is not None

    def test_is_of_who_asks_now(self, world, rows, bearer):
        """One thread serves one after the other."""
        for name in ("one", "two", "one"):
            world.people["me"] = bearer(
                "catalog:write", sub=name, client_id=f"c-{name}"
            )
            world("POST", TAGS, "me", 201, json=new())

        assert [(row.actor, row.client) for row in rows()] == [
            ("one", "c-one"),
            ("two", "c-two"),
            ("one", "c-one"),
        ]

    def test_says_what_was_and_what_became(self, world, rows):
        shelf = world.category()["slug"]
        address = a_product(world)
        rows()

        fields = {"stock": 0, "category": shelf, "attributes": {"a": [True, None]}}
        world("PATCH", address, status=200, json=fields)

        assert rows()[0].changes == {
            "stock": {"from": 9, "to": 0},
            "category": {"from": None, "to": shelf},
            "attributes": {"from": {}, "to": {"a": [True, None]}},
        }

    def test_of_a_bulk_upsert_says_the_same(self, world, rows):
        shelf = world.category()["slug"]
        tag = world.tag()["slug"]
        product = world.product(stock=9, category=shelf, description="Old")
        rows()
        fields = {
            "stock": 0,
            "category": None,
            "tags": [tag],
            "description": "New",
            "attributes": {"a": [True, None]},
        }

        world(
            *("POST", f"{PRODUCTS}/bulk"),
            json={"items": [{"sku": product["sku"], **fields}]},
        )

        (row,) = rows()
        assert row.changes == {
            "stock": {"from": 9, "to": 0},
            "category": {"from": shelf, "to": None},
            "tags": {"from": [], "to": [tag]},
            "description": {"from": "Old", "to": "New"},
            "attributes": {"from": {}, "to": {"a": [True, None]}},
        }
        assert (row.version, str(row.entity_id)) == (2, product["id"])

    @pytest.mark.parametrize("bulk", [False, True])
    def test_is_bounded(self, world, rows, bulk):
        product = world.product(description="a" * 5000)
        fields = {
            "description": "\N{SNOWMAN}" * 5000,
            "attributes": {f"key-{n}": "v" * 90 for n in range(60)},
        }
        rows()

        if bulk:
            item = {"sku": product["sku"], **fields}
            world("POST", f"{PRODUCTS}/bulk", json={"items": [item]})
        else:
            world("PATCH", f"{PRODUCTS}/{product['id']}", status=200, json=fields)

        changes = rows()[0].changes
        most = audit.VALUE_CHARACTERS_MAX
        assert changes["description"] == {
            "from": "a" * most,
            "to": "\N{SNOWMAN}" * most,
            "cut": True,
        }
        assert len(changes["attributes"]["to"]) == most
        assert changes["attributes"]["from"] == {}

    def test_of_a_bulk_upsert_is_made_in_one_statement(self, world, session):
        sent = []
        connection = session.connection()

        def note(_connection, _cursor, statement, *_):
            sent.append(statement)

        event.listen(connection, "before_cursor_execute", note)
        items = [new_product() for _ in range(300)]
        answer = world("POST", f"{PRODUCTS}/bulk", json={"items": items})
        event.remove(connection, "before_cursor_execute", note)

        assert answer.json["summary"]["created"] == 300
        assert sum("INSERT INTO audit" in statement for statement in sent) == 1


class TestListAudit:
    @pytest.fixture
    def operator(self, bearer):
        return bearer("ops:read")

    @pytest.fixture
    def ask(self, client, operator):
        def ask(**query):
            answer = client.get(AUDIT, query_string=query, headers=operator)
            assert answer.status_code == 200, answer.text
            return answer.json

        return ask

    def test_shows_the_newest_first(self, world, ask):
        product = world.product(stock=1)
        world("DELETE", f"{PRODUCTS}/{product['id']}")

        items = ask(id=product["id"])["items"]

        assert [item["action"] for item in items] == ["updated", "created"]
        first = items[0]
        assert first["changes"] == {"status": {"from": "active", "to": "archived"}}
        assert (first["entity"], first["id"]) == ("product", product["id"])
        assert first["version"] == 2
        assert datetime.fromisoformat(first["at"]).tzinfo

    def test_filters(self, world, ask, bearer):
        world.people["me"] = bearer("catalog:write", sub="filter-me")
        product = world.product()
        world("POST", TAGS, "me", json=new())
        world("PATCH", f"{PRODUCTS}/{product['id']}", "me", json={"stock": 1})

        def found(**query):
            return [(row["entity"], row["action"]) for row in ask(**query)["items"]]

        mine = [("product", "updated"), ("tag", "created")]
        assert found(actor="filter-me") == mine
        assert found(actor="filter-me", entity="tag") == mine[1:]
        assert found(actor="filter-me", id=product["id"]) == mine[:1]
        assert found(actor="nobody") == []
        assert {entity for entity, _ in found(entity="tag")} == {"tag"}

    @pytest.fixture
    def dated(self, session):
        """Make things have been changed at these times, and all others long before."""

        def dated(times):
            session.execute(update(log).values(at=datetime(2026, 2, 1, tzinfo=UTC)))
            for id_, time in times.items():
                at = datetime.fromisoformat(f"2026-03-01T{time}:00Z")
                session.execute(update(log).where(log.c.entity_id == id_).values(at=at))

        return dated

    def test_filters_by_time(self, world, ask, dated):
        products = [world.product() for _ in range(5)]
        dated({one["id"]: f"12:0{n}" for n, one in enumerate(products)})
        ids = [one["id"] for one in products]

        def found(**query):
            return [row["id"] for row in reversed(ask(**query, limit=100)["items"])]

        def shown(**query):
            return [ids.index(one) for one in found(**query) if one in ids]

        assert shown(since="2026-03-01T12:02:00Z") == [2, 3, 4]
        assert shown(until="2026-03-01T12:02:00Z") == [0, 1]
        assert shown(since="2026-03-01T13:01:00+01:00", until="2026-03-01T12:03Z") == [
            1,
            2,
        ]
        assert found(since="2026-03-01T12:03Z", until="2026-03-01T12:03Z") == []
        assert found(since="2999-01-01T00:00Z") == []
        assert found(until="1999-01-01T00:00Z") == []
        assert shown(since="0001-01-01T00:00Z", until="9999-12-31T23:59:59Z") == [
            *range(5)
        ]
        assert found(until="2026-03-01T12:03Z", id=ids[1]) == [ids[1]]

    def test_finds_what_was_begun_before_and_written_after_others(
        self, world, ask, dated
    ):
        late, early = world.product(), world.product()
        # The first number has the later time: it was not open for as long.
        dated({late["id"]: "12:30", early["id"]: "12:00"})

        def found(**query):
            return [row["id"] for row in ask(**query)["items"]]

        assert found(until="2026-03-01T12:10Z")[0] == early["id"]
        assert late["id"] not in found(until="2026-03-01T12:10Z")
        assert late["id"] in found(since="2026-03-01T12:10Z")
        assert early["id"] not in found(since="2026-03-01T12:10Z")

    def test_pages_neither_repeat_nor_hide(self, world, ask):
        product = world.product()
        path = f"{PRODUCTS}/{product['id']}"
        for stock in range(1, 8):
            world("PATCH", path, json={"stock": stock})
        seen, cursor = [], {}
        while True:
            page = ask(id=product["id"], limit=3, **cursor)
            seen += [item["version"] for item in page["items"]]
            world("PATCH", path, json={"stock": 100 + len(seen)})
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}

        assert seen == list(range(8, 0, -1))

    def test_a_cursor_is_of_its_filters(self, world, ask, client, operator):
        for _ in range(2):
            world.tag()
        cursor = ask(entity="tag", limit=1)["next_cursor"]

        answer = client.get(
            AUDIT, query_string={"cursor": cursor, "limit": 1}, headers=operator
        )

        assert answer.status_code == 422

    @pytest.mark.parametrize(
        "query",
        [
            *("entity=user", "id=7", "actor=", "limit=0", "what=1", "cursor=x"),
            *("since=yesterday", "until=2026-03-01T12:00:00", "since=&until="),
        ],
    )
    def test_refuses_what_it_does_not_know(
        self, client, operator, query, assert_problem
    ):
        assert_problem(client.get(f"{AUDIT}?{query}", headers=operator), 422)

    def test_needs_the_scope(self, client, merchandiser, assert_problem):
        assert_problem(client.get(AUDIT), 401)
        assert_problem(client.get(AUDIT, headers=merchandiser), 403, "scope-missing")

    def test_is_for_nobody_to_write(self, client, admin, operator, assert_problem):
        for headers in (admin, operator):
            for method in ("POST", "PUT", "PATCH", "DELETE"):
                answer = client.open(AUDIT, method=method, headers=headers)
                assert answer.status_code in {405, 415}

    def test_comes_as_csv_too(self, world, client, operator):
        world.tag()

        answer = client.get(f"{AUDIT}?entity=tag&format=csv", headers=operator)

        assert answer.mimetype == "text/csv"
        assert answer.text.startswith("sequence,at,actor,client,action,entity,id")
        assert "private" in answer.headers["Cache-Control"]


class TestRetention:
    @pytest.mark.parametrize("days", [29, 0, -1])
    def test_is_a_month_at_least(self, make_settings, database_url, days):
        with pytest.raises(ValueError, match="audit_days"):
            make_settings(database_url, audit_days=days)

    def test_is_a_year_and_a_bit_if_nothing_is_said(self):
        assert Settings.model_fields["audit_days"].default == 400
