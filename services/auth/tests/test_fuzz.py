"""Whatever is sent to any route: never a crash, never a page for programs, nothing echoed.

The routes are those that the app has, so a new one is fuzzed without being named here.
"""

import json
import re
from urllib.parse import quote_from_bytes
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flagon_auth.__main__ import MIGRATIONS
from flagon_auth.app import create_app
from flagon_chassis import db

from .conftest import Browser, basic, bearer_of, fields, make_settings, quick
from .conftest import register_clients as put_clients

MARK = "<flagon-was-here>"
PROGRAMS = re.compile(
    r"\A/(api/|internal/|\.well-known/|openapi\.json|oauth/(?!authorize|consent|end_s))"
)
HOSTILE = [
    *(
        "",
        "\0",
        "a\0b",
        "\x7f",
        "é",
        "\u202e",
        "\ud800",
        "💥",
        " ",
        "\t",
        "\r\nX-Evil: 1",
    ),
    *("'", "' or 1=1 --", '"; drop table account; --', "%s%n", "{{7*7}}", "${7*7}"),
    *(MARK, f'"{MARK}', f"'{MARK}", f"</script>{MARK}", f"javascript:{MARK}"),
    *("../../../etc/passwd", "..%2f..", "https://evil.test/", "//evil.test", "/\\evil"),
    *("-1", "0", "9" * 400, "1e999", "NaN", "null", "true", "[]", "{}", "2026-13-45"),
    *("x" * 5000, "é" * 3000, "a." * 500, "eyJhbGciOiJub25lIn0.e30."),
    *("00000000-0000-0000-0000-000000000000", "openid", "S256", "code", "web", "none"),
    *("authorization_code", "refresh_token", "client_credentials", "allow", "reset"),
]
FIELDS = """
acr_values choice claims client_assertion client_assertion_type client_id client_secret
code code_challenge code_challenge_method code_verifier confirm credential csrf_token
current_password device_code display dpop_jkt email expires_in grant_type id
id_token_hint iss locale login_hint max_age name new_password next nonce password
post_logout_redirect_uri prompt purpose recovery_code redirect_uri refresh_token
registration request request_uri response_mode response_type scope scopes sid state token
token_type_hint ui_locales user_code limit cursor role subject action
""".split()  # noqa: SIM905 (a word list reads better)
HEADERS = """
Accept Accept-Language Authorization Content-Type Cookie DPoP Forwarded Host If-Match
If-None-Match Idempotency-Key Origin Range Referer User-Agent X-CSRF-Token
X-Forwarded-For X-Forwarded-Host X-Forwarded-Proto X-HTTP-Method-Override X-Request-ID
traceparent
""".split()  # noqa: SIM905 (a word list reads better)
JSON_NAMES = """
name email roles disabled scope scopes redirect_uris post_logout_redirect_uris
grant_types public token_endpoint_auth_method jwks backchannel_logout_uri
id_token_signed_response_alg expires_at expires_in_days version id password_hash
first_party secret_hash
""".split()  # noqa: SIM905 (a word list reads better)

# Most are hostile on purpose; some are whatever there is.
texts = st.one_of(
    st.sampled_from(HOSTILE), st.sampled_from(HOSTILE), st.text(max_size=30)
)
# A header holds neither line breaks nor anything beyond Latin-1: servers refuse those.
header_values = st.one_of(
    st.sampled_from(
        [text for text in HOSTILE if text.isascii() and text.isprintable()]
    ),
    st.sampled_from(
        [
            *(
                "Basic",
                "Basic !!!",
                "Basic " + "QQ" * 9,
                "Basic /////w==",
                "Bearer a.b.c",
            ),
            *("DPoP x", "Bearer flg_x_y", "W/", '"1"', "*", "bytes=9-1", "text/html"),
            *("application/json", "multipart/form-data", "application/json; charset=x"),
            *("application/x-www-form-urlencoded; charset=utf-7", "de-x,*;q=x"),
        ]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30),
)
pairs = st.lists(st.tuples(st.sampled_from(FIELDS), texts), max_size=6)
scalars = st.one_of(
    texts, st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False)
)
json_values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(JSON_NAMES), inner, max_size=4),
    ),
    max_leaves=8,
)
json_objects = st.dictionaries(st.sampled_from(JSON_NAMES), json_values, max_size=6)
FORM = "application/x-www-form-urlencoded"
bodies = st.one_of(
    st.tuples(st.just(FORM), pairs),
    st.tuples(st.just(FORM), pairs),
    st.tuples(st.just("application/json"), json_objects),
    st.tuples(st.just("application/json"), json_values),
    st.tuples(
        st.sampled_from([FORM, "application/json", "text/plain", "", "x" * 300]),
        st.binary(max_size=60),
    ),
    st.tuples(st.just("multipart/form-data; boundary=b"), st.binary(max_size=60)),
)


def raw(text):
    """Return the text as bytes, half characters included: they are no UTF-8."""
    return text.encode("utf-8", "surrogatepass")


def encode(listed):
    return "&".join(
        f"{quote_from_bytes(raw(name))}={quote_from_bytes(raw(value))}"
        for name, value in listed
    )


def body_of(kind, content, token):
    if isinstance(content, bytes):
        return content
    if kind == FORM:
        # With a good token, or hardly anything would get past the first check.
        return encode([("csrf_token", token), *content]).encode()
    return json.dumps(content).encode()


@pytest.fixture(scope="module")
def fuzzed_app(make_database, redis_server):
    """An app with a database of its own: an admin's program may change everything."""
    url = make_database()
    db.migrate(make_settings(url), MIGRATIONS)
    app = quick(
        create_app(
            make_settings(
                url,
                redis_server.url,
                login_pair_limit=1_000_000,
                login_account_limit=1_000_000,
                login_address_limit=1_000_000,
                register_limit=1_000_000,
            )
        )
    )
    put_clients(app)
    yield app
    app.extensions["flagon.sessions"].kw["bind"].dispose()


def routes():
    """Return every path and method; built without a database, which is not asked."""
    app = create_app(make_settings("postgresql+psycopg://nobody@127.0.0.1:1/none"))
    found = [
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in sorted(rule.methods - {"HEAD", "OPTIONS"})
        if rule.rule not in {"/livez", "/readyz", "/metrics"}
    ]
    app.extensions["flagon.sessions"].kw["bind"].dispose()
    return sorted(found, key=str)


def fill(rule, values):
    """Return the rule's path with every variable part replaced."""
    left = iter(values)

    def replace(match):
        if match[1].startswith("uuid"):
            return str(UUID(int=7))
        if match[1].startswith("any"):
            return "sent"
        value = raw(next(left, "x")).decode("latin-1").replace("/", "")
        return value or "x"

    return re.sub(r"<([^>]+)>", replace, rule)


def judge(answer, path, *, accept=""):
    """Fail unless the answer is one that this service gives on purpose."""
    body = answer.get_data()
    assert answer.status_code < 500, (answer.status_code, body[:2000])
    assert b"Traceback" not in body
    assert "X-Evil" not in answer.headers
    if answer.mimetype == "text/html":
        assert MARK.encode() not in body
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Frame-Options"] == "DENY"
    else:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    if answer.status_code >= 400 and PROGRAMS.match(path) and "html" not in accept:
        assert answer.mimetype in {"application/json", "application/problem+json"}
        assert isinstance(answer.json, dict)
    location = answer.headers.get("Location", "")
    assert not re.match(r"https?://(?!localhost)|//|/\\|javascript:", location), (
        location
    )


@pytest.fixture(scope="module")
def people(fuzzed_app):
    """A function that gives a browser in which somebody is signed in."""
    return lambda: Browser(fuzzed_app)


quickly = settings(
    max_examples=6,
    # What was found is told as it is: looking for the smallest case takes minutes.
    phases=[Phase.generate],
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize(
    ("method", "rule"), routes(), ids=lambda value: str(value).replace("/", "_")
)
class TestEveryRoute:
    @quickly
    @given(
        parts=st.lists(texts, min_size=2, max_size=2),
        query=pairs,
        headers=st.lists(
            st.tuples(st.sampled_from(HEADERS), header_values), max_size=3
        ),
        body=bodies,
    )
    def test_survives_a_stranger(
        self, fuzzed_app, app, method, rule, parts, query, headers, body
    ):
        kind, content = body
        path = fill(rule, parts)

        answer = fuzzed_app.test_client().open(
            path="/",
            method=method,
            query_string=encode(query),
            headers=[("Content-Type", kind), *headers],
            data=body_of(kind, content, "x"),
            environ_overrides={"PATH_INFO": path},
        )

        judge(answer, path, accept=str(headers))

    @quickly
    @given(parts=st.lists(texts, min_size=2, max_size=2), query=pairs, body=bodies)
    def test_survives_somebody_who_is_signed_in(
        self, fuzzed_app, app, person, method, rule, parts, query, body
    ):
        browser = self.signed_in(fuzzed_app, person)
        kind, content = body
        path = fill(rule, parts)

        answer = browser.http.open(
            path="/",
            method=method,
            base_url="http://localhost",
            query_string=encode(query),
            headers=[("Content-Type", kind), ("Accept", "text/html")],
            data=body_of(kind, content, browser.csrf),
            environ_overrides={"PATH_INFO": path},
        )

        judge(answer, path, accept="text/html")

    @quickly
    @given(parts=st.lists(texts, min_size=2, max_size=2), query=pairs, body=bodies)
    def test_survives_a_program_of_an_admin(
        self, fuzzed_app, app, person, method, rule, parts, query, body
    ):
        browser = self.signed_in(fuzzed_app, person, "admin")
        kind, content = body
        path = fill(rule, parts)
        client = "Basic" if path.startswith("/oauth/") else "Bearer"
        proof = basic() if client == "Basic" else bearer_of(browser.answer)

        answer = fuzzed_app.test_client().open(
            path="/",
            method=method,
            query_string=encode(query),
            headers=[
                ("Content-Type", kind),
                ("Accept", "application/json"),
                ("If-Match", '"1"'),
                *proof.items(),
            ],
            data=body_of(kind, content, "x"),
            environ_overrides={"PATH_INFO": path},
        )

        judge(answer, path)

    def signed_in(self, fuzzed_app, person, *roles):
        """Return a browser that is kept from example to example while its session is."""
        browser = getattr(self, "browser", None)
        if browser is None or browser.get("/account").status_code != 200:
            browser = Browser(fuzzed_app)
            number = getattr(TestEveryRoute, "number", 0)
            TestEveryRoute.number = number + 1
            email = f"fuzz{number}@flagon.test"
            person(email, *roles, where=fuzzed_app)
            assert browser.sign_in(email).status_code == 303
            browser.csrf = fields(browser.get("/account"))["csrf_token"]
            browser.answer = browser.tokens() if roles else None
            self.browser = browser
        return browser


BIG = "x" * 1_000_000


@pytest.mark.parametrize(
    ("method", "rule"),
    [row for row in routes() if row[0] in {"POST", "PATCH"}],
    ids=lambda value: str(value).replace("/", "_"),
)
class TestHugeFields:
    def test_are_refused_or_ignored(self, ada, method, rule):
        path = fill(rule, ["x", "x"])
        token = fields(ada.get("/account"))["csrf_token"]

        for name in ("email", "code", "client_id"):
            answer = ada.http.open(
                path,
                method=method,
                base_url="http://localhost",
                data={"csrf_token": token, name: BIG},
            )
            judge(answer, path)

    def test_that_are_too_many_are_refused(self, ada, method, rule):
        path = fill(rule, ["x", "x"])

        answer = ada.http.open(
            path,
            method=method,
            base_url="http://localhost",
            content_type=FORM,
            data=b"a=1&" * 200_000,
        )

        judge(answer, path)

    def test_beyond_the_limit_are_413_or_less(self, ada, method, rule):
        path = fill(rule, ["x", "x"])

        answer = ada.http.open(
            path,
            method=method,
            base_url="http://localhost",
            content_type="application/json",
            data=b"[" * 2_000_000,
        )

        judge(answer, path)
        assert answer.status_code >= 300
