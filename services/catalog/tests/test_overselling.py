"""Nothing is sold twice: real transactions of many connections, some of them killed."""

import random
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from uuid import uuid4

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, OperationalError

from flagon_catalog import keeper
from flagon_catalog.domain import bulk, holds, reservations
from flagon_catalog.models import Product, Reservation
from flagon_chassis.db import transaction
from flagon_chassis.tables import outbox

from .conftest import wait_until_blocked

PRODUCTS = "/api/v1/products"
RESERVATIONS = "/api/v1/reservations"
WAIT = 20
MANY = 40


@pytest.fixture(scope="module")
def wide_app(migrated, make_app):
    """An app with a connection for each of many threads, and a database of its own."""
    return make_app(migrated(), threads=MANY)


@pytest.fixture
def sessions(wide_app):
    return wide_app.extensions["flagon.sessions"]


@pytest.fixture
def client(wide_app):
    return wide_app.test_client


@pytest.fixture(scope="module")
def service(bearer):
    return bearer("catalog:write", sub="checkout")


@pytest.fixture
def together():
    """Call functions at the same moment and return what they return."""

    def together(*calls):
        barrier = Barrier(len(calls))

        def start(call):
            barrier.wait(WAIT)
            return call()

        with ThreadPoolExecutor(len(calls)) as pool:
            return list(pool.map(start, calls))

    return together


@pytest.fixture
def make(client, merchandiser, new_product):
    def make(**fields):
        answer = client().post(
            PRODUCTS, json=new_product(**fields), headers=merchandiser
        )
        assert answer.status_code == 201, answer.text
        return answer.json

    return make


@pytest.fixture
def reserve(client, service):
    def reserve(product, quantity=1, **headers):
        return client().post(
            f"{PRODUCTS}/{product['id']}/reservations",
            json={"quantity": quantity},
            headers={**service, **headers},
        )

    return reserve


@pytest.fixture
def end(client, service):
    def end(how, reservation):
        return client().post(
            f"{RESERVATIONS}/{reservation['id']}/{how}", headers=service
        )

    return end


@pytest.fixture
def shown(client):
    return lambda product: client().get(f"{PRODUCTS}/{product['id']}").json


@pytest.fixture
def due_in(sessions):
    """Let a reservation expire after so many milliseconds of the database's clock."""

    def due_in(reservation, milliseconds):
        with sessions.begin() as session:
            session.execute(
                text(
                    "update reservation set expires_at = clock_timestamp()"
                    " + :ms * interval '1 millisecond' where id = :id"
                ),
                {"ms": milliseconds, "id": reservation["id"]},
            )

    return due_in


@pytest.fixture
def told(sessions):
    """Return the states that events told of a reservation, in their order."""

    def told(reservation):
        with sessions() as session:
            bodies = session.scalars(
                select(outbox.c.body)
                .where(outbox.c.subject == str(reservation["id"]))
                .order_by(outbox.c.sequence)
            )
            return [body["data"]["state"] for body in bodies]

    return told


def kill(session, sessions):
    """End the connection of a session as an administrator or a crash does."""
    pid = session.scalar(text("select pg_backend_pid()"))
    with sessions.begin() as administrator:
        administrator.execute(
            text("select pg_terminate_backend(:pid, 5000)"), {"pid": pid}
        )


class TestReserveStock:
    def test_sells_ten_to_ten_of_forty(self, together, make, reserve, shown):
        product = make(stock=10)

        answers = together(*[lambda: reserve(product)] * MANY)

        codes = sorted(answer.status_code for answer in answers)
        assert codes == [201] * 10 + [409] * 30
        assert shown(product)["available"] == 0
        assert {
            answer.json["type"].rpartition("#")[2]
            for answer in answers
            if answer.status_code == 409
        } == {"stock-short"}

    def test_never_sells_more_when_quantities_differ(
        self, together, make, reserve, shown
    ):
        product = make(stock=20)

        answers = together(
            *[lambda n=n: reserve(product, 1 + n % 7) for n in range(MANY)]
        )

        held = sum(a.json["quantity"] for a in answers if a.status_code == 201)
        after = shown(product)
        assert after["available"] == 20 - held >= 0
        # Whoever was refused had asked for more than was left then, and so than now.
        refused = [1 + n % 7 for n, a in enumerate(answers) if a.status_code != 201]
        assert all(quantity > after["available"] for quantity in refused)

    def test_is_one_for_all_that_send_the_same_key(
        self, together, make, reserve, shown, sessions
    ):
        product, key = make(stock=32), uuid4().hex

        answers = together(*[lambda: reserve(product, **{"Idempotency-Key": key})] * 32)

        for answer in answers:
            if answer.status_code != 201:
                assert answer.status_code == 409
                assert answer.json["type"].endswith("#twin-in-progress")
        assert len({a.data for a in answers if a.status_code == 201}) == 1
        assert shown(product)["available"] == 31
        with sessions() as session:
            made = select(func.count()).where(Reservation.product_id == product["id"])
            assert session.scalar(made) == 1
        again = reserve(product, **{"Idempotency-Key": key})
        assert again.headers["Idempotent-Replayed"] == "true"

    def test_leaves_nothing_when_its_connection_is_killed(
        self, wide_app, sessions, make, reserve, shown
    ):
        product = make(stock=5)
        with ThreadPoolExecutor() as pool, wide_app.test_request_context():
            session = sessions()
            made = reservations.reserve_stock(
                session,
                product_id=product["id"],
                quantity=5,
                seconds=60,
                holder="x",
                reference=None,
            )
            # Somebody wants the same five and waits for the lock.
            waiting = pool.submit(reserve, product, 5)
            wait_until_blocked(session)
            kill(session, sessions)

            assert waiting.result(WAIT).status_code == 201
            with pytest.raises(DBAPIError):
                session.commit()
            session.close()

        assert shown(product)["available"] == 0
        with sessions() as session:
            assert session.get(Reservation, made["id"]) is None

    def test_can_be_sent_again_after_its_connection_was_killed(
        self, make, reserve, shown, sessions, monkeypatch, assert_problem
    ):
        product, key = make(stock=5), uuid4().hex
        emit = holds.emit_changed

        def die(session, views, *, changed):
            kill(session, sessions)
            emit(session, views, changed=changed)

        with monkeypatch.context() as patch:
            patch.setattr(holds, "emit_changed", die)
            broken = reserve(product, 2, **{"Idempotency-Key": key})

        assert_problem(broken, 503, "dependency-down")
        assert shown(product)["available"] == 5
        again = reserve(product, 2, **{"Idempotency-Key": key})
        assert again.status_code == 201
        assert "Idempotent-Replayed" not in again.headers
        assert shown(product)["available"] == 3


class TestCommitReservation:
    def test_takes_the_stock_once_however_many_ask(
        self, together, make, reserve, end, shown, told
    ):
        product = make(stock=5)
        made = reserve(product, 2).json

        answers = together(*[lambda: end("commit", made)] * 12)

        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.data for answer in answers}) == 1
        assert shown(product)["stock"] == 3
        assert told(made) == ["held", "committed"]

    def test_or_release_wins_never_both(
        self, together, make, reserve, end, shown, told
    ):
        for _ in range(10):
            product = make(stock=5)
            made = reserve(product, 2).json

            sold, back = together(
                lambda made=made: end("commit", made),
                lambda made=made: end("release", made),
            )

            assert sorted([sold.status_code, back.status_code]) == [200, 409]
            left = 3 if sold.status_code == 200 else 5
            after = shown(product)
            assert (after["stock"], after["available"]) == (left, left)
            assert len(told(made)) == 2

    def test_or_expiry_wins_never_both(
        self, together, wide_app, make, reserve, end, shown, told, due_in
    ):
        """A commit, a sweep and somebody who wants the place, around the very moment."""

        def sweep():
            with wide_app.app_context():
                return keeper.sweep()

        for number in range(30):
            product = make(stock=2)
            made = reserve(product, 2).json
            due_in(made, number % 10)

            sold, _, taken = together(
                lambda made=made: end("commit", made),
                sweep,
                lambda product=product: reserve(product, 2),
            )

            outcome = (sold.status_code, taken.status_code)
            assert outcome in {(200, 409), (409, 201), (409, 409)}
            sweep()
            if sold.status_code == 200:
                assert told(made) == ["held", "committed"]
                assert shown(product)["stock"] == 0
            else:
                assert sold.json["state"] == "expired"
                assert told(made) == ["held", "expired"]
                assert shown(product)["stock"] == 2

    def test_that_was_in_time_keeps_what_it_has_while_it_is_written(
        self, wide_app, sessions, make, reserve, due_in, told
    ):
        product = make(stock=2)
        made = reserve(product, 2).json
        due_in(made, 300)
        with (
            ThreadPoolExecutor() as pool,
            wide_app.test_request_context(),
            sessions.begin() as session,
        ):
            reservations.commit_reservation(
                session, id=made["id"], caller="checkout", sees_all=False
            )
            # Its time is over before its transaction is.
            session.execute(text("select pg_sleep(0.4)"))
            with transaction() as another:
                assert holds.sweep(another, limit=9) == 0
            waiting = pool.submit(reserve, product, 2)
            wait_until_blocked(session)
            session.commit()

            assert waiting.result(WAIT).status_code == 409
        assert told(made) == ["held", "committed"]

    def test_that_comes_while_its_end_is_written_is_too_late(
        self, wide_app, sessions, make, reserve, end, due_in, told, assert_problem
    ):
        product = make(stock=2)
        made = reserve(product, 2).json
        due_in(made, 0)
        with (
            ThreadPoolExecutor() as pool,
            wide_app.test_request_context(),
            sessions.begin() as session,
        ):
            assert holds.sweep(session, limit=9) == 1
            # Even for a clock that was set back since, so that it looks in time.
            session.execute(
                text(
                    "update reservation set expires_at = now() + interval '1 hour'"
                    " where id = :id"
                ),
                {"id": made["id"]},
            )
            waiting = pool.submit(end, "commit", made)
            wait_until_blocked(session)
            session.commit()

            problem = assert_problem(waiting.result(WAIT), 409, "reservation-ended")
        assert problem["state"] == "expired"
        assert told(made) == ["held", "expired"]


class TestStockBelowWhatIsHeld:
    def test_is_refused_or_the_reservation_is(
        self, together, client, make, reserve, merchandiser, admin, shown
    ):
        ways = (
            lambda product: client().patch(
                f"{PRODUCTS}/{product['id']}",
                json={"stock": 0},
                headers={**merchandiser, "If-Match": "*"},
            ),
            lambda product: client().post(
                f"{PRODUCTS}/bulk",
                json={"items": [{"sku": product["sku"], "stock": 0}]},
                headers=merchandiser,
            ),
            lambda product: client().delete(
                f"{PRODUCTS}/{product['id']}?permanently=true",
                headers={**admin, "If-Match": "*"},
            ),
        )
        for number in range(24):
            product = make(stock=5)
            take = ways[number % 3]

            taken, held = together(
                lambda product=product, take=take: take(product),
                lambda product=product: reserve(product, 5),
            )

            refused = taken.status_code == 409 or (
                taken.status_code == 200
                and taken.json.get("summary", {}).get("refused") == 1
            )
            assert refused == (held.status_code == 201)
            if held.status_code == 201:
                assert (shown(product)["stock"], shown(product)["available"]) == (5, 0)
            else:
                assert held.status_code in {404, 409}

    def test_is_refused_for_a_product_that_was_made_in_the_middle_of_a_bulk_upsert(
        self, wide_app, sessions, make, monkeypatch
    ):
        """It is reserved while the upsert, which has not locked it, waits for it."""
        sku, lock, tries = f"race-{uuid4().hex[:8]}", bulk._lock, []
        held = Event()

        def reserve(product):
            with wide_app.test_request_context(), sessions.begin() as session:
                reservations.reserve_stock(
                    session,
                    product_id=product["id"],
                    quantity=3,
                    seconds=60,
                    holder="x",
                    reference=None,
                )
                held.set()
                wait_until_blocked(session)

        with ThreadPoolExecutor() as pool:

            def lock_too_early(session, skus):
                tries.append(lock(session, skus))
                if len(tries) == 1:
                    pool.submit(reserve, make(sku=sku, stock=5))
                    assert held.wait(WAIT)
                return tries[-1]

            monkeypatch.setattr(bulk, "_lock", lock_too_early)
            with wide_app.test_request_context(), sessions.begin() as session:
                (outcome,) = bulk.upsert_products(session, [{"sku": sku, "stock": 1}])

        assert (outcome.outcome, outcome.held) == ("refused", 3)
        assert len(tries) == 2


class TestEverythingAtOnce:
    def test_neither_loses_nor_doubles_nor_waits_in_a_circle(
        self,
        together,
        wide_app,
        client,
        make,
        reserve,
        end,
        merchandiser,
        shown,
        due_in,
    ):
        goods = [make(stock=15) for _ in range(3)]
        sold = {product["id"]: 0 for product in goods}

        def shop(seed):
            chance, seen = random.Random(seed), []
            for _ in range(12):
                product = chance.choice(goods)
                answer = reserve(product, chance.randint(1, 4))
                seen.append(answer.status_code)
                if answer.status_code != 201:
                    continue
                match chance.randrange(4):
                    case 0:
                        due_in(answer.json, 2)
                    case 1:
                        seen.append(end("commit", answer.json).status_code)
                    case _:
                        seen.append(end("release", answer.json).status_code)
            return seen

        def sweep():
            with wide_app.app_context():
                for _ in range(20):
                    keeper.sweep()
            return []

        def upsert():
            items = [{"sku": p["sku"], "price_minor": 1} for p in goods]
            return [
                client()
                .post(f"{PRODUCTS}/bulk", json={"items": turn}, headers=merchandiser)
                .status_code
                for turn in (items, items[::-1]) * 3
            ]

        answers = together(
            *[lambda n=n: shop(n) for n in range(8)], sweep, sweep, upsert
        )

        assert {code for seen in answers for code in seen} <= {200, 201, 409}
        sweep()
        with wide_app.app_context(), transaction() as session:
            for outcome, product_id, quantity in session.execute(
                select(
                    Reservation.outcome, Reservation.product_id, Reservation.quantity
                ).where(Reservation.product_id.in_(list(sold)))
            ):
                assert outcome in {"committed", "released", "expired"}
                if outcome == "committed":
                    sold[str(product_id)] += quantity
        for product in goods:
            after = shown(product)
            assert after["stock"] == after["available"] == 15 - sold[product["id"]] >= 0


class TestSweep:
    def test_of_many_processes_ends_each_once(
        self, together, wide_app, sessions, make, reserve, told, monkeypatch
    ):
        monkeypatch.setattr(keeper, "_BATCH", 7)
        product = make(stock=100)
        made = [reserve(product).json for _ in range(60)]
        with sessions.begin() as session:
            session.execute(
                text(
                    "update reservation set expires_at = now() where product_id = :id"
                ),
                {"id": product["id"]},
            )

        def sweep():
            with wide_app.app_context():
                return keeper.sweep()

        ended = together(*[sweep] * 4)

        assert sum(ended) == 60
        assert all(told(each) == ["held", "expired"] for each in made)

    def test_comes_by_itself_and_outlives_trouble(
        self, wide_app, make, reserve, due_in, told, monkeypatch
    ):
        made = reserve(make(stock=1)).json
        due_in(made, 0)
        sweep, tries, done, stop = keeper.sweep, [], Event(), Event()

        def troubled():
            tries.append(None)
            if len(tries) == 1:
                raise OperationalError("", {}, Exception("gone"))
            if sweep():
                done.set()

        monkeypatch.setattr(keeper, "sweep", troubled)
        thread = keeper.start(wide_app, seconds=0.01, stop=stop)
        try:
            assert done.wait(WAIT)
        finally:
            stop.set()
            thread.join(WAIT)

        assert not thread.is_alive()
        assert told(made) == ["held", "expired"]


class TestLocks:
    def test_do_not_hold_up_who_only_refers_to_the_product(
        self, wide_app, sessions, make
    ):
        """As a foreign key does: it asks for no more than that the row stays."""
        product = make(stock=5)
        with wide_app.test_request_context(), sessions.begin() as session:
            reservations.reserve_stock(
                session,
                product_id=product["id"],
                quantity=1,
                seconds=60,
                holder="x",
                reference=None,
            )
            with sessions.begin() as another:
                found = another.scalar(
                    select(Product.id)
                    .where(Product.id == product["id"])
                    .with_for_update(read=True, key_share=True, nowait=True)
                )
        assert str(found) == product["id"]
