"""What happens at the same time: real transactions of several threads."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from uuid import uuid4

import pytest
from sqlalchemy import func, select

from flagon_catalog.domain import bulk, categories, products
from flagon_catalog.models import Product
from flagon_chassis.tables import idempotency_key, outbox

from .conftest import wait_until_blocked

PRODUCTS = "/api/v1/products"
WAIT = 10


@pytest.fixture
def real_client(real_app):
    return real_app.test_client


@pytest.fixture
def product(real_client, merchandiser, new_product):
    answer = real_client().post(PRODUCTS, json=new_product(), headers=merchandiser)
    return {**answer.json, "etag": answer.headers["ETag"]}


@pytest.fixture
def events(real_sessions):
    def events(subject):
        with real_sessions() as session:
            rows = session.execute(
                select(outbox.c.body)
                .where(outbox.c.subject == subject)
                .order_by(outbox.c.sequence)
            )
            return [row.body for row in rows]

    return events


class TestIfMatch:
    def test_lets_one_of_many_changes_win(
        self, together, real_client, merchandiser, product, events, assert_problem
    ):
        def change(price):
            return real_client().patch(
                f"{PRODUCTS}/{product['id']}",
                json={"price_minor": price},
                headers={**merchandiser, "If-Match": product["etag"]},
            )

        answers = together(change, [1, 2, 3, 4, 5, 6])

        won = [answer for answer in answers if answer.status_code == 200]
        assert len(won) == 1
        for answer in answers:
            if answer is not won[0]:
                assert_problem(answer, 412, "version-stale")
        shown = real_client().get(f"{PRODUCTS}/{product['id']}").json
        assert shown == won[0].json
        assert shown["version"] == 2
        assert len(events(product["id"])) == 2

    def test_loses_no_update_when_all_try_again(
        self, together, real_client, merchandiser, product, events
    ):
        url = f"{PRODUCTS}/{product['id']}"

        def count(_):
            while True:
                seen = real_client().get(url)
                answer = real_client().patch(
                    url,
                    json={"stock": seen.json["stock"] + 1},
                    headers={**merchandiser, "If-Match": seen.headers["ETag"]},
                )
                if answer.status_code == 200:
                    return
                assert answer.status_code == 412

        together(count, range(5))

        assert real_client().get(url).json["stock"] == 5
        told = [event["data"]["stock"] for event in events(product["id"])]
        assert told == [0, 1, 2, 3, 4, 5]


class TestIdempotencyKey:
    def test_has_one_effect_for_many_twins(
        self, together, real_client, real_sessions, merchandiser, new_product
    ):
        body, key = new_product(), uuid4().hex

        def create(_):
            return real_client().post(
                PRODUCTS, json=body, headers={**merchandiser, "Idempotency-Key": key}
            )

        answers = together(create, range(6))

        for answer in answers:
            if answer.status_code == 409:
                assert answer.json["type"].endswith("#twin-in-progress")
                assert int(answer.headers["Retry-After"]) >= 1
            else:
                assert answer.status_code == 201
        assert len({a.data for a in answers if a.status_code == 201}) == 1
        with real_sessions() as session:
            made = select(func.count()).where(Product.sku == body["sku"])
            assert session.scalar(made) == 1

    def test_tells_a_twin_that_the_first_is_under_way(
        self, real_app, real_client, merchandiser, new_product, monkeypatch
    ):
        body, headers = new_product(), {**merchandiser, "Idempotency-Key": uuid4().hex}
        begun, go_on = Event(), Event()
        create = products.create_product

        def slow(session, fields):
            begun.set()
            assert go_on.wait(WAIT)
            return create(session, fields)

        monkeypatch.setattr(products, "create_product", slow)
        with ThreadPoolExecutor() as pool:
            first = pool.submit(
                lambda: real_client().post(PRODUCTS, json=body, headers=headers)
            )
            assert begun.wait(WAIT)
            twin = real_client().post(PRODUCTS, json=body, headers=headers)
            go_on.set()

        assert twin.status_code == 409
        assert twin.headers["Retry-After"] == "1"
        assert first.result().status_code == 201
        again = real_client().post(PRODUCTS, json=body, headers=headers)
        assert again.data == first.result().data

    def test_is_stored_exactly_when_the_effect_is(
        self, real_client, real_sessions, merchandiser, new_product, monkeypatch
    ):
        body, key = new_product(), uuid4().hex
        headers = {**merchandiser, "Idempotency-Key": key}

        def break_down(*_args):
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(products, "emit_changed", break_down)
            answer = real_client().post(PRODUCTS, json=body, headers=headers)

        assert answer.status_code == 500
        assert "ZeroDivision" not in answer.text
        with real_sessions() as session:
            kept = select(func.count()).where(idempotency_key.c.key == key)
            made = select(func.count()).where(Product.sku == body["sku"])
            assert session.scalar(kept) == session.scalar(made) == 0
        again = real_client().post(PRODUCTS, json=body, headers=headers)
        assert again.status_code == 201


class TestCreateProduct:
    def test_gives_a_sku_once(self, together, real_client, merchandiser, new_product):
        body = new_product()

        answers = together(
            lambda _: real_client().post(PRODUCTS, json=body, headers=merchandiser),
            range(5),
        )

        assert sorted(answer.status_code for answer in answers) == [201, *[409] * 4]

    def test_gives_each_a_slug_of_its_own(
        self, together, real_client, merchandiser, new_product
    ):
        name = f"Equal {uuid4().hex}"

        answers = together(
            lambda _: real_client().post(
                PRODUCTS, json=new_product(name=name), headers=merchandiser
            ),
            range(5),
        )

        assert [answer.status_code for answer in answers] == [201] * 5
        assert len({answer.json["slug"] for answer in answers}) == 5


class TestChangeProduct:
    def test_shows_the_category_that_is_current(
        self, real_app, real_client, real_sessions, merchandiser, product
    ):
        """A row that was waited for is not joined with what it belonged to before."""
        slug = f"shelf-{uuid4().hex[:8]}"
        with (
            ThreadPoolExecutor() as pool,
            real_app.test_request_context(),
            real_sessions.begin() as session,
        ):
            categories.ensure_categories(session, [slug])
            locked = products.lock_product(session, id=product["id"])
            products.change_product(session, locked, {"category": slug})
            waiting = pool.submit(
                lambda: real_client().patch(
                    f"{PRODUCTS}/{product['id']}",
                    json={"stock": 6},
                    headers={**merchandiser, "If-Match": "*"},
                )
            )
            wait_until_blocked(session)
            session.commit()
            answer = waiting.result(WAIT)

        assert (answer.json["stock"], answer.json["category"]) == (6, slug)


class TestUpsertProducts:
    def items(self, mark, price):
        return [
            {
                "sku": f"{mark}-{number}",
                "name": f"Same name {mark}",
                "price_minor": price,
                "category": f"shelf-{mark}-{number % 3}",
            }
            for number in range(40)
        ]

    def test_in_any_order_neither_deadlocks_nor_doubles(
        self, together, real_client, real_sessions, merchandiser, events
    ):
        mark = uuid4().hex[:8]

        def upsert(price):
            items = self.items(mark, price)
            if price % 2:
                items.reverse()
            return real_client().post(
                f"{PRODUCTS}/bulk", json={"items": items}, headers=merchandiser
            )

        answers = together(upsert, [1, 2, 3, 4])

        assert [answer.status_code for answer in answers] == [200] * 4
        created = sum(answer.json["summary"]["created"] for answer in answers)
        updated = sum(answer.json["summary"]["updated"] for answer in answers)
        assert (created, updated) == (40, 120)
        with real_sessions() as session:
            rows = session.execute(
                select(Product.id, Product.version, Product.price_minor).where(
                    Product.sku.startswith(f"{mark}-")
                )
            ).all()
        assert len(rows) == 40
        assert {row.version for row in rows} == {4}
        told = events(str(rows[0].id))
        assert [event["data"]["version"] for event in told] == [1, 2, 3, 4]
        assert told[-1]["data"]["price_minor"] == rows[0].price_minor

    def test_keeps_what_others_changed_meanwhile(
        self, real_app, real_client, real_sessions, merchandiser, product
    ):
        """A field that an item leaves out is never written back from an old reading."""
        with (
            ThreadPoolExecutor() as pool,
            real_app.test_request_context(),
            real_sessions.begin() as session,
        ):
            locked = products.lock_product(session, id=product["id"])
            products.change_product(session, locked, {"stock": 77})
            waiting = pool.submit(
                lambda: real_client().post(
                    f"{PRODUCTS}/bulk",
                    json={"items": [{"sku": product["sku"], "price_minor": 5}]},
                    headers=merchandiser,
                )
            )
            # The bulk upsert has read its snapshot and now waits for the row.
            wait_until_blocked(session)
            session.commit()
            assert waiting.result(WAIT).json["summary"]["updated"] == 1

        shown = real_client().get(f"{PRODUCTS}/{product['id']}").json
        assert (shown["stock"], shown["price_minor"]) == (77, 5)
        assert shown["version"] == 3

    def test_sees_a_product_that_another_makes_at_that_moment(
        self, real_app, real_client, real_sessions, merchandiser, new_product
    ):
        sku = f"race-{uuid4().hex[:8]}"
        with (
            ThreadPoolExecutor() as pool,
            real_app.test_request_context(),
            real_sessions.begin() as session,
        ):
            bulk.upsert_products(
                session,
                [{"sku": sku, "name": "N", "price_minor": 1, "description": "Kept"}],
            )
            waiting = pool.submit(
                lambda: real_client().post(
                    f"{PRODUCTS}/bulk",
                    json={"items": [{"sku": sku, "name": "N", "price_minor": 2}]},
                    headers=merchandiser,
                )
            )
            wait_until_blocked(session)
            session.commit()
            assert waiting.result(WAIT).json["summary"]["updated"] == 1

        shown = real_client().get(f"{PRODUCTS}/by-sku/{sku}").json
        assert (shown["price_minor"], shown["description"]) == (2, "Kept")
        assert shown["version"] == 2

    def test_finds_another_slug_when_one_is_taken_at_that_moment(
        self, real_app, real_client, real_sessions, merchandiser
    ):
        name = f"Contended {uuid4().hex}"
        with (
            ThreadPoolExecutor() as pool,
            real_app.test_request_context(),
            real_sessions.begin() as session,
        ):
            bulk.upsert_products(
                session, [{"sku": uuid4().hex, "name": name, "price_minor": 1}]
            )
            waiting = pool.submit(
                lambda: real_client().post(
                    f"{PRODUCTS}/bulk",
                    json={
                        "items": [{"sku": uuid4().hex, "name": name, "price_minor": 2}]
                    },
                    headers=merchandiser,
                )
            )
            wait_until_blocked(session)
            session.commit()

            assert waiting.result(WAIT).json["summary"]["created"] == 1


class TestDeleteCategory:
    def test_never_leaves_a_product_without_its_category(
        self, together, real_client, merchandiser, new_product
    ):
        for _ in range(5):
            slug = f"shelf-{uuid4().hex[:8]}"
            category = real_client().post(
                "/api/v1/categories",
                json={"name": "S", "slug": slug},
                headers=merchandiser,
            )
            calls = [
                lambda category=category: real_client().delete(
                    category.headers["Location"],
                    headers={**merchandiser, "If-Match": "*"},
                ),
                lambda slug=slug: real_client().post(
                    PRODUCTS, json=new_product(category=slug), headers=merchandiser
                ),
            ]

            gone, made = together(lambda call: call(), calls)

            assert (gone.status_code, made.status_code) in {(204, 422), (409, 201)}
