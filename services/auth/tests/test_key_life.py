"""Signing keys from their making to their end, and who is told."""

import base64
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import jwt as pyjwt
import pytest
from cryptography.exceptions import InvalidTag
from pydantic import SecretStr, ValidationError
from sqlalchemy import select, text

import flagon_auth.__main__
from flagon_auth import keeper
from flagon_auth.app import create_app
from flagon_auth.domain import audit, keys, totp
from flagon_auth.domain.keys import Plan, Sealer
from flagon_auth.models import SigningKey, TotpCredential
from flagon_chassis import db
from flagon_chassis.denylist import KEYS_CHANGED
from flagon_chassis.keyring import KeyRing

from .conftest import (
    Browser,
    close,
    header_of,
    make_settings,
    me,
    quick,
    refresh,
    token_request,
)

PLAN = Plan(
    every=timedelta(days=30),
    lead=timedelta(minutes=10),
    token_life=timedelta(minutes=5),
)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def sealer(fresh_app):
    return fresh_app.extensions["flagon.auth"].issuer.sealer


@pytest.fixture
def twin(fresh_app, redis_url):
    """A function that makes more instances of the app on the same database."""
    url = fresh_app.extensions["flagon.sessions"].kw["bind"].url
    made = []

    def make(**changes):
        settings = make_settings(url.render_as_string(False), redis_url, **changes)
        made.append(quick(create_app(settings)))
        return made[-1]

    yield make
    for app in made:
        close(app)


@pytest.fixture
def born(fresh_app):
    """When the first keys were made."""
    return rows(fresh_app)[0].created_at


@pytest.fixture
def cli(fresh_app):
    return fresh_app.test_cli_runner()


def rows(app):
    with app.app_context(), db.transaction() as session:
        return keys.list_keys(session)


def states(app):
    return sorted((row.alg, row.state) for row in rows(app))


def kid_in(app, state, alg="ES256"):
    (found,) = [row for row in rows(app) if (row.state, row.alg) == (state, alg)]
    return found.kid


def rotate(app, **options):
    options.setdefault("now", datetime.now(UTC))
    with app.app_context():
        return keeper.rotate_keys(actor="test", **options)


def drop(app, kid):
    with app.app_context():
        return keeper.drop_key(kid, actor="test", now=datetime.now(UTC))


def published(app, now=None):
    found = published_set(app, now or datetime.now(UTC))
    return {jwk["kid"] for jwk in found["keys"]}


def published_set(app, now):
    with app.app_context():
        return keeper.published(now=now)


def service_token(app):
    answer = token_request(app, "worker", grant_type="client_credentials")
    return answer.json["access_token"]


ONE_OF_EACH = [
    *(("ES256", "active"), ("ES256", "pending")),
    *(("RS256", "active"), ("RS256", "pending")),
]


class TestRotate:
    def test_waits_until_verifiers_know_the_next_key(self, fresh_app):
        with pytest.raises(keys.KeyTooYoung):
            rotate(fresh_app)

        assert states(fresh_app) == ONE_OF_EACH

    def test_uses_a_key_that_was_published_before(self, fresh_app):
        before = published(fresh_app)

        rotate(fresh_app, now=datetime.now(UTC) + 11 * MINUTE)

        assert header_of(service_token(fresh_app))["kid"] in before
        assert len(published(fresh_app)) == 6
        assert states(fresh_app) == [
            *(("ES256", "active"), ("ES256", "pending"), ("ES256", "retiring")),
            *(("RS256", "active"), ("RS256", "pending"), ("RS256", "retiring")),
        ]

    def test_changes_what_caches_ask_for(self, fresh_app):
        path = "/.well-known/jwks.json"
        etag = fresh_app.test_client().get(path).headers["ETag"]

        rotate(fresh_app, at_once=True)
        answer = fresh_app.test_client().get(path, headers={"If-None-Match": etag})

        assert answer.status_code == 200
        assert answer.headers["ETag"] != etag

    def test_leaves_old_tokens_alive(self, fresh_app, person):
        person(where=fresh_app)
        browser = Browser(fresh_app)
        browser.sign_in()
        old = browser.tokens()

        rotate(fresh_app, at_once=True)

        assert me(fresh_app, old).status_code == 200
        assert refresh(fresh_app, old["refresh_token"]).status_code == 200
        hint = {"id_token_hint": old["id_token"], "prompt": "none"}
        assert "code=" in browser.authorize(**hint).location

    def test_destroys_the_private_half_at_once(self, fresh_app):
        found = rotate(fresh_app, at_once=True)

        assert [row.private_sealed for row in found if row.state == "retiring"] == [
            *(None, None)
        ]

    def test_tells_every_verifier_and_the_audit_log(self, fresh_app, store):
        rotate(fresh_app, at_once=True)

        assert store.get(KEYS_CHANGED)
        with fresh_app.app_context(), db.transaction() as session:
            (record,) = audit.list_records(session, limit=1)
        assert (record.action, record.actor) == ("keys_rotated", "test")

    def test_goes_on_while_nobody_can_be_told(self, fresh_app, monkeypatch):
        without_store(fresh_app, monkeypatch)

        rotate(fresh_app, at_once=True)

        assert len(states(fresh_app)) == 6

    def test_changes_nothing_when_one_algorithm_must_wait(self, fresh_app, born):
        with fresh_app.app_context(), db.transaction() as session:
            session.execute(
                text("update signing_key set created_at = :then where alg = 'ES256'"),
                {"then": born - DAY},
            )

        with pytest.raises(keys.KeyTooYoung):
            rotate(fresh_app)

        assert states(fresh_app) == ONE_OF_EACH

    def test_is_noticed_by_every_instance_at_once(self, fresh_app, twin):
        other = twin()
        assert header_of(service_token(other))["kid"] == kid_in(fresh_app, "active")

        rotate(fresh_app, at_once=True)

        assert header_of(service_token(other))["kid"] == kid_in(fresh_app, "active")

    def test_at_once_by_many_leaves_one_key_that_signs(self, fresh_app):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _n: rotate(fresh_app, at_once=True), range(4)))

        found = states(fresh_app)
        for alg in ("ES256", "RS256"):
            assert found.count((alg, "active")) == found.count((alg, "pending")) == 1
            assert found.count((alg, "retiring")) == 4

    def test_cannot_leave_two_keys_that_sign_whatever_the_code_does(self, fresh_app):
        with (
            fresh_app.app_context(),
            pytest.raises(Exception, match="ix_signing_key_in_use"),
            db.transaction() as session,
        ):
            session.execute(
                text("update signing_key set state = 'active' where alg = 'ES256'")
            )


def without_store(app, monkeypatch):
    """Take the store Redis away from what tells verifiers."""
    broken = create_app(
        make_settings("postgresql+psycopg://nobody@127.0.0.1:1/none")
    ).extensions["flagon.auth"]
    monkeypatch.setattr(
        app.extensions["flagon.auth"].denylist, "_store", broken.denylist._store
    )


class TestSchedule:
    def keep(self, app, now):
        with app.app_context():
            return keeper.keep_keys(now=now)

    def test_does_nothing_before_it_is_time(self, fresh_app, born):
        assert self.keep(fresh_app, born + 29 * DAY) == []
        assert states(fresh_app) == ONE_OF_EACH

    def test_rotates_after_thirty_days(self, fresh_app, born, store):
        heir = kid_in(fresh_app, "pending")

        assert self.keep(fresh_app, born + 30 * DAY) == ["ES256", "RS256"]

        assert kid_in(fresh_app, "active") == heir
        assert store.get(KEYS_CHANGED)
        with fresh_app.app_context(), db.transaction() as session:
            (record,) = audit.list_records(session, limit=1)
        assert (record.action, record.actor) == ("keys_rotated", "schedule")

    def test_rotates_once_however_often_it_looks(self, fresh_app, born):
        self.keep(fresh_app, born + 30 * DAY)

        assert self.keep(fresh_app, born + 30 * DAY + 20 * MINUTE) == []

    def test_of_many_instances_exactly_one_rotates(self, fresh_app, born):
        together = threading.Barrier(6)

        def look(_number):
            together.wait(10)
            return self.keep(fresh_app, born + 30 * DAY)

        with ThreadPoolExecutor(6) as pool:
            done = [found for found in pool.map(look, range(6)) if found]

        assert done == [["ES256", "RS256"]]
        assert len(states(fresh_app)) == 6

    def test_a_second_instance_leaves_it_to_the_first(self, fresh_app, born):
        with fresh_app.app_context(), db.transaction() as session:
            keys._lock(session)

            assert self.keep(fresh_app, born + 30 * DAY) == []

    def test_waits_for_a_key_that_is_too_young(self, fresh_app, born):
        with fresh_app.app_context(), db.transaction() as session:
            for row in session.scalars(select(SigningKey).filter_by(state="pending")):
                row.created_at = born + 30 * DAY - 9 * MINUTE

        assert self.keep(fresh_app, born + 30 * DAY) == []
        assert len(self.keep(fresh_app, born + 30 * DAY + MINUTE)) == 2

    def test_can_be_left_to_people(self, twin, fresh_app, born):
        app = twin(key_rotation_days=0)

        assert self.keep(app, born + 300 * DAY) == []

    def test_a_year_leaves_no_gap_and_no_heap(self, fresh_app, born):
        last = kid_in(fresh_app, "active")
        for day in range(1, 366):
            now = born + day * DAY
            known = published(fresh_app, now - timedelta(minutes=10))
            self.keep(fresh_app, now)
            signs = kid_in(fresh_app, "active")
            # What signs today was in the set ten minutes before; what signed until now
            # is in it still.
            assert {signs, last} <= known & published(fresh_app, now)
            last = signs

        # Two algorithms, each with two keys in use and those of ninety days.
        assert len(rows(fresh_app)) <= 2 * (2 + 4)

    def test_a_verifier_that_is_never_told_knows_every_key_in_time(self, twin, born):
        # No push, and a set that is fetched every five minutes at most.
        app = twin(key_rotation_days=1)
        now = [born]

        def clock():
            return now[0].timestamp()

        ring = KeyRing(lambda: published_set(app, now[0]), clock)
        last = None
        for _step in range(40):
            self.keep(app, now[0])
            signs = kid_in(app, "active")
            assert ring.find(signs)
            # What was signed a moment ago by the key before is good as well.
            assert last is None or ring.find(last)
            last = signs
            while ring._beside.locked():
                threading.Event().wait(0.001)
            now[0] += timedelta(minutes=97)

    def test_begins_in_every_process_that_serves(self, fresh_app, monkeypatch):
        begun = []
        monkeypatch.setattr(keeper, "start", begun.append)

        flagon_auth.__main__._keep(fresh_app)

        assert begun == [fresh_app]

    def test_goes_on_in_a_thread_of_its_own(self, fresh_app, monkeypatch):
        looked = threading.Semaphore(0)
        answers = iter([[], keeper.SQLAlchemyError("away"), []])

        def keep_keys(**_now):
            looked.release()
            answer = next(answers, [])
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(keeper, "keep_keys", keep_keys)
        stop = threading.Event()

        thread = keeper.start(fresh_app, seconds=0.001, stop=stop)

        for _ in range(3):
            assert looked.acquire(timeout=10)
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


class TestRetire:
    def test_takes_a_key_out_when_its_last_token_has_expired(self, fresh_app):
        now = datetime.now(UTC)
        gone = kid_in(fresh_app, "active")
        rotate(fresh_app, at_once=True, now=now)

        assert gone in published(fresh_app, now + 359 * timedelta(seconds=1))
        assert gone not in published(fresh_app, now + 6 * MINUTE)

    @pytest.mark.parametrize(("days", "left"), [(89, True), (91, False)])
    def test_keeps_the_public_half_for_hints_for_ninety_days(
        self, fresh_app, days, left
    ):
        now = datetime.now(UTC)
        gone = kid_in(fresh_app, "active", "RS256")
        rotate(fresh_app, at_once=True, now=now)

        with fresh_app.app_context(), db.transaction() as session:
            keys.retire_keys(session, now=now + days * DAY)
            keys.retire_keys(session, now=now + days * DAY + MINUTE)
            known = {key.kid for key in keys.verification_keys(session, "RS256").keys}

        assert (gone in known) is left
        assert gone not in published(fresh_app, now + days * DAY)

    def test_lives_as_long_as_the_longest_token(self, make_app, fresh_app):
        app = make_app(access_token_seconds=60, id_token_seconds=1800)

        plan = app.extensions["flagon.auth"].plan
        assert plan.token_life == timedelta(seconds=1800)


class TestDrop:
    def test_makes_what_it_signed_worthless_at_once(self, fresh_app, person):
        person(where=fresh_app)
        browser = Browser(fresh_app)
        browser.sign_in()
        old = browser.tokens()

        drop(fresh_app, header_of(old["access_token"])["kid"])

        assert me(fresh_app, old).status_code == 401

    def test_tokens_can_be_had_at_once_again(self, fresh_app, person):
        person(where=fresh_app)
        browser = Browser(fresh_app)
        browser.sign_in()
        old = browser.tokens()

        drop(fresh_app, header_of(old["access_token"])["kid"])
        fresh = refresh(fresh_app, old["refresh_token"]).json

        assert me(fresh_app, fresh).status_code == 200

    def test_takes_it_out_of_the_set_and_lets_the_next_one_sign(self, fresh_app):
        gone, heir = kid_in(fresh_app, "active"), kid_in(fresh_app, "pending")

        row = drop(fresh_app, gone)

        assert row.private_sealed is None
        assert gone not in published(fresh_app)
        assert header_of(service_token(fresh_app))["kid"] == heir
        assert ("ES256", "pending") in states(fresh_app)

    def test_of_the_next_one_makes_another(self, fresh_app):
        gone = kid_in(fresh_app, "pending")

        drop(fresh_app, gone)

        assert kid_in(fresh_app, "pending") != gone

    def test_of_an_old_one_changes_nothing_else(self, fresh_app):
        gone = kid_in(fresh_app, "active")
        rotate(fresh_app, at_once=True)
        before = len(states(fresh_app))

        drop(fresh_app, gone)

        assert len(states(fresh_app)) == before
        assert gone not in published(fresh_app)

    def test_leaves_no_hint_that_anybody_believes(self, fresh_app, person):
        person(where=fresh_app)
        browser = Browser(fresh_app)
        browser.sign_in()
        old = browser.tokens()

        drop(fresh_app, header_of(old["id_token"])["kid"])

        with fresh_app.app_context(), db.transaction() as session:
            known = {key.kid for key in keys.verification_keys(session, "RS256").keys}
        assert header_of(old["id_token"])["kid"] not in known

    def test_marks_it_for_longer_than_any_verifier_keeps_it(self, fresh_app, store):
        gone = kid_in(fresh_app, "active")

        drop(fresh_app, gone)

        assert store.ttl(f"denylist:kid:{gone}") > 24 * 3600
        assert store.get(KEYS_CHANGED)

    def test_says_when_nobody_could_be_told_and_can_be_repeated(
        self, fresh_app, store, monkeypatch
    ):
        gone = kid_in(fresh_app, "active")
        with monkeypatch.context() as away:
            without_store(fresh_app, away)
            with pytest.raises(keeper.DropUntold):
                drop(fresh_app, gone)
        assert gone not in published(fresh_app)

        first = drop(fresh_app, gone)

        assert store.get(f"denylist:kid:{gone}")
        assert first.dropped_at < datetime.now(UTC)
        assert len(published(fresh_app)) == 4

    def test_of_an_unknown_key_is_refused(self, fresh_app):
        with pytest.raises(keys.KeyNotFound):
            drop(fresh_app, "nobody")

    def test_when_there_is_no_next_one_makes_one(self, fresh_app):
        gone = kid_in(fresh_app, "active")
        with fresh_app.app_context(), db.transaction() as session:
            session.execute(text("delete from signing_key where state = 'pending'"))

        drop(fresh_app, gone)

        assert kid_in(fresh_app, "active") != gone
        assert service_token(fresh_app)


class TestCommands:
    def run(self, cli, *words):
        result = cli.invoke(args=["keys", *words])
        lines = [line for line in result.output.splitlines() if line.startswith("{")]
        return result, [json.loads(line) for line in lines if '"event"' not in line]

    def test_rotate_says_why_it_waits(self, cli):
        result, _ = self.run(cli, "rotate")

        assert result.exit_code == 1
        assert "has not been published for long enough" in result.output

    def test_rotate_and_list(self, cli):
        result, shown = self.run(cli, "rotate", "--now")

        assert result.exit_code == 0
        assert len(shown) == 6
        assert self.run(cli, "list")[1] == shown
        assert "private" not in result.output

    def test_drop(self, cli, fresh_app):
        gone = kid_in(fresh_app, "active")

        result, (shown,) = self.run(cli, "drop", gone)

        assert result.exit_code == 0
        assert (shown["kid"], shown["state"]) == (gone, "retired")
        assert shown["dropped_at"]

    @pytest.mark.parametrize("kid", ["-kid", "--kid", "-"])
    def test_drop_takes_an_id_that_begins_with_a_dash(self, cli, fresh_app, kid):
        with fresh_app.app_context(), db.transaction() as session:
            session.execute(
                text("update signing_key set kid = :kid where kid = :old"),
                {"kid": kid, "old": kid_in(fresh_app, "active")},
            )

        result, (shown,) = self.run(cli, "drop", kid)

        assert result.exit_code == 0
        assert shown["kid"] == kid

    def test_retire(self, cli, fresh_app):
        rotate(fresh_app, at_once=True, now=datetime.now(UTC) - 10 * MINUTE)

        assert self.run(cli, "retire")[1] == [{"retired": 2}]
        assert self.run(cli, "retire")[1] == [{"retired": 0}]

    def test_are_found_by_the_name_of_the_package(self):
        assert flagon_auth.create_app is create_app
        with pytest.raises(AttributeError):
            _ = flagon_auth.nothing


class TestReseal:
    NEW = b"n" * 32

    def secret(self, raw):
        return SecretStr(base64.b64encode(raw).decode())

    def test_a_key_encryption_key_is_replaced_without_a_pause(
        self, fresh_app, twin, person
    ):
        account = person(where=fresh_app)
        now = datetime.now(UTC)
        with fresh_app.app_context(), db.transaction() as session:
            sealer = fresh_app.extensions["flagon.auth"].issuer.sealer
            totp.offer_totp(session, sealer, account.id, now=now)
        both = twin(
            key_encryption_key=self.secret(self.NEW),
            key_encryption_key_previous=self.secret(b"k" * 32),
        )
        assert service_token(both)

        result = both.test_cli_runner().invoke(args=["keys", "reseal"])

        assert '"signing_keys": 4' in result.output
        assert '"totp_secrets": 1' in result.output
        alone = twin(key_encryption_key=self.secret(self.NEW))
        assert service_token(alone)
        with alone.app_context(), db.transaction() as session:
            sealer = alone.extensions["flagon.auth"].issuer.sealer
            assert totp.offered_secret(session, sealer, account.id)
            assert session.scalars(select(TotpCredential)).one()

    def test_without_it_the_new_key_opens_nothing(self, fresh_app, twin):
        alone = twin(key_encryption_key=self.secret(self.NEW))
        keys._opened.cache_clear()

        with (
            alone.app_context(),
            pytest.raises(InvalidTag),
            db.transaction() as session,
        ):
            keys.reseal(session, alone.extensions["flagon.auth"].issuer.sealer)

    @pytest.mark.parametrize("bad", ["short", "not base64!"])
    def test_a_malformed_previous_key_stops_the_start(self, bad):
        with pytest.raises(ValidationError, match="32 random bytes"):
            make_settings("postgresql://x", key_encryption_key_previous=SecretStr(bad))


class TestSettings:
    def test_production_publishes_keys_for_ten_minutes(self):
        secure = {"environment": "production", "public_url": "https://shop.test"}
        make_settings("postgresql://x", **secure, key_lead_seconds=600)

        with pytest.raises(ValidationError, match="key_lead_seconds"):
            make_settings("postgresql://x", **secure, key_lead_seconds=599)


class TestSigningKey:
    def test_is_made_at_the_first_need(self, fresh_app):
        with fresh_app.app_context(), db.transaction() as session:
            session.execute(text("delete from signing_key"))

        assert service_token(fresh_app)

        with fresh_app.app_context(), db.transaction() as session:
            session.execute(text("delete from signing_key"))
        assert len(published(fresh_app)) == 4

    def test_is_stored_encrypted(self, fresh_app, sealer):
        for row in rows(fresh_app):
            private = json.loads(sealer.open(row.kid, row.private_sealed))

            assert private["d"].encode() not in row.private_sealed
            assert "d" not in row.public_jwk
            assert private["kty"] == row.public_jwk["kty"]

    def test_moved_to_another_row_opens_nothing(self, fresh_app):
        # Whoever can write to the table cannot make an old, stolen key sign again.
        with fresh_app.app_context(), db.transaction() as session:
            one, two = session.scalars(select(SigningKey).filter_by(alg="ES256"))
            one.private_sealed, two.private_sealed = (
                two.private_sealed,
                one.private_sealed,
            )

        with fresh_app.app_context(), db.transaction() as session:
            sealer = fresh_app.extensions["flagon.auth"].issuer.sealer
            with pytest.raises(InvalidTag):
                keys.signing_key(session, sealer, "ES256", now=datetime.now(UTC))

    def test_is_long_enough(self, fresh_app):
        for row in rows(fresh_app):
            key = pyjwt.PyJWK(row.public_jwk).key
            assert key.key_size == {"ES256": 256, "RS256": 2048}[row.alg]


class TestSealer:
    def test_opens_what_it_sealed(self):
        sealer = Sealer(b"k" * 32)

        assert sealer.open("kid", sealer.seal("kid", b"secret")) == b"secret"

    @pytest.mark.parametrize(
        ("key", "kid"), [(b"x" * 32, "kid"), (b"k" * 32, "another")]
    )
    def test_is_bound_to_key_and_id(self, key, kid):
        sealed = Sealer(b"k" * 32).seal("kid", b"secret")

        with pytest.raises(InvalidTag):
            Sealer(key).open(kid, sealed)

    def test_never_gives_the_same_twice(self):
        sealer = Sealer(b"k" * 32)

        assert sealer.seal("kid", b"secret") != sealer.seal("kid", b"secret")

    def test_opens_what_the_key_before_it_sealed(self):
        old, new = b"o" * 32, b"n" * 32
        sealed = Sealer(old).seal("kid", b"secret")

        again = Sealer(new, previous=old).reseal("kid", sealed)

        assert Sealer(new).open("kid", again) == b"secret"
