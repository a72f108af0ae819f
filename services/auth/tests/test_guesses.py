"""Guessing is slow for everybody, and nobody is locked out by others' guesses."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import redis
from flask import Flask

from flagon_auth.clients import TooManyAttempts
from flagon_auth.clients.attempts import Attempts, Limit
from flagon_auth.clients.devices import DeviceCookie
from flagon_auth.clients.guesses import Allowance, Guesses, Rule, network, spoken
from flagon_auth.domain.passwords import Hasher
from flagon_chassis.errors import Unavailable
from flagon_chassis.metrics import REGISTRY

from .conftest import PASSWORD, Browser, Clock, basic, token_request

WRONG = "not the password at all"
DEAD = "redis://127.0.0.1:1/0"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["redis", "process"])
def attempts(request, redis_url, clock):
    """Counters in Redis, and those of a process that cannot reach it."""
    url = redis_url if request.param == "redis" else DEAD
    client = redis.Redis.from_url(url, retry=None, decode_responses=True)
    yield Attempts(client, clock=clock)
    client.close()


class TestAttempts:
    def test_beyond_the_free_ones_wait_twice_as_long_each_time(self, attempts, clock):
        limits = [Limit("a", 2, 900, 60)]
        waits = []
        for _ in range(10):
            refusal = attempts.take(limits)
            if refusal:
                waits.append(refusal.wait_seconds)
                clock.now += refusal.wait_seconds
                assert attempts.take(limits) is None

        assert waits == [1, 2, 4, 8, 16, 32, 60, 60]

    def test_that_are_refused_do_not_make_the_wait_longer(self, attempts):
        limits = [Limit("a", 1, 900, 60)]
        attempts.take(limits)

        waits = {attempts.take(limits).wait_seconds for _ in range(5)}

        assert waits == {1}

    def test_without_a_delay_wait_for_the_end_of_the_window(self, attempts):
        limits = [Limit("a", 2, 600)]
        attempts.take(limits)
        attempts.take(limits)

        assert 595 <= attempts.take(limits).wait_seconds <= 600

    def test_that_were_right_are_given_back(self, attempts):
        limits = [Limit("a", 1, 900, 60)]

        for _ in range(5):
            assert attempts.take(limits) is None
            attempts.give_back(limits)

    def test_are_never_given_back_twice(self, attempts):
        limits = [Limit("a", 1, 900)]
        attempts.take(limits)
        for _ in range(3):
            attempts.give_back(limits)

        attempts.take(limits)

        assert attempts.take(limits)

    def test_are_forgotten_on_proof(self, attempts):
        limits = [Limit("a", 1, 900, 60)]
        attempts.take(limits)

        attempts.forget(limits)

        assert attempts.take(limits) is None

    def test_that_one_limit_refuses_count_for_no_other(self, attempts):
        attempts.take([Limit("a", 1, 900)])

        refusal = attempts.take([Limit("a", 1, 900), Limit("b", 1, 900)])

        assert refusal.limit.key == "a"
        assert attempts.take([Limit("b", 1, 900)]) is None

    def test_hold_while_forty_try_at_once(self, attempts):
        limits = [Limit("a", 5, 900, 60), Limit("b", 40, 900)]
        with ThreadPoolExecutor(40) as pool:
            passed = list(pool.map(lambda _: attempts.take(limits), range(40)))

        assert passed.count(None) == 5

    def test_in_redis_expire(self, redis_url, clock):
        client = redis.Redis.from_url(redis_url, decode_responses=True)
        attempts = Attempts(client, clock=clock)
        attempts.take([Limit("a", 1, 900, 60), Limit("b", 1, 600)])

        ttls = {key: client.ttl(key) for key in client.keys("*")}

        assert 890 < ttls["auth:attempts:a"] <= 900
        assert 590 < ttls["auth:attempts:b"] <= 600
        client.close()

    def test_in_a_process_are_forgotten_in_time(self, clock):
        client = redis.Redis.from_url(DEAD, retry=None)
        attempts = Attempts(client, clock=clock)
        limits = [Limit("a", 1, 900, 60)]
        attempts.take(limits)

        clock.now += 901

        assert attempts.take(limits) is None
        assert attempts.take(limits)

    def test_in_a_process_forget_the_oldest_of_too_many(self, clock, monkeypatch):
        monkeypatch.setattr("flagon_auth.clients.attempts._KEPT_MAX", 10)
        attempts = Attempts(redis.Redis.from_url(DEAD, retry=None), clock=clock)

        for number in range(30):
            attempts.take([Limit(f"n{number}", 1, 60)])

        assert len(attempts._own._counts) <= 11


@pytest.fixture
def guesses(redis_url, clock):
    """Guesses at things of all shapes, inside a request from one address."""
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    yield Guesses(
        Attempts(client, clock=clock),
        DeviceCookie("s" * 40, cookie="device"),
        {
            "password": Rule(
                pair=Allowance(2, 900),
                account=Allowance(3, 900),
                place=Allowance(4, 900),
                device=Allowance(2, 900),
            ),
            "mail": Rule(account=Allowance(1, 900, 0)),
        },
        key=b"k" * 32,
    )
    client.close()


@contextmanager
def coming_from(address, guesses, cookie=None):
    app = Flask("tests")
    headers = {"Cookie": f"device={cookie}"} if cookie else {}
    with app.test_request_context(
        environ_base={"REMOTE_ADDR": address}, headers=headers
    ):
        yield app


def wrong(guesses, address="192.0.2.1", account="ada@flagon.test", cookie=None):
    with coming_from(address, guesses, cookie):
        try:
            with guesses.guess("password", account=account):
                return True
        except TooManyAttempts:
            return False


def known(guesses, account="ada@flagon.test", cookie=None):
    """Return the cookie of a browser that the account was signed in with."""
    with coming_from("192.0.2.9", guesses, cookie) as app:
        guesses.remember_device(account)
        response = guesses._finish(app.response_class())
        return response.headers["Set-Cookie"].split("=", 1)[1].split(";")[0]


class TestGuess:
    def test_counts_for_the_account_from_one_place(self, guesses):
        assert [wrong(guesses) for _ in range(3)] == [True, True, False]
        assert wrong(guesses, account="bob@flagon.test")

    def test_counts_for_the_account_from_everywhere(self, guesses):
        found = [wrong(guesses, f"192.0.2.{n}") for n in range(5)]

        assert found == [True] * 3 + [False] * 2

    def test_counts_for_the_place(self, guesses):
        found = [wrong(guesses, account=f"a{n}@flagon.test") for n in range(6)]

        assert found == [True] * 4 + [False] * 2

    def test_takes_the_address_however_it_is_written(self, guesses):
        wrong(guesses)
        wrong(guesses, account=" ADA@Flagon.test ")

        assert not wrong(guesses)

    def test_that_is_right_frees_the_account_but_not_the_place(self, guesses):
        for number in range(3):
            wrong(guesses, account=f"victim{number}@flagon.test")
        with coming_from("192.0.2.1", guesses):
            for _ in range(3):
                with guesses.guess("password", account="eve@flagon.test") as guess:
                    guess.right()
                    guess.right()
                    guess.take_back()

        assert wrong(guesses, account="victim3@flagon.test")
        assert not wrong(guesses, account="victim4@flagon.test")

    def test_that_could_not_be_checked_does_not_count(self, guesses):
        for _ in range(5):
            with (
                coming_from("192.0.2.1", guesses),
                pytest.raises(Unavailable),
                guesses.guess("password", account="ada@flagon.test"),
            ):
                raise Unavailable("Busy.")

        assert wrong(guesses)

    def test_that_fails_otherwise_counts(self, guesses):
        for _ in range(2):
            with (
                coming_from("192.0.2.1", guesses),
                pytest.raises(ValueError, match="no"),
                guesses.guess("password", account="ada@flagon.test"),
            ):
                raise ValueError("no")

        assert not wrong(guesses)

    def test_refusal_says_when_to_come_back(self, guesses):
        wrong(guesses)
        wrong(guesses)
        with coming_from("192.0.2.1", guesses) as app:
            with (
                pytest.raises(TooManyAttempts) as refused,
                guesses.guess("password", account="ada@flagon.test"),
            ):
                pass
            response = guesses._finish(app.response_class(status=429))

        assert refused.value.retry_after_seconds == 1
        assert refused.value.detail == "Try again in a second."
        assert response.headers["Retry-After"] == "1"
        assert response.headers["RateLimit"] == '"password";r=0;t=1'
        assert response.headers["RateLimit-Policy"] == '"password";q=2;w=900'

    def test_refusal_is_counted(self, guesses):
        def value():
            name = "flagon_attempts_refused_total"
            return REGISTRY.get_sample_value(name, {"what": "mail"}) or 0

        before = value()
        with coming_from("192.0.2.1", guesses):
            guesses.spend("mail", account="a@b.test")
            with pytest.raises(TooManyAttempts):
                guesses.spend("mail", account="a@b.test")

        assert value() == before + 1


class TestKnownDevice:
    def test_lets_the_owner_in_while_strangers_guess(self, guesses):
        cookie = known(guesses)
        for number in range(9):
            wrong(guesses, f"192.0.2.{number}")

        assert not wrong(guesses, "192.0.2.200")
        assert wrong(guesses, "192.0.2.200", cookie=cookie)

    def test_has_a_limit_of_its_own(self, guesses):
        cookie = known(guesses)

        found = [wrong(guesses, f"192.0.2.{n}", cookie=cookie) for n in range(4)]

        assert found == [True] * 2 + [False] * 2

    def test_is_known_to_its_own_account_alone(self, guesses):
        cookie = known(guesses, "eve@flagon.test")
        for number in range(3):
            wrong(guesses, f"192.0.2.{number}")

        assert not wrong(guesses, cookie=cookie)

    def test_may_be_used_by_several_people(self, guesses):
        first = known(guesses, "eve@flagon.test")
        both = known(guesses, "ada@flagon.test", cookie=first)
        for number in range(3):
            wrong(guesses, f"192.0.2.{number}")

        assert wrong(guesses, cookie=both)

    def test_remembers_the_last_five_people(self, guesses):
        cookie = known(guesses)
        for number in range(5):
            cookie = known(guesses, f"a{number}@flagon.test", cookie=cookie)
        for number in range(3):
            wrong(guesses, f"192.0.2.{number}")

        assert not wrong(guesses, cookie=cookie)
        assert len(cookie) < 400

    @pytest.mark.parametrize(
        "forge",
        [
            lambda cookie: cookie[:-2] + "xx",
            lambda cookie: "." + cookie,
            lambda cookie: cookie.split(".")[0],
            lambda _cookie: "x" * 2000,
            lambda _cookie: "W10.AAAA",
            lambda _cookie: DeviceCookie("o" * 40, cookie="device")._serializer.dumps(
                ["0" * 32, "0" * 32]
            ),
            lambda _cookie: DeviceCookie("s" * 40, cookie="device")._serializer.dumps(
                []
            ),
            lambda _cookie: DeviceCookie("s" * 40, cookie="device")._serializer.dumps(
                ["x", 5]
            ),
        ],
    )
    def test_cannot_be_forged(self, guesses, forge):
        cookie = forge(known(guesses))
        for number in range(3):
            wrong(guesses, f"192.0.2.{number}")

        assert not wrong(guesses, cookie=cookie)

    def test_cookie_names_nobody(self, guesses):
        content = guesses._devices._serializer.loads(known(guesses))

        assert "@" not in str(content)


class TestPlaces:
    @pytest.mark.parametrize(
        ("address", "place"),
        [
            ("192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("rubbish", "unknown"),
            (None, "unknown"),
        ],
    )
    def test_are_addresses_and_home_networks(self, address, place):
        assert network(address) == place

    @pytest.mark.parametrize(
        ("seconds", "words"),
        [(1, "a second"), (2, "2 seconds"), (60, "a minute"), (61, "2 minutes")],
    )
    def test_waits_are_spoken(self, seconds, words):
        assert spoken(seconds) == words


class TestSignIn:
    """The limits at the sign-in page, with real sessions and cookies."""

    def test_forty_at_once_cost_five_hashes(self, make_app, person):
        person()
        other = make_app(login_pair_limit=5)
        browsers = [Browser(other) for _ in range(40)]
        forms = [browser.form("/login") for browser in browsers]
        real = Hasher.matches
        with (
            patch.object(Hasher, "matches", autospec=True, side_effect=real) as spy,
            ThreadPoolExecutor(40) as pool,
        ):
            answers = list(
                pool.map(
                    lambda pair: pair[0].post(
                        "/login",
                        {**pair[1], "email": "ada@flagon.test", "password": WRONG},
                    ),
                    zip(browsers, forms, strict=True),
                )
            )

        assert spy.call_count == 5
        assert sorted(answer.status_code for answer in answers) == (
            [422] * 5 + [429] * 35
        )

    def test_victim_gets_in_from_the_own_browser_while_attacked(self, make_app, person):
        person()
        other = make_app(login_pair_limit=2, login_account_limit=3)
        own, strange = Browser(other), Browser(other)
        own.sign_in()
        own.post("/account/sign-out", own.form("/account"))
        attacker = Browser(other)
        hidden = attacker.form("/login")
        for number in range(12):
            attacker.post(
                "/login",
                {**hidden, "email": "ada@flagon.test", "password": WRONG},
                headers={"X-Forwarded-For": f"198.51.100.{number}"},
            )

        assert strange.sign_in().status_code == 429
        assert own.sign_in().status_code == 303

    def test_nobody_is_locked_out_for_good(self, make_app, person):
        person()
        other = make_app(login_pair_limit=2, login_account_limit=3)
        clock = other.extensions["flagon.auth"].guesses._attempts._clock
        for _ in range(50):
            Browser(other).sign_in(password=WRONG)

        clock.now += 61

        assert Browser(other).sign_in().status_code == 303

    def test_wrong_guesses_of_the_device_count_apart(self, make_app, person):
        person()
        other = make_app(login_pair_limit=1)
        own = Browser(other)
        own.sign_in()
        own.post("/account/sign-out", own.form("/account"))

        found = [own.sign_in(password=WRONG).status_code for _ in range(4)]

        assert found == [422] * 2 + [429] * 2
        assert Browser(other).sign_in().status_code == 303

    def test_device_cookie_is_for_us_and_not_for_scripts(self, make_app, person):
        person()
        secure = Browser(make_app(), "https")
        secure.sign_in()

        cookie = secure.cookies()["__Host-flagon_login_device"]

        assert cookie.secure
        assert cookie.http_only
        assert cookie.same_site == "Lax"
        assert cookie.path == "/"

    def test_unknown_accounts_wait_as_long_as_known_ones(self, make_app, person):
        person()
        other = make_app(login_pair_limit=2)

        found = {
            email: [
                (answer.status_code, answer.headers.get("Retry-After"))
                for answer in (Browser(other).sign_in(email, WRONG) for _ in range(4))
            ]
            for email in ("ada@flagon.test", "eve@flagon.test")
        }

        assert found["ada@flagon.test"] == found["eve@flagon.test"]

    def test_programs_get_a_problem_and_people_a_page(self, make_app):
        other = make_app(login_pair_limit=1)
        browser = Browser(other)
        browser.sign_in("eve@flagon.test", WRONG)

        page = browser.sign_in("eve@flagon.test", WRONG)

        assert page.status_code == 429
        assert page.mimetype == "text/html"
        assert page.headers["Retry-After"] == "1"
        assert page.headers["RateLimit"] == '"password";r=0;t=1'

    def test_password_is_never_in_a_refusal(self, make_app):
        other = make_app(login_pair_limit=1)
        browser = Browser(other)
        for _ in range(3):
            answer = browser.sign_in("eve@flagon.test", PASSWORD)

        assert PASSWORD not in answer.get_data(as_text=True)


class TestClientFailures:
    """Clients that cannot prove themselves, at every endpoint that asks them to."""

    @pytest.mark.parametrize("path", ["/oauth/token", "/oauth/introspect"])
    def test_are_slowed_down_and_harm_no_other(self, app, parts, path):
        wrong = [
            app.test_client().post(
                path,
                data={"grant_type": "client_credentials", "token": "x"},
                headers=basic("worker", "guess"),
            )
            for _ in range(52)
        ]
        right = token_request(app, "worker", grant_type="client_credentials")

        assert [answer.status_code for answer in wrong] == [401] * 50 + [429] * 2
        assert wrong[-1].json["error"] == "temporarily_unavailable"
        assert wrong[-1].headers["Retry-After"] == "1"
        assert right.status_code == 200
