import base64
import hashlib
import json
import re
import threading
import time
from datetime import UTC, datetime
from html import unescape
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import redis
from argon2 import PasswordHasher
from pydantic import SecretStr
from sqlalchemy import text
from uuid_utils.compat import uuid7

from flagon_auth.__main__ import MIGRATIONS
from flagon_auth.app import create_app
from flagon_auth.domain import clients, keys
from flagon_auth.domain.clients import Registration
from flagon_auth.models import Account, AccountRole
from flagon_auth.settings import Settings
from flagon_chassis import db

QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
ISSUER = "http://localhost"
PASSWORD = "plum-harbour-92-quietly"
HASHED = QUICK.hash(PASSWORD)
WEB_SECRET = "w" * 40
WORKER_SECRET = "k" * 40
OTHER_SECRET = "o" * 40
CALLBACK = "http://localhost/callback"
ALL_SCOPES = (
    "openid profile email offline_access catalog:read reviews:write jobs:read"
    " catalog:write jobs:write ops:read jobs:manage users:read users:write"
    " catalog:purge"
)


@pytest.fixture(scope="session")
def database_url(make_database):
    url = make_database()
    db.migrate(make_settings(url), MIGRATIONS)
    return url


def make_settings(database_url, redis_url="redis://127.0.0.1:1/0", **changes):
    return Settings(
        **{
            "environment": "testing",
            "secret_key": SecretStr("s" * 40),
            "key_encryption_key": SecretStr(base64.b64encode(b"k" * 32).decode()),
            "database_url": SecretStr(database_url),
            "owner_database_url": SecretStr(database_url),
            "redis_store_url": SecretStr(redis_url),
            "redis_cache_url": SecretStr(redis_url),
            "public_url": ISSUER,
            "rate_limit": "100000 per minute",
            **changes,
        }
    )


def register_clients(app):
    now = datetime.now(UTC)
    with app.app_context(), db.transaction() as session:
        keys.ensure_keys(session, app.extensions["flagon.auth"].issuer.sealer, now=now)
        for registration in (
            Registration(
                "web",
                "Shop",
                WEB_SECRET,
                [CALLBACK, "https://localhost/callback"],
                ["http://localhost/", "https://localhost/"],
                scope=ALL_SCOPES,
                first_party=True,
            ),
            Registration(
                "cli",
                "Command line",
                None,
                ["http://127.0.0.1/callback"],
                scope=ALL_SCOPES,
                first_party=True,
            ),
            Registration(
                "worker",
                "Worker",
                WORKER_SECRET,
                grant_types=["client_credentials"],
                scope="catalog:read catalog:write",
            ),
            Registration(
                "other",
                "Somebody else's",
                OTHER_SECRET,
                ["https://other.test/cb", "com.other.app:/cb"],
                ["https://other.test/bye"],
                scope="openid email reviews:write",
            ),
        ):
            clients.put_client(session, registration, now=now)


class Clock:
    """A clock that only a test moves."""

    now = 1_800_000_000.0

    def __call__(self):
        return self.now


def quick(app):
    """Let the app hash cheaply: what hashing costs is not what most tests are about.

    Nor is how fast the machine is: a second after a refusal the next attempt is free.
    """
    parts = app.extensions["flagon.auth"]
    parts.hasher._argon2 = QUICK
    parts.hasher._dummy = HASHED
    parts.guesses._attempts._clock = Clock()
    return app


@pytest.fixture(scope="session")
def shared_app(database_url, redis_server):
    app = quick(create_app(make_settings(database_url, redis_server.url)))
    register_clients(app)
    yield app
    app.extensions["flagon.sessions"].kw["bind"].dispose()


@pytest.fixture
def app(shared_app, redis_url):
    before = registered(shared_app)
    yield shared_app
    with shared_app.app_context(), db.transaction() as session:
        # Everything of a person hangs on the account; keys stay.
        for table in (
            *("account", "mail", "outbox", "errand"),
            *("used_proof", "pushed_request"),
        ):
            session.execute(text(f"delete from {table}"))
    if registered(shared_app) != before:
        with shared_app.app_context(), db.transaction() as session:
            session.execute(text("delete from client"))
        register_clients(shared_app)


def registered(app):
    """Return what is registered about all clients, to see whether a test changed it."""
    unlike = "array['version', 'created_at', 'updated_at']"
    with app.app_context(), db.transaction() as session:
        return session.scalars(
            text(f"select (to_jsonb(client) - {unlike})::text from client order by id")
        ).all()


@pytest.fixture
def parts(app):
    return app.extensions["flagon.auth"]


@pytest.fixture
def make_app(database_url, redis_url, app):
    """More apps on the same data, with other settings."""

    made = []

    def make(**changes):
        made.append(create_app(make_settings(database_url, redis_url, **changes)))
        return quick(made[-1])

    yield make
    for other in made:
        other.extensions["flagon.sessions"].kw["bind"].dispose()


@pytest.fixture
def fresh_app(make_database, redis_url):
    """An app with an empty database of its own, which may rotate keys."""
    url = make_database()
    db.migrate(make_settings(url), MIGRATIONS)
    app = quick(create_app(make_settings(url, redis_url)))
    register_clients(app)
    yield app
    close(app)


def close(app):
    """End what works beside the requests, then the connections to the database."""
    app.extensions["flagon.denylist"].close()
    for thread in threading.enumerate():
        if thread.name == "jwks":
            # One that is only being started is listed, but cannot be waited for yet.
            while thread.ident is None:
                time.sleep(0.001)
            thread.join(10)
    app.extensions["flagon.sessions"].kw["bind"].dispose()


@pytest.fixture
def store(redis_url):
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    yield client
    client.close()


@pytest.fixture
def person(app):
    """A function that makes an account without the cost of hashing."""

    def make(email="ada@flagon.test", *roles, disabled=False, where=app):
        now = datetime.now(UTC)
        account = Account(
            id=uuid7(),
            email=email,
            email_key=email,
            name="Ada Example",
            password_hash=HASHED,
            password_changed_at=now,
            disabled=disabled,
            created_at=now,
            updated_at=now,
            assigned=[AccountRole(role=role) for role in roles or ("customer",)],
        )
        with where.app_context(), db.transaction() as session:
            session.add(account)
        return account

    return make


class Browser:
    """What a person does, with the cookies that they get."""

    def __init__(self, app, scheme="http"):
        self.app = app
        self.base = f"{scheme}://localhost"
        self.http = app.test_client()

    def get(self, path, **options):
        return self.http.get(path, base_url=self.base, **options)

    def post(self, path, data=None, **options):
        return self.http.post(path, base_url=self.base, data=data, **options)

    def form(self, path):
        """Return the hidden fields of the page's first form."""
        return fields(self.get(path))

    def sign_in(self, email="ada@flagon.test", password=PASSWORD, path="/login"):
        hidden = self.form(path)
        return self.post("/login", {**hidden, "email": email, "password": password})

    def authorize(self, **changes):
        return self.get("/oauth/authorize", query_string=request_for(**changes))

    def code(self, **changes):
        response = self.authorize(**changes)
        assert response.status_code == 302, response.get_data(as_text=True)
        return query_of(response)["code"]

    def tokens(self, client="web", **changes):
        if client == "cli":
            changes.setdefault("redirect_uri", "http://127.0.0.1/callback")
        code = self.code(client_id=client, **changes)
        redirect_uri = changes.get("redirect_uri", CALLBACK)
        response = redeem(self.app, code, client=client, redirect_uri=redirect_uri)
        assert response.status_code == 200, response.json
        return response.json

    def cookies(self):
        return {cookie.key: cookie for cookie in self.http._cookies.values()}


VERIFIER = "v" * 64
CHALLENGE = (
    base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest())
    .rstrip(b"=")
    .decode()
)


def request_for(**changes):
    asked = {
        "response_type": "code",
        "client_id": "web",
        "redirect_uri": CALLBACK,
        "scope": ALL_SCOPES,
        "state": "st",
        "nonce": "no",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        **changes,
    }
    return {name: value for name, value in asked.items() if value is not None}


SECRETS = {"web": WEB_SECRET, "worker": WORKER_SECRET, "other": OTHER_SECRET}


def basic(client="web", secret=None):
    pair = f"{client}:{secret or SECRETS[client]}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def token_request(app, client="web", path="/oauth/token", **form):
    headers = basic(client) if client in SECRETS else {}
    if client not in SECRETS:
        form = {"client_id": client, **form}
    given = {name: value for name, value in form.items() if value is not None}
    return app.test_client().post(path, data=given, headers=headers)


def redeem(app, code, client="web", **changes):
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": CALLBACK,
        "code_verifier": VERIFIER,
        **changes,
    }
    return token_request(app, client, **form)


def refresh(app, token, client="web", **changes):
    return token_request(
        app, client, grant_type="refresh_token", refresh_token=token, **changes
    )


def revoke(app, token, client="web", **changes):
    return token_request(app, client, "/oauth/revoke", token=token, **changes)


def bearer_of(answer):
    return {"Authorization": f"Bearer {answer['access_token']}"}


def me(app, answer):
    return app.test_client().get("/api/v1/me", headers=bearer_of(answer))


def fields(response):
    page = response.get_data(as_text=True)
    first = page.split("<form", 1)[-1].split("</form>", 1)[0]
    found = re.findall(r'<input[^>]*type="hidden"[^>]*>', first)
    return {
        re.search(r'name="([^"]*)"', tag)[1]: unescape(
            re.search(r'value="([^"]*)"', tag)[1]
        )
        for tag in found
    }


def query_of(response):
    query = parse_qs(urlsplit(response.location).query)
    return {name: values[0] for name, values in query.items()}


def claims_of(token):
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


def header_of(token):
    head = token.split(".")[0]
    return json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))


@pytest.fixture
def post(app):
    """The mails, as the worker gets them."""
    from .letters import Post

    return Post(app)


@pytest.fixture
def browser(app):
    return Browser(app)


@pytest.fixture
def ada(app, person, browser):
    """A browser in which a customer is signed in."""
    browser.account = person()
    assert browser.sign_in().status_code == 303
    return browser


def login_path(**changes):
    query = urlencode(request_for(**changes))
    return f"/login?{urlencode({'next': '/oauth/authorize?' + query})}"
