"""Every status of an error that the document promises can be had."""

import io
import json
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from PIL import Image
from sqlalchemy import text

from flagon_chassis.testing import free_port

from .conftest import CATEGORIES, PRODUCTS, TAGS

DOCUMENT = json.loads(
    (Path(__file__).parents[3] / "docs/api/openapi.json").read_text()
)["paths"]
OURS = {
    *("audit", "categories", "graphql", "products", "reservations", "reviews", "tags")
}
OPERATIONS = {
    operation["operationId"]: (path, method, operation)
    for path, item in DOCUMENT.items()
    if path.split("/")[3] in OURS
    for method, operation in item.items()
}
NEVER = {
    # A product with too many words is told of in its line; the document is made from the
    # source, which reads as if it might get out.
    ("upsert_product_lines", 422),
}
PROMISED = [
    (name, int(status))
    for name, (_, _, operation) in OPERATIONS.items()
    for status in operation["responses"]
    if status.isdigit() and int(status) >= 400 and (name, int(status)) not in NEVER
]
QUERY = (files("flagon_catalog") / "queries/ProductList.graphql").read_bytes().strip()
PERSISTED = {"persistedQuery": {"version": 1, "sha256Hash": sha256(QUERY).hexdigest()}}
SUB = str(UUID(int=7))
NOWHERE = str(UUID(int=0))
MERGE = "application/merge-patch+json"
NDJSON = "application/x-ndjson"


def unique():
    return f"s-{uuid4().hex[:12]}"


def product():
    sku = unique()
    return {"sku": sku, "name": sku, "price_minor": 1, "stock": 5}


def picture():
    file = io.BytesIO()
    colour = tuple(uuid4().bytes[:3])
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


# What each operation takes when nothing is wrong with it; called for each request.
BODIES = {
    "create_category": lambda: {"name": unique()},
    "replace_category": lambda: {"name": unique()},
    "change_category": lambda: {"name": unique()},
    "create_tag": lambda: {"name": unique()},
    "replace_tag": lambda: {"name": unique()},
    "change_tag": lambda: {"name": unique()},
    "create_product": product,
    "replace_product": product,
    "change_product": lambda: {"name": unique()},
    "upsert_products": lambda: {"items": [product()]},
    "change_image": lambda: {"alt": unique()},
    "reserve_stock": lambda: {"quantity": 1},
    "create_review": lambda: {"rating": 5, "author": "A", "title": "T", "body": "B"},
    "change_review": lambda: {"title": unique()},
    "reject_review": lambda: {"note": "No."},
    "query_graphql": lambda: {"query": "{ products(first: 1) { nodes { id } } }"},
}


class Asker:
    """Sends requests to an app: as they should be, but for what is said."""

    def __init__(self, app, bearer, things=None):
        self.client = app.test_client()
        self.app = app
        self.bearer = bearer
        self.things = things or {}
        scopes = (
            *("catalog:write", "catalog:purge", "ops:read"),
            *("reviews:write", "reviews:moderate"),
        )
        self.full = bearer(*scopes, sub=SUB, roles=["merchandiser"])

    def send(self, name, **wrong):
        path, method, operation = OPERATIONS[name]
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path":
                key = parameter["name"]
                ids = wrong.get("ids", self.things)
                # Categories and tags have slugs too.
                value = ids.get(name, ids.get(key, NOWHERE))
                path = path.replace(f"{{{key}}}", value)
        headers = {"If-Match": '"v0"', **self.full}
        if name in {"query_graphql", "query_graphql_by_hash"}:
            headers["Accept"] = "application/json"
        sent = self._body(name, wrong)
        headers.update(sent.pop("headers", {}))
        headers.update(wrong.get("headers", {}))
        headers = {key: value for key, value in headers.items() if value is not None}
        query = wrong.get("query", "")
        if name == "query_graphql_by_hash" and not query:
            sent["query_string"] = {"extensions": json.dumps(PERSISTED)}
        elif query:
            path += f"?{query}"
        return self.client.open(path, method=method.upper(), headers=headers, **sent)

    def _body(self, name, wrong):
        if "data" in wrong:
            kind = {"change": MERGE}.get(name.split("_")[0], "application/json")
            kind = {"upsert_product_lines": NDJSON}.get(name, kind)
            kind = {"add_image": "multipart/form-data; boundary=b"}.get(name, kind)
            return {"data": wrong["data"], "headers": {"Content-Type": kind}}
        if name == "upsert_product_lines":
            line = json.dumps(wrong.get("json", product())).encode()
            return {"data": line, "headers": {"Content-Type": NDJSON}}
        if name == "add_image":
            if "json" in wrong:
                return {"data": wrong["json"], "content_type": "multipart/form-data"}
            file = (io.BytesIO(wrong.get("picture", picture())), "a.png")
            return {"data": {"file": file}}
        if "json" in wrong:
            return {"json": wrong["json"]}
        return {"json": BODIES[name]()} if name in BODIES else {}

    def twice(self, name):
        """Send it while the very same is under way."""
        path, method, _ = OPERATIONS[name]
        for key, value in self.things.items():
            path = path.replace(f"{{{key}}}", value)
        key = unique()
        with self.app.extensions["flagon.sessions"].begin() as session:
            session.execute(
                text("select pg_advisory_xact_lock(hashtextextended(:name, 0))"),
                {"name": f"{SUB} {method.upper()} {path} {key}"},
            )
            return self.send(name, headers={"Idempotency-Key": key})

    def conflict(self, name):
        """Send what is at odds with what is there."""
        make = {
            "replace_category": lambda: self.on(CATEGORIES, {"slug": unique()}),
            "change_category": lambda: self.on(CATEGORIES, {"slug": unique()}),
            "delete_category": lambda: self.used(CATEGORIES),
            "replace_tag": lambda: self.on(TAGS, {"slug": unique()}),
            "change_tag": lambda: self.on(TAGS, {"slug": unique()}),
            "delete_tag": lambda: self.used(TAGS),
            "replace_product": lambda: self.taken(whole=True),
            "change_product": lambda: self.taken(whole=False),
            "delete_product": self.held,
        }
        if name not in make:
            return self.twice(name)
        ids, fields, tag = make[name]()
        more = {} if fields is None else {"json": fields}
        if name == "delete_product":
            # What is held keeps nobody from taking it out of the shop.
            more["query"] = "permanently=true"
        return self.send(name, ids=ids, headers={"If-Match": tag}, **more)

    def made(self, path, body):
        answer = self.client.post(path, json=body, headers=self.full)
        assert answer.status_code == 201, answer.text
        return answer.json, answer.headers["ETag"]

    def on(self, path, fields):
        view, tag = self.made(path, {"name": unique()})
        key = "category_id" if path == CATEGORIES else "tag_id"
        return {key: view["id"]}, {"name": "N", **fields}, tag

    def used(self, path):
        ids, _, tag = self.on(path, {})
        (key,) = ids
        kind = "categories" if path == CATEGORIES else "tags"
        view = self.client.get(f"/api/v1/{kind}/{ids[key]}").json
        slug = view["slug"]
        more = {"category": slug} if path == CATEGORIES else {"tags": [slug]}
        self.made(PRODUCTS, {**product(), **more})
        return ids, None, tag

    def taken(self, *, whole):
        other, _ = self.made(PRODUCTS, product())
        view, tag = self.made(PRODUCTS, product())
        fields = {**product(), "stock": 5} if whole else {}
        return {"product_id": view["id"]}, {**fields, "sku": other["sku"]}, tag

    def held(self):
        view, _ = self.made(PRODUCTS, product())
        place = f"{PRODUCTS}/{view['id']}"
        self.made(f"{place}/reservations", {"quantity": 1})
        tag = self.client.get(place, headers=self.full).headers["ETag"]
        return {"product_id": view["id"]}, None, tag


@pytest.fixture(scope="module")
def url(migrated):
    return migrated()


@pytest.fixture(scope="module")
def asker(url, make_app, bearer):
    """An asker with one thing of each kind that there is."""
    asker = Asker(make_app(url), bearer)
    things = asker.things
    view, _ = asker.made(CATEGORIES, {"name": unique()})
    things |= {"category_id": view["id"], "find_category_by_slug": view["slug"]}
    view, _ = asker.made(TAGS, {"name": unique()})
    things |= {"tag_id": view["id"], "find_tag_by_slug": view["slug"]}
    view, _ = asker.made(PRODUCTS, product())
    things |= {"product_id": view["id"], "sku": view["sku"], "slug": view["slug"]}
    for name, key in (
        ("create_review", "review_id"),
        ("reserve_stock", "reservation_id"),
        ("add_image", "image_id"),
    ):
        answer = asker.send(name)
        assert answer.status_code == 201, answer.text
        things[key] = answer.json["id"]
    return asker


@pytest.fixture(scope="module")
def narrow(url, make_app, bearer, asker):
    """The same, which takes next to nothing."""
    sizes = ("body", "bulk", "lines", "image")
    limits = {f"{size}_bytes_max": 10 for size in sizes}
    return Asker(make_app(url, answer_seconds=0, **limits), bearer, asker.things)


@pytest.fixture(scope="module")
def slow(url, make_app, bearer, asker):
    """The same, which has had enough."""
    app = make_app(url, answer_seconds=0, rate_limit="1 per day")
    return Asker(app, bearer, asker.things)


@pytest.fixture(scope="module")
def down(make_app, bearer, asker):
    """The same without a database."""
    nowhere = f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none"
    app = make_app(nowhere, owner_database_url=None, answer_seconds=0)
    return Asker(app, bearer, asker.things)


def bad_request(asker, name):
    """Send what cannot be understood: a body that is no JSON, or the same thing twice."""
    if name in BODIES:
        return asker.send(name, data=b"{")
    return asker.send(name, query="limit=1&limit=2")


def forbidden(asker, name):
    """Send it as somebody who may nothing; what anybody may list, with hidden things."""
    asked = {"list_products": "status=draft", "list_reviews": "state=pending"}
    nobody = asker.bearer(sub=str(uuid4()))
    return asker.send(name, headers=nobody, query=asked.get(name, ""))


def unprocessable(asker, name):
    """Send what is understood and makes no sense."""
    if name in BODIES or name == "add_image":
        return asker.send(name, json={"nope": "1"})
    if name.startswith("find_"):
        return asker.send(name, query="fields=nope")
    if OPERATIONS[name][1] == "post":
        return asker.send(name, headers={"Idempotency-Key": "a b"})
    return asker.send(name, query="nope=1")


def too_large(asker, name):
    """Send more than is taken, in the form that is."""
    if name == "add_image":
        return asker.send(name, picture=bytes(400_000))
    return asker.send(name, data=b" " * 1000)


ASKED = {
    400: bad_request,
    401: lambda asker, name: asker.send(
        name, headers={"Authorization": "Bearer nonsense"}
    ),
    403: forbidden,
    404: lambda asker, name: asker.send(name, ids={"sku": "none", "slug": "none"}),
    406: lambda asker, name: asker.send(name, headers={"Accept": "image/png"}),
    409: Asker.conflict,
    412: lambda asker, name: asker.send(name, headers={"If-Match": '"v999-none"'}),
    413: too_large,
    415: lambda asker, name: asker.send(
        name, headers={"Content-Type": "text/plain"}, data=b"x"
    ),
    422: unprocessable,
    428: lambda asker, name: asker.send(name, headers={"If-Match": None}),
    429: lambda asker, name: [asker.send(name) for _ in "12"][-1],
    503: lambda asker, name: asker.send(name),
}
"""How each status is had; one that the document promises and that is not here fails."""


class TestErrors:
    @pytest.mark.parametrize(("name", "status"), PROMISED)
    def test_that_are_promised_can_be_had(
        self, request, asker, name, status, assert_problem
    ):
        special = {413: "narrow", 429: "slow", 503: "down"}
        if status in special:
            asker = request.getfixturevalue(special[status])

        answer = ASKED[status](asker, name)

        if "graphql" in name and answer.mimetype != "application/problem+json":
            assert answer.status_code == status, answer.text
        else:
            assert_problem(answer, status)

    def test_are_all_of_the_catalog(self, asker):
        there = {
            rule.rule
            for rule in asker.app.url_map.iter_rules()
            if rule.rule.startswith("/api/")
        }
        assert len(there) == len({path for path, _, _ in OPERATIONS.values()})
