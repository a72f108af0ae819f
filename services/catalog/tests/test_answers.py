"""Kept answers: fast, shared by strangers alone, and gone with the next change."""

from functools import partial
from uuid import uuid4

import pytest
from sqlalchemy import event

from flagon_chassis.testing import free_port

from .conftest import CATEGORIES, PRODUCTS, TAGS

LISTS = [
    PRODUCTS,
    f"{PRODUCTS}?facets=category,tag&include=category",
    CATEGORIES,
    TAGS,
]


@pytest.fixture(scope="module")
def app(real_app):
    """An app whose transactions end; the answers of other tests are gone."""
    return real_app


@pytest.fixture
def client(app):
    app.extensions["flagon.answers"].changed()
    return app.test_client()


@pytest.fixture
def uncached(app, make_app):
    """Another app at the same database that keeps no answers."""
    url = app.extensions["flagon.settings"].database_url.get_secret_value()
    return make_app(url, answer_seconds=0).test_client()


@pytest.fixture
def statements(app):
    """What the app asks its database."""
    found = []
    pool = app.extensions["flagon.sessions"].kw["bind"]

    def note(_connection, _cursor, statement, *_more):
        found.append(statement)

    event.listen(pool, "before_cursor_execute", note)
    yield found
    event.remove(pool, "before_cursor_execute", note)


class TestLists:
    @pytest.mark.parametrize("path", LISTS)
    def test_ask_the_database_once(self, client, make, statements, path):
        make()
        first = client.get(path)
        statements.clear()

        second = client.get(path)

        assert statements == []
        assert (second.status_code, second.data) == (200, first.data)
        for name in ("Content-Type", "Cache-Control", "Vary", "ETag", "Link"):
            assert second.headers.get(name) == first.headers.get(name)

    def test_the_order_of_a_query_does_not_matter(self, client, statements):
        client.get(f"{PRODUCTS}?limit=1&sort=name")
        statements.clear()

        client.get(f"{PRODUCTS}?sort=name&limit=1")

        assert statements == []

    def test_each_format_has_its_own(self, client, make):
        make()
        found = [
            client.get(PRODUCTS, headers={"Accept": accept}).mimetype
            for accept in ("text/csv", "application/json", "text/csv", "*/*")
        ]

        assert found == ["text/csv", "application/json"] * 2

    def test_head_and_get_share_one(self, client, statements, make):
        make()
        whole = client.get(PRODUCTS)
        statements.clear()

        head = client.head(PRODUCTS)

        assert (statements, head.data) == ([], b"")
        assert head.headers["Content-Length"] == whole.headers["Content-Length"]

    @pytest.mark.parametrize("path", LISTS)
    def test_have_a_strong_tag_of_their_bytes(self, client, make, path):
        product = make()
        first = client.get(path)
        again = client.get(path, headers={"If-None-Match": first.headers["ETag"]})

        assert not first.headers["ETag"].startswith("W/")
        assert (again.status_code, again.data) == (304, b"")
        assert again.headers["Cache-Control"] == first.headers["Cache-Control"]
        if path.startswith(PRODUCTS):
            make()
            changed = client.get(path, headers={"If-None-Match": first.headers["ETag"]})
            assert changed.status_code == 200
            assert changed.data != first.data
        assert product["id"]

    def test_a_refusal_is_not_kept(self, client, assert_problem):
        found = {
            assert_problem(client.get(f"{PRODUCTS}?cursor=x"), 422)["instance"]
            for _ in range(2)
        }

        assert len(found) == 2


class TestChanges:
    """Each kind of change, made through the API, is in the next answer to a stranger."""

    @pytest.fixture
    def everyone_sees(self, client, uncached):
        """Check that every list is what it would be if none were kept."""

        def check():
            for path in LISTS:
                shown = client.get(path)
                assert shown.status_code == 200, shown.text
                assert shown.data == uncached.get(path).data

        return check

    @pytest.fixture
    def send(self, client, merchandiser):
        def send(method, path, headers=merchandiser, **options):
            etag = options.pop("etag", None)
            more = {"If-Match": etag} if etag else {}
            answer = client.open(
                path, method=method, headers={**headers, **more}, **options
            )
            assert answer.status_code < 300, answer.text
            return answer

        return send

    def test_of_products(self, everyone_sees, make, send, new_product, admin):
        everyone_sees()
        product = make(stock=3)
        everyone_sees()
        place = f"{PRODUCTS}/{product['id']}"
        etag = send(
            "PATCH", place, json={"price_minor": 1}, etag=product["etag"]
        ).headers["ETag"]
        everyone_sees()
        send("DELETE", place, etag=etag)
        everyone_sees()
        send("PATCH", place, json={"status": "active"}, etag="*")
        everyone_sees()
        send("DELETE", f"{place}?permanently=true", headers=admin, etag="*")
        everyone_sees()
        send("POST", f"{PRODUCTS}/bulk", json={"items": [new_product()]})
        everyone_sees()

    def test_of_stock(self, everyone_sees, make, send, bearer):
        product = make(stock=3)
        everyone_sees()
        seller = bearer("catalog:write", sub=f"checkout-{uuid4().hex[:6]}")
        held = send(
            "POST",
            f"{PRODUCTS}/{product['id']}/reservations",
            headers=seller,
            json={"quantity": 2},
        )
        everyone_sees()
        place = f"/api/v1/reservations/{held.json['id']}"
        send("POST", f"{place}/release", headers=seller)
        everyone_sees()

    def test_of_reviews(self, everyone_sees, make, send, bearer):
        product = make()
        everyone_sees()
        written = send(
            "POST",
            f"{PRODUCTS}/{product['id']}/reviews",
            headers=bearer("reviews:write"),
            json={"rating": 5, "author": "Ann", "title": "Good", "body": "It holds."},
        )
        everyone_sees()
        send(
            "POST",
            f"/api/v1/reviews/{written.json['id']}/publish",
            json={},
            etag=written.headers["ETag"],
        )
        everyone_sees()

    def test_of_categories_and_tags(
        self, everyone_sees, make_category, make_tag, make, send
    ):
        everyone_sees()
        category = make_category()
        everyone_sees()
        make(category=category["slug"])
        everyone_sees()
        place = f"{CATEGORIES}/{category['id']}"
        send("PATCH", place, json={"name": f"Other {uuid4()}"}, etag=category["etag"])
        everyone_sees()
        tag = make_tag()
        everyone_sees()
        send("DELETE", f"{TAGS}/{tag['id']}", etag=tag["etag"])
        everyone_sees()


class TestPrivacy:
    def test_what_one_may_see_is_never_anothers(
        self, client, make, merchandiser, customer
    ):
        make(status="draft", name="Secret of tomorrow")
        ask = partial(client.get, PRODUCTS, query_string={"limit": 100})
        drafts = partial(
            client.get, PRODUCTS, query_string={"limit": 100, "status": "draft"}
        )

        # Whoever asks first, and in whatever order.
        for _ in range(2):
            assert "Secret of tomorrow" in drafts(headers=merchandiser).text
            assert (
                ask(headers=merchandiser).headers["Cache-Control"].startswith("private")
            )
            for headers in ({}, customer):
                assert "Secret of tomorrow" not in ask(headers=headers).text
                assert drafts(headers=headers).status_code == 403
                assert (
                    ask(headers=headers).headers["Cache-Control"].startswith("public")
                )

    def test_who_may_change_the_catalog_is_always_answered_from_it(
        self, client, merchandiser, statements
    ):
        for _ in range(2):
            statements.clear()
            client.get(PRODUCTS, headers=merchandiser)
            assert statements


class TestWithoutCache:
    def test_is_slower_and_right(self, app, make_app, client, make):
        url = app.extensions["flagon.settings"].database_url.get_secret_value()
        away = make_app(
            url, redis_cache_url=f"redis://127.0.0.1:{free_port()}/0"
        ).test_client()
        make()
        before = away.get(PRODUCTS)
        product = make()

        after = away.get(PRODUCTS)

        assert (before.status_code, after.status_code) == (200, 200)
        assert product["id"] in after.text
        assert product["id"] not in before.text
