"""Identity: what signing in, checking a token and the provider's endpoints cost.

    python tests/bench/bench_identity.py [--rounds 9] [--seconds 1.0] [--only login]

`login` is a sign-in beside the argon2id hash that it cannot do without; `layers` tells
what the rest of a sign-in is spent on; `check` a route
that needs a token beside one that does not; `rates` the endpoints that programs call
beside a WSGI function that does nothing, under the same gunicorn. All variants of a part
run in turns and medians of the rounds count. The load comes from the same machine.

Exits with 1 when a goal is missed.
"""

import argparse
import json
import os
import statistics
import sys
from contextlib import closing
from itertools import count
from pathlib import Path
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).parent))

from figures import table
from identity.layers import Layers
from identity.measure import (
    Cost,
    Wire,
    cost,
    in_turns,
    median,
    message,
    rate,
    ratio,
)
from identity.servers import EMAIL, PASSWORD, ground, served
from identity.visitor import BASIC, Visitor, hidden_fields

GOALS = {
    "login, CPU": (">=", 0.90),
    "login over HTTP, wall": (">=", 0.75),
    "token check, CPU": ("<=", 1.25),
    "token check, wall": ("<=", 1.25),
}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def main():
    """Run the parts and print a table."""
    options = _options()
    rows = []
    with ground() as base:
        os.environ.update(base.environment)
        parts = {"login": login, "layers": layers, "check": check, "rates": rates}
        for name, part in parts.items():
            if options.only in {None, name}:
                rows += part(base, options)
    missed = table(rows, GOALS)
    return 1 if missed else 0


def _options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--only", choices=["login", "layers", "check", "rates"])
    return parser.parse_args()


# -- Signing in -----------------------------------------------------------------------------


def login(base, options):
    """Return the share of a sign-in that is the hash of the password."""
    from flagon_auth.app import create_app

    app = create_app()
    hasher = app.extensions["flagon.auth"].hasher
    stored = hasher.hash(PASSWORD)

    def hash_alone():
        assert hasher.matches(stored, PASSWORD)

    def sign_in(environ):
        for _block in app.wsgi_app(environ, _expect_303):
            pass

    inside = _hash_and_login(options, hash_alone, lambda: _form(app), sign_in)
    with served(base, "-m", "flagon_auth", "serve") as port:

        def form_over_http():
            visitor = Visitor(port)
            body = visitor.filled_in().encode()
            return message("POST", "/login", {**FORM, "Cookie": visitor.cookie}, body)

        with closing(Wire(port)) as wire:

            def sign_in_over_http(request):
                status, body = wire.ask(request)
                assert status == 303, body

            over_http = _hash_and_login(
                options, hash_alone, form_over_http, sign_in_over_http
            )
    app.extensions["flagon.sessions"].kw["bind"].dispose()
    return [
        ("login, CPU", ratio(inside["hash"], inside["login"]), ""),
        ("login, wall", ratio(inside["hash"], inside["login"], "wall"), "of 1"),
        (
            "login over HTTP, wall",
            ratio(over_http["hash"], over_http["login"], "wall"),
            "",
        ),
        ("hash alone, CPU", median(inside["hash"]) / 1000, "ms"),
        ("sign-in, CPU", median(inside["login"]) / 1000, "ms"),
    ]


def _hash_and_login(options, hash_alone, form, sign_in):
    """Measure both in turns; forms are fetched before, and not counted."""
    times = 10
    found = {"hash": [], "login": []}
    for _ in range(options.rounds + 1):
        forms = [form() for _ in range(times)]
        # One after the other: a hash leaves cold caches to what follows, in both.
        pairs = [
            (cost(hash_alone, 1), cost(lambda forms=forms: sign_in(forms.pop()), 1))
            for _ in range(times)
        ]
        for name, costs in zip(found, zip(*pairs, strict=True), strict=True):
            found[name].append(
                Cost(
                    statistics.mean(one.wall for one in costs),
                    statistics.mean(one.cpu for one in costs),
                )
            )
    # The first round warms up.
    return {name: costs[1:] for name, costs in found.items()}


def _form(app):
    """Return the request of a filled-in sign-in page."""
    from werkzeug.test import EnvironBuilder

    client = app.test_client()
    fields = hidden_fields(client.get("/login").get_data(as_text=True))
    cookie = client.get_cookie("flagon_login").value
    return EnvironBuilder(
        "/login",
        method="POST",
        data={**fields, "email": EMAIL, "password": PASSWORD},
        headers={"Cookie": f"flagon_login={cookie}"},
    ).get_environ()


def _expect_303(status, _headers, _error=None):
    assert status.startswith("303"), status


def layers(_base, options):
    """Return the CPU of a sign-in by layer, each without what it calls below itself."""
    import redis
    from redis.client import Pipeline
    from sqlalchemy.engine.default import DefaultDialect
    from sqlalchemy.orm import Session

    from flagon_auth.app import create_app
    from flagon_auth.domain import audit
    from flagon_auth.forms import LoginForm

    app, own = create_app(), Layers()
    hasher = app.extensions["flagon.auth"].hasher
    wrapped = [
        (hasher, "matches", "the hash"),
        *((Session, name, "SQLAlchemy") for name in ("execute", "scalars", "flush")),
        *((DefaultDialect, f"do_{x}", "psycopg") for x in ("execute", "commit")),
        (redis.Redis, "execute_command", "Redis"),
        (Pipeline, "execute", "Redis"),
        (LoginForm, "__init__", "form"),
        (LoginForm, "validate", "form"),
        (audit, "record", "audit record"),
        (app, "dispatch_request", "view, session, limits of guesses, logs"),
        (app, "preprocess_request", "before the view: CSRF, rate limit, …"),
        (app, "process_response", "after the view: session, metrics, …"),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _layer in wrapped]
    for owner, name, layer in wrapped:
        own.wrap(owner, name, layer)
    sign_in = own.counted(lambda sent: list(app.wsgi_app(sent, _expect_303)), "WSGI")
    times = 10 * options.rounds
    try:
        for sent in [_form(app) for _ in range(10)]:
            sign_in(sent)
        forms = [_form(app) for _ in range(times)]
        own.seconds.clear()
        for sent in forms:
            sign_in(sent)
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)
        app.extensions["flagon.sessions"].kw["bind"].dispose()
    ranked = sorted(own.seconds.items(), key=lambda pair: -pair[1])
    return [(f"sign-in: {name}", 1000 * found / times, "ms") for name, found in ranked]


# -- Checking a token ------------------------------------------------------------------------


def check(base, options):
    """Return what a route that needs a token costs beside one that does not."""
    from werkzeug.test import EnvironBuilder

    from flagon_chassis import auth, limits, web
    from flagon_chassis.settings import ServiceSettings
    from flagon_chassis.testing import ISSUER, TokenMaker

    bearer = TokenMaker()
    settings = ServiceSettings(
        environment="testing",
        secret_key="s" * 40,
        redis_store_url=base.redis,
        redis_cache_url=base.redis.replace("/0", "/2"),
        rate_limit="100000000 per minute",
        log_level="WARNING",
    )
    app = web.create_app("bench", settings, name="bench", openapi=False)
    limits.init_app(app, settings)
    auth.init_app(app, issuer=ISSUER, jwks=bearer.jwks, redis_url=base.redis)

    @app.get("/open")
    @auth.open_route
    def for_everybody():
        return {}

    @app.get("/closed")
    @auth.requires("things:read")
    def with_a_token():
        return {}

    # Small blocks and many of them: a block that the machine interrupted counts little.
    times, rounds = 50, options.rounds * 5
    one = bearer("things:read")
    # A token that comes for the first time is the other end: its signature is checked.
    fresh = [bearer("things:read") for _ in range(times * (rounds + 1))]
    numbers = count()

    def calling(path, headers):
        environ = EnvironBuilder(path, headers=headers).get_environ()

        def call():
            given = dict(environ)
            if headers is None:
                given["HTTP_AUTHORIZATION"] = fresh[next(numbers)]["Authorization"]
            for _block in app.wsgi_app(given, _expect_200):
                pass

        return call

    found = in_turns(
        {
            "open": (calling("/open", {}), times),
            "known": (calling("/closed", one), times),
            "fresh": (calling("/closed", None), times),
        },
        rounds=rounds,
    )
    app.extensions["flagon.denylist"].close()
    return [
        ("token check, CPU", ratio(found["known"], found["open"]), ""),
        ("token check, wall", ratio(found["known"], found["open"], "wall"), ""),
        ("token check, each token new, CPU", ratio(found["fresh"], found["open"]), "×"),
        ("open route, CPU", median(found["open"]), "µs"),
        ("with a token, CPU", median(found["known"]), "µs"),
        ("with a new token each time, CPU", median(found["fresh"]), "µs"),
    ]


def _expect_200(status, _headers, _error=None):
    assert status.startswith("200"), status


# -- Endpoints -------------------------------------------------------------------------------


def rates(base, options):
    """Return calls a second of what programs ask auth, beside a bare function."""
    callers = 4
    headers = {**FORM, "Authorization": BASIC}
    with (
        served(base, "-m", "flagon_auth", "serve") as port,
        served(base, "bare.py") as bare,
    ):

        def repeating(where, request, expected=200):
            def make():
                wire = Wire(where)

                def call():
                    status, body = wire.ask(request)
                    assert status == expected, body

                return call

            return [make() for _ in range(callers)]

        def posting(path, **form):
            return message("POST", path, headers, urlencode(form).encode())

        with closing(Wire(port)) as wire:
            _, body = wire.ask(posting("/oauth/token", grant_type="client_credentials"))
            token = json.loads(body)["access_token"]
        person = Visitor(port)
        person.sign_in()
        etag = person.ask("GET", "/.well-known/jwks.json").headers["ETag"]
        jwks = "/.well-known/jwks.json"
        variants = {
            "bare WSGI function": repeating(bare, message("GET", "/")),
            "JWKS": repeating(port, message("GET", jwks)),
            "JWKS, not modified": repeating(
                port, message("GET", jwks, {"If-None-Match": etag}), 304
            ),
            "token, client credentials": repeating(
                port, posting("/oauth/token", grant_type="client_credentials")
            ),
            "token, refresh": [
                _refreshing(port, headers, person.refresh_token())
                for _ in range(callers)
            ],
            "introspection": repeating(port, posting("/oauth/introspect", token=token)),
        }
        found = {name: [] for name in variants}
        for _ in range(options.rounds):
            for name, callers_ in variants.items():
                found[name].append(rate(callers_, options.seconds / 2))
    rows = []
    for name, seen in found.items():
        rows.append((name, statistics.median(seen), "a second"))
        if name != "bare WSGI function":
            pairs = zip(seen, found["bare WSGI function"], strict=True)
            share = statistics.median(one / bare for one, bare in pairs)
            rows.append((f"{name}, share of bare", share * 100, "%"))
    return rows


def _refreshing(port, headers, token):
    """Return a call that redeems the token that the last call brought."""
    wire = Wire(port)
    held = [token]

    def call():
        form = {"grant_type": "refresh_token", "refresh_token": held[0]}
        request = message("POST", "/oauth/token", headers, urlencode(form).encode())
        status, body = wire.ask(request)
        assert status == 200, body
        held[0] = json.loads(body)["refresh_token"]

    return call


if __name__ == "__main__":
    sys.exit(main())
