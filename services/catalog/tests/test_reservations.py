"""Reservations: put stock aside, take it out, give it back, let it expire."""

from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, text

from flagon_catalog.domain import holds

PRODUCTS = "/api/v1/products"
RESERVATIONS = "/api/v1/reservations"
FIELDS = [
    "id",
    "product_id",
    "quantity",
    "state",
    "holder",
    "reference",
    "expires_at",
    "version",
    "created_at",
    "updated_at",
]


def url(product):
    return f"{PRODUCTS}/{product['id']}"


def place(reservation):
    return f"{RESERVATIONS}/{reservation['id']}"


@pytest.fixture
def service(bearer):
    """Headers of a service that sells; it has no role."""
    return bearer("catalog:write", sub=f"checkout-{uuid4().hex[:6]}")


@pytest.fixture
def other(bearer):
    """Headers of another service."""
    return bearer("catalog:write", sub=f"kiosk-{uuid4().hex[:6]}")


@pytest.fixture
def manager(bearer):
    """Headers of a person who answers for the stock."""
    return bearer("catalog:write", roles=["customer", "merchandiser"])


@pytest.fixture
def reserve(client, service):
    def reserve(product, quantity=1, headers=service, **fields):
        return client.post(
            f"{url(product)}/reservations",
            json={"quantity": quantity, **fields},
            headers=headers,
        )

    return reserve


@pytest.fixture
def end(client, service):
    def end(how, reservation, headers=service):
        return client.post(f"{place(reservation)}/{how}", headers=headers)

    return end


@pytest.fixture
def overdue(session):
    """Let the time of a reservation be over; nobody has written that down yet."""

    def overdue(reservation):
        session.execute(
            text(
                "update reservation set expires_at = now() - interval '1 minute'"
                " where id = :id"
            ),
            {"id": reservation["id"]},
        )

    return overdue


@pytest.fixture
def shown(client):
    """Return what strangers see of a product, and the entity tag."""

    def shown(product):
        answer = client.get(url(product))
        return answer.json, answer.headers["ETag"]

    return shown


class TestReserveStock:
    def test_answers_201_with_the_reservation(
        self, client, make, reserve, service, sent
    ):
        product = make(stock=5)

        answer = reserve(product, 2, expires_in=60, reference=" order 4711 ")

        assert answer.status_code == 201
        made = answer.json
        assert list(made) == FIELDS
        assert UUID(made["id"]).version == 7
        assert (made["product_id"], made["quantity"]) == (product["id"], 2)
        assert (made["state"], made["reference"]) == ("held", "order 4711")
        assert made["holder"].startswith("checkout-")
        ends, begins = (
            datetime.fromisoformat(made[name]) for name in ("expires_at", "created_at")
        )
        assert timedelta(seconds=60) <= ends - begins < timedelta(seconds=70)
        assert answer.headers["Location"] == place(made)
        assert answer.headers["ETag"] == f'"v1-{made["id"]}-held"'
        again = client.get(place(made), headers=service)
        assert (again.json, again.headers["ETag"]) == (made, answer.headers["ETag"])
        (told,) = sent(made["id"])
        assert told["type"] == "market.flagon.reservation.changed.v1"
        assert told["data"] == {**made, "changed": FIELDS}

    def test_tells_strangers_nothing_of_who_holds_it(self, make, reserve, sent):
        product = make(stock=5)
        made = reserve(product, reference="order 4711").json

        (told,) = sent(made["id"])

        assert told["topics"] == [
            "reservations",
            f"reservations/{made['id']}",
            f"users/{made['holder']}",
        ]
        assert len(sent(product["id"])) == 1

    def test_holds_a_quarter_of_an_hour_by_default(self, make, reserve):
        made = reserve(make(stock=1)).json

        held = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(
            made["created_at"]
        )
        assert timedelta(minutes=15) <= held < timedelta(minutes=16)

    def test_lowers_what_is_available_and_nothing_else(self, make, reserve, shown):
        product = make(stock=5)
        before, _ = shown(product)

        reserve(product, 2)

        after, _ = shown(product)
        assert after == {**before, "available": 3}
        assert after["stock"] == 5

    def test_is_refused_when_less_is_available(
        self, make, reserve, shown, assert_problem
    ):
        product = make(stock=3)
        reserve(product, 2)

        problem = assert_problem(reserve(product, 2), 409, "stock-short")

        assert problem["available"] == 1
        assert reserve(product, 1).status_code == 201
        assert shown(product)[0]["available"] == 0

    @pytest.mark.parametrize("status", ["draft", "archived"])
    def test_is_refused_for_what_is_not_for_sale(
        self, make, reserve, assert_problem, status
    ):
        answer = reserve(make(stock=3, status=status))

        assert_problem(answer, 409, "product-not-for-sale")

    def test_is_refused_for_what_does_not_exist(self, reserve, assert_problem):
        assert_problem(reserve({"id": uuid4()}), 404, "product-not-found")

    @pytest.mark.parametrize(
        "fields",
        [
            {"quantity": 0},
            {"quantity": -1},
            {"quantity": 1.5},
            {"quantity": "1"},
            {"quantity": True},
            {"quantity": None},
            {"quantity": 10**9 + 1},
            {"quantity": 10**30},
            {"expires_in": 9},
            {"expires_in": 86_401},
            {"expires_in": -60},
            {"expires_in": "60"},
            {"reference": ""},
            {"reference": " "},
            {"reference": "a\x01b"},
            {"reference": "a\nb"},
            {"reference": "x" * 201},
            {"reference": 4711},
            {"holder": "somebody else"},
            {"state": "committed"},
        ],
    )
    def test_refuses_what_is_no_reservation(
        self, make, reserve, shown, assert_problem, fields
    ):
        product = make(stock=5)

        answer = reserve(product, **{"quantity": 1, **fields})

        assert_problem(answer, 422, "invalid-request")
        assert shown(product)[0]["available"] == 5

    def test_refuses_the_character_nul(self, make, reserve, assert_problem):
        assert_problem(reserve(make(stock=1), reference="a\x00b"), 400)

    def test_keeps_a_reference_as_it_is(self, make, reserve):
        hostile = "<script>alert(1)</script>'; drop table reservation; --"

        assert reserve(make(stock=1), reference=hostile).json["reference"] == hostile

    def test_can_be_repeated(self, client, make, service, shown):
        product = make(stock=5)
        headers = {**service, "Idempotency-Key": uuid4().hex}

        first, second = (
            client.post(
                f"{url(product)}/reservations", json={"quantity": 2}, headers=headers
            )
            for _ in range(2)
        )

        assert first.data == second.data
        for name in ("ETag", "Location"):
            assert first.headers[name] == second.headers[name]
        assert shown(product)[0]["available"] == 3

    def test_needs_the_scope(self, client, make, reserve, customer, assert_problem):
        product = make(stock=1)

        assert_problem(reserve(product, headers={}), 401)
        assert_problem(reserve(product, headers=customer), 403, "scope-missing")


class TestFindReservation:
    def test_shows_others_nothing(
        self, client, make, reserve, other, end, assert_problem
    ):
        made = reserve(make(stock=1)).json

        unknown = client.get(f"{RESERVATIONS}/{uuid4()}", headers=other)
        foreign = client.get(place(made), headers=other)

        assert_problem(unknown, 404, "reservation-not-found")
        assert_problem(foreign, 404, "reservation-not-found")
        for how in ("commit", "release"):
            assert_problem(end(how, made, other), 404, "reservation-not-found")
        assert_problem(client.get(place(made)), 401)

    def test_shows_merchandisers_all_but_lets_them_end_none(
        self, client, make, reserve, manager, end, assert_problem
    ):
        made = reserve(make(stock=1)).json

        assert client.get(place(made), headers=manager).json == made
        for how in ("commit", "release"):
            assert_problem(end(how, made, manager), 403, "reservation-foreign")
        assert client.get(place(made), headers=manager).json["state"] == "held"

    def test_answers_304_while_it_is_the_same(
        self, client, make, reserve, service, overdue
    ):
        answer = reserve(make(stock=1))
        asked = {**service, "If-None-Match": answer.headers["ETag"]}

        assert client.get(place(answer.json), headers=asked).status_code == 304
        overdue(answer.json)
        later = client.get(place(answer.json), headers=asked)

        assert later.status_code == 200
        assert later.json["state"] == "expired"

    def test_is_for_nobodys_cache(self, client, make, reserve, service):
        made = reserve(make(stock=1)).json

        answer = client.get(place(made), headers=service)

        assert answer.headers["Cache-Control"] == "private, no-cache"


class TestListReservations:
    def test_goes_through_the_callers_own(
        self, client, make, reserve, service, other, manager
    ):
        product = make(stock=50)
        own = [reserve(product).json["id"] for _ in range(5)]
        reserve(product, headers=other)

        seen, cursor = [], None
        while True:
            asked = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            page = client.get(RESERVATIONS, query_string=asked, headers=service).json
            seen += [item["id"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break

        assert seen == own[::-1]
        assert client.get(RESERVATIONS, headers=manager).json["items"] == []

    def test_filters_by_state_at_this_moment_and_by_product(
        self, client, make, reserve, service, end, overdue
    ):
        one, two = make(stock=9), make(stock=9)
        held = reserve(one).json["id"]
        sold, back, late = (reserve(one).json for _ in range(3))
        end("commit", sold)
        end("release", back)
        overdue(late)
        elsewhere = reserve(two).json["id"]

        def ids(**asked):
            page = client.get(RESERVATIONS, query_string=asked, headers=service).json
            return [item["id"] for item in page["items"]]

        assert ids(state="held") == [elsewhere, held]
        assert ids(state="held", product_id=one["id"]) == [held]
        assert ids(state="committed") == [sold["id"]]
        assert ids(state="released") == [back["id"]]
        assert ids(state="expired") == [late["id"]]
        assert ids(product_id=two["id"]) == [elsewhere]
        assert len(ids()) == 5

    def test_shows_merchandisers_everybodys_when_asked(
        self, client, make, reserve, service, manager, assert_problem
    ):
        product = make(stock=9)
        made = reserve(product).json
        asked = {"holder": "any", "product_id": product["id"]}

        page = client.get(RESERVATIONS, query_string=asked, headers=manager)
        refused = client.get(RESERVATIONS, query_string=asked, headers=service)

        assert page.json["items"] == [made]
        assert_problem(refused, 403, "reservation-foreign")

    def test_refuses_the_cursor_of_somebody_else(
        self, client, make, reserve, service, other, assert_problem
    ):
        product = make(stock=9)
        for _ in range(2):
            reserve(product)
        page = client.get(f"{RESERVATIONS}?limit=1", headers=service).json

        answer = client.get(
            RESERVATIONS, query_string={"cursor": page["next_cursor"]}, headers=other
        )

        assert_problem(answer, 422, "cursor-invalid")

    @pytest.mark.parametrize(
        "asked",
        [
            {"state": "gone"},
            {"product_id": "1"},
            {"holder": "checkout-1"},
            {"limit": 101},
            {"unknown": 1},
        ],
    )
    def test_refuses_what_it_does_not_understand(
        self, client, service, assert_problem, asked
    ):
        answer = client.get(RESERVATIONS, query_string=asked, headers=service)

        assert_problem(answer, 422, "invalid-request")


class TestCommitReservation:
    def test_takes_it_out_of_the_stock_for_good(
        self, client, make, reserve, end, shown, sent, service
    ):
        product = make(stock=5)
        made = reserve(product, 2).json

        answer = end("commit", made)

        assert answer.status_code == 200
        assert (answer.json["state"], answer.json["version"]) == ("committed", 2)
        assert answer.headers["ETag"] == f'"v2-{made["id"]}-committed"'
        after, _ = shown(product)
        assert (after["stock"], after["available"], after["version"]) == (3, 3, 2)
        told = sent(made["id"])[-1]["data"]
        assert told == {**answer.json, "changed": ["state"]}
        after.pop("description_html")
        told = sent(product["id"])[-1]["data"]
        assert told == {**after, "changed": ["stock"]}

    def test_can_be_repeated(self, make, reserve, end, shown, sent):
        product = make(stock=5)
        made = reserve(product, 2).json

        first, second = (end("commit", made) for _ in range(2))

        assert first.json == second.json
        assert shown(product)[0]["stock"] == 3
        assert len(sent(made["id"])) == 2
        assert len(sent(product["id"])) == 2

    def test_is_refused_after_a_release(self, make, reserve, end, assert_problem):
        made = reserve(make(stock=5)).json
        end("release", made)

        problem = assert_problem(end("commit", made), 409, "reservation-ended")

        assert problem["state"] == "released"

    @pytest.mark.parametrize("how", ["commit", "release"])
    @pytest.mark.parametrize("written_down", [False, True])
    def test_is_refused_after_its_time(
        self,
        app,
        session,
        make,
        reserve,
        end,
        shown,
        overdue,
        assert_problem,
        how,
        written_down,
    ):
        product = make(stock=5)
        made = reserve(product).json
        overdue(made)
        if written_down:
            with app.app_context():
                assert holds.sweep(session, limit=9) == 1

        problem = assert_problem(end(how, made), 409, "reservation-ended")

        assert problem["state"] == "expired"
        assert shown(product)[0]["stock"] == shown(product)[0]["available"] == 5

    def test_works_for_what_was_archived_meanwhile(
        self, client, make, reserve, end, merchandiser
    ):
        product = make(stock=5)
        made = reserve(product).json
        archived = client.patch(
            url(product),
            json={"status": "archived"},
            headers={**merchandiser, "If-Match": product["etag"]},
        )

        assert archived.status_code == 200
        assert end("commit", made).status_code == 200


class TestReleaseReservation:
    def test_gives_it_back(self, make, reserve, end, shown, sent):
        product = make(stock=5)
        made = reserve(product, 2).json

        answer = end("release", made)
        again = end("release", made)

        assert (answer.status_code, answer.json["state"]) == (200, "released")
        assert again.json == answer.json
        after, _ = shown(product)
        assert (after["stock"], after["available"], after["version"]) == (5, 5, 1)
        assert len(sent(made["id"])) == 2
        assert sent(made["id"])[-1]["data"] == {**answer.json, "changed": ["state"]}

    def test_is_refused_after_a_commit(self, make, reserve, end, shown, assert_problem):
        product = make(stock=5)
        made = reserve(product, 2).json
        end("commit", made)

        problem = assert_problem(end("release", made), 409, "reservation-ended")

        assert problem["state"] == "committed"
        assert shown(product)[0]["stock"] == 3


class TestExpiry:
    def test_counts_at_once_by_time_alone(
        self, client, make, reserve, shown, overdue, service
    ):
        product = make(stock=5)
        made = reserve(product, 5).json
        _, tag = shown(product)

        overdue(made)

        after, new_tag = shown(product)
        assert after["available"] == 5
        assert tag != new_tag == product["etag"]
        assert client.get(place(made), headers=service).json["state"] == "expired"
        assert reserve(product, 5).status_code == 201

    def test_is_written_down_by_whoever_takes_the_place(
        self, make, reserve, overdue, sent
    ):
        product = make(stock=5)
        made = reserve(product, 5).json
        overdue(made)

        reserve(product, 5)

        told = sent(made["id"])[-1]["data"]
        assert (told["state"], told["version"]) == ("expired", 2)
        assert told["changed"] == ["state"]


class TestSweep:
    def test_ends_and_tells_what_is_overdue(
        self, app, make, reserve, overdue, sent, session
    ):
        product = make(stock=9)
        late, live = (reserve(product).json for _ in range(2))
        overdue(late)
        runner = app.test_cli_runner()

        first, second = (runner.invoke(args=["sweep"]).output for _ in range(2))

        assert first == "1 reservations have expired.\n"
        assert second == "0 reservations have expired.\n"
        assert sent(late["id"])[-1]["data"]["state"] == "expired"
        assert len(sent(live["id"])) == 1


class TestProductView:
    def test_shows_what_is_available_everywhere(self, client, make, reserve):
        product = make(stock=5, name=f"Lamp {uuid4().hex}")
        reserve(product, 2)

        found = [
            client.get(url(product)).json,
            client.get(f"{PRODUCTS}/by-slug/{product['slug']}").json,
            client.get(f"{PRODUCTS}/by-sku/{product['sku']}").json,
            *client.get(PRODUCTS, query_string={"sku": product["sku"]}).json["items"],
        ]

        assert [(item["stock"], item["available"]) for item in found] == [(5, 3)] * 4

    def test_in_stock_is_what_is_available(self, client, make, reserve):
        sold_out, some = make(stock=2), make(stock=3)
        for product in (sold_out, some):
            reserve(product, 2)

        def skus(in_stock):
            page = client.get(f"{PRODUCTS}?in_stock={in_stock}").json
            return {item["sku"] for item in page["items"]}

        assert some["sku"] in skus("true")
        assert sold_out["sku"] in skus("false")
        assert skus("true").isdisjoint(skus("false"))

    def test_of_a_whole_list_costs_one_statement(self, client, make, reserve, session):
        for _ in range(50):
            reserve(make(stock=5), 2)
        statements = []
        connection = session.connection()

        def note(*args):
            statements.append(args[2])

        event.listen(connection, "before_cursor_execute", note)
        page = client.get(f"{PRODUCTS}?limit=50").json
        event.remove(connection, "before_cursor_execute", note)

        assert [item["available"] for item in page["items"]] == [3] * 50
        assert len([text for text in statements if "FROM product" in text]) == 1


class TestEntityTag:
    def test_of_a_product_changes_with_what_is_available(
        self, client, make, reserve, end, shown
    ):
        product = make(stock=5)
        made = reserve(product, 2)
        after, tag = shown(product)

        assert tag.startswith(f'"v1-{product["id"]}-')
        assert tag != product["etag"]
        answer = client.get(url(product), headers={"If-None-Match": product["etag"]})
        assert (answer.status_code, answer.json) == (200, after)
        answer = client.get(url(product), headers={"If-None-Match": tag})
        assert answer.status_code == 304
        end("release", made.json)
        assert shown(product)[1] == product["etag"]

    @pytest.fixture
    def edit(self, client, merchandiser):
        def edit(product, tag, **fields):
            return client.patch(
                url(product), json=fields, headers={**merchandiser, "If-Match": tag}
            )

        return edit

    def test_from_before_a_reservation_lets_an_edit_through(
        self, make, reserve, edit, shown
    ):
        product = make(stock=5)
        reserve(product, 2)

        answer = edit(product, product["etag"], name="Other", stock=4)

        assert answer.status_code == 200
        assert (answer.json["version"], answer.json["available"]) == (2, 2)
        assert answer.headers["ETag"].startswith(f'"v2-{product["id"]}-')
        assert edit(product, answer.headers["ETag"], name="X").status_code == 200

    def test_from_before_a_sale_lets_an_edit_of_all_but_the_stock_through(
        self, make, reserve, end, edit, shown, assert_problem
    ):
        product = make(stock=5)
        for _ in range(3):
            end("commit", reserve(product).json)
        _, sold = shown(product)

        assert_problem(edit(product, product["etag"], stock=5), 412, "version-stale")
        answer = edit(product, product["etag"], price_minor=1)

        assert answer.status_code == 200
        assert (answer.json["version"], answer.json["stock"]) == (5, 2)
        # That was an edit: the tags from before it are worth nothing now.
        for tag in (product["etag"], sold):
            stale = edit(product, tag, price_minor=2)
            current = assert_problem(stale, 412)["current"]
            assert current.startswith(f"v5-{product['id']}-")

    def test_from_before_a_sale_does_not_put_the_stock_back(
        self, client, make, reserve, end, merchandiser, assert_problem
    ):
        """A PUT says the whole product, and so the stock that its sender has seen."""
        product = make(stock=5)
        end("commit", reserve(product, 2).json)
        body = {name: product[name] for name in ("sku", "name", "price_minor", "stock")}

        answer = client.put(
            url(product),
            json=body,
            headers={**merchandiser, "If-Match": product["etag"]},
        )

        assert_problem(answer, 412, "version-stale")

    def test_from_before_a_sale_does_not_delete_but_archives(
        self, client, make, reserve, end, admin, assert_problem
    ):
        product = make(stock=5)
        end("commit", reserve(product, 2).json)

        headers = {**admin, "If-Match": product["etag"]}
        answer = client.delete(f"{url(product)}?permanently=true", headers=headers)

        assert_problem(answer, 412, "version-stale")
        assert client.delete(url(product), headers=headers).status_code == 204

    @pytest.mark.parametrize(
        "tag",
        ['"v3-{id}"', '"v0-{id}"', '"v1-{other}"', '"v1-{id}-h"', '"v1-{id}-h2-x"'],
    )
    def test_that_we_never_gave_is_worth_nothing(
        self, make, reserve, end, edit, assert_problem, tag
    ):
        product = make(stock=5)
        end("commit", reserve(product).json)

        answer = edit(product, tag.format(id=product["id"], other=uuid4()), name="X")

        assert_problem(answer, 412, "version-stale")


class TestStockBelowWhatIsHeld:
    @pytest.mark.parametrize("method", ["patch", "put"])
    def test_is_refused(
        self, client, make, reserve, merchandiser, shown, assert_problem, method
    ):
        product = make(stock=5)
        reserve(product, 3)
        headers = {**merchandiser, "If-Match": "*"}
        body = {name: product[name] for name in ("sku", "name", "price_minor")}

        def set_stock(stock):
            return client.open(
                url(product),
                method=method.upper(),
                json={**(body if method == "put" else {}), "stock": stock},
                headers=headers,
            )

        problem = assert_problem(set_stock(2), 409, "stock-held")

        assert problem["held"] == 3
        assert problem["errors"][0]["pointer"] == "#/stock"
        assert shown(product)[0]["stock"] == 5
        assert set_stock(3).json["available"] == 0

    def test_is_refused_for_that_item_of_a_bulk_upsert(
        self, client, make, reserve, merchandiser, shown, sent
    ):
        held, free = make(stock=5), make(stock=5)
        reserve(held, 3)
        items = [
            {"sku": held["sku"], "stock": 2, "name": "Not written"},
            {"sku": free["sku"], "stock": 2},
            {"sku": held["sku"], "price_minor": 7},
            {"sku": held["sku"], "stock": 4},
        ]

        answer = client.post(
            f"{PRODUCTS}/bulk", json={"items": items}, headers=merchandiser
        )

        results = answer.json["results"]
        assert [result["outcome"] for result in results] == [
            "refused",
            "updated",
            "updated",
            "updated",
        ]
        assert results[0]["errors"] == [
            {"pointer": "#/stock", "detail": "3 are held for reservations."}
        ]
        after, _ = shown(held)
        assert (after["name"], after["stock"]) == (held["name"], 4)
        assert (after["available"], after["price_minor"]) == (1, 7)
        after.pop("description_html")
        told = sent(held["id"])[-1]["data"]
        assert told == {**after, "changed": ["stock", "available"]}

    def test_is_fine_once_it_has_expired(
        self, client, make, reserve, merchandiser, overdue
    ):
        one, two = make(stock=5), make(stock=5)
        for product in (one, two):
            overdue(reserve(product, 3).json)

        changed = client.patch(
            url(one), json={"stock": 0}, headers={**merchandiser, "If-Match": "*"}
        )
        upserted = client.post(
            f"{PRODUCTS}/bulk",
            json={"items": [{"sku": two["sku"], "stock": 0}]},
            headers=merchandiser,
        )

        assert changed.json["available"] == 0
        assert upserted.json["summary"]["updated"] == 1


class TestDeleteProduct:
    def test_for_good_is_refused_while_some_of_it_is_held(
        self, client, make, reserve, end, admin, service, assert_problem
    ):
        product = make(stock=5)
        made = reserve(product, 3).json
        headers = {**admin, "If-Match": "*"}
        path = f"{url(product)}?permanently=true"

        problem = assert_problem(
            client.delete(path, headers=headers), 409, "product-held"
        )
        end("commit", made)

        assert problem["held"] == 3
        assert client.delete(path, headers=headers).status_code == 204
        # What was sold is known of after its product is gone, too.
        assert end("commit", made).json["state"] == "committed"
        assert client.get(place(made), headers=service).status_code == 200

    def test_leaves_what_is_held_of_an_archived_one(
        self, client, make, reserve, end, merchandiser, assert_problem
    ):
        product = make(stock=5)
        made = reserve(product, 3).json

        gone = client.delete(url(product), headers={**merchandiser, "If-Match": "*"})

        assert gone.status_code == 204
        assert_problem(reserve(product, 1), 409, "product-not-for-sale")
        assert end("commit", made).json["state"] == "committed"
        shown = client.get(url(product), headers=merchandiser).json
        assert (shown["status"], shown["stock"]) == ("archived", 2)
