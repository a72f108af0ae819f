"""Forty hostile requests to each service: a clear refusal, nothing about the inside."""

import base64
import json
from itertools import product as pairs

import pytest

PRODUCTS = "/api/v1/products"
NOBODY = "018f0000-0000-7000-8000-000000000000"
DEEP = "[" * 100_000 + "]" * 100_000
SQL = "' OR 1=1; DROP TABLE product; --"

PAGES = ("/oauth/authorize", "/login", "/register")

TRACKS = (
    "Traceback",
    'File "/',
    ".py",
    "sqlalchemy",
    "psycopg",
    "werkzeug",
    "gunicorn",
    "redis.exceptions",
    "jinja2",
    "SELECT ",
    "/opt/",
    "/work/",
)


def unsigned(**header):
    """Return a token that claims everything and is signed by nobody."""

    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claims = {
        "iss": "http://localhost",
        "aud": "flagon-api",
        "sub": NOBODY,
        "scope": "catalog:write jobs:write users:write jobs:manage",
        "roles": ["admin"],
        "exp": 4102444800,
        "iat": 1,
    }
    return f"{part({'alg': 'none', 'typ': 'at+jwt'} | header)}.{part(claims)}.AAAA"


BAD_TOKENS = {
    "none": unsigned(),
    "hs256": unsigned(alg="HS256"),
    "jku": unsigned(alg="ES256", jku="http://127.0.0.1:1/keys"),
    "kid path": unsigned(alg="ES256", kid="../../../../dev/null"),
    "kid sql": unsigned(alg="ES256", kid=SQL),
    "garbage": "x.y.z",
    "huge": "a" * 6000,
    "dots": "....",
}


def bodies(method, path):
    """Return hostile bodies for a route that takes JSON."""
    kind = {"Content-Type": "application/json"}
    return [
        (method, path, {"content": b"{", "headers": kind}),
        (method, path, {"content": b"", "headers": kind}),
        (method, path, {"content": b"null", "headers": kind}),
        (method, path, {"content": b"[]", "headers": kind}),
        (method, path, {"content": b'"text"', "headers": kind}),
        (method, path, {"content": b"\xff\xfe\x00", "headers": kind}),
        (method, path, {"content": b'{"a": NaN}', "headers": kind}),
        (method, path, {"content": DEEP.encode(), "headers": kind}),
        (method, path, {"content": b'{"__proto__": {"x": 1}}', "headers": kind}),
        (method, path, {"content": b"<a/>", "headers": {"Content-Type": "text/xml"}}),
        (method, path, {"content": b"a" * 2_000_000, "headers": kind}),
        (method, path, {"content": b'{"sku": "\\u0000"}', "headers": kind}),
        (method, path, {"content": b'{"sku": "\\ud800"}', "headers": kind}),
    ]


def tokens(method, path, **options):
    """Return the same request with every kind of false token."""
    return [
        (method, path, {"headers": {"Authorization": f"Bearer {token}"}} | options)
        for token in BAD_TOKENS.values()
    ]


def forms(path, fields):
    """Return hostile form posts."""
    values = ["", SQL, "\0", "a" * 20_000, "{{7*7}}", "<script>alert(1)</script>"]
    return [
        ("POST", path, {"data": {field: value}})
        for field, value in pairs(fields, values)
    ]


CATALOG = [
    *bodies("POST", PRODUCTS),
    *bodies("POST", f"{PRODUCTS}/bulk"),
    *tokens("POST", PRODUCTS, json={"sku": "a", "name": "a", "price_minor": 1}),
    ("GET", f"{PRODUCTS}?limit=0", {}),
    ("GET", f"{PRODUCTS}?limit=100000", {}),
    ("GET", f"{PRODUCTS}?limit=-1", {}),
    ("GET", f"{PRODUCTS}?limit=x", {}),
    ("GET", f"{PRODUCTS}?cursor=x", {}),
    ("GET", f"{PRODUCTS}?cursor={'A' * 3000}", {}),
    ("GET", f"{PRODUCTS}?cursor=eyJpZCI6MX0.x", {}),
    ("GET", f"{PRODUCTS}/{NOBODY}", {}),
    ("GET", f"{PRODUCTS}/{SQL}", {}),
    ("GET", f"{PRODUCTS}/%00", {}),
    ("GET", f"{PRODUCTS}/..%2f..%2fetc%2fpasswd", {}),
    ("GET", f"{PRODUCTS}/" + "a" * 3000, {}),
    ("PUT", PRODUCTS, {}),
    ("TRACE", PRODUCTS, {}),
    ("PATCH", f"{PRODUCTS}/{NOBODY}", {"json": {"price_minor": -1}}),
    ("DELETE", f"{PRODUCTS}/{NOBODY}", {}),
    ("DELETE", f"{PRODUCTS}/{NOBODY}", {"headers": {"If-Match": "x" * 5000}}),
    (
        "POST",
        PRODUCTS,
        {"json": {"sku": "a"}, "headers": {"Idempotency-Key": "k" * 999}},
    ),
    ("POST", PRODUCTS, {"json": {"sku": SQL, "name": "x", "price_minor": 1}}),
    ("POST", PRODUCTS, {"json": {"sku": "x", "name": "x", "price_minor": 10**30}}),
    ("POST", PRODUCTS, {"json": {"sku": "x", "name": "x", "price_minor": 1, "id": 1}}),
    ("POST", f"{PRODUCTS}/bulk", {"json": {"items": [{}] * 1001}}),
]

WORKER = [
    *bodies("POST", "/api/v1/jobs"),
    *tokens("POST", "/api/v1/jobs", data={"kind": "import"}),
    *tokens("GET", "/api/v1/jobs"),
    ("POST", "/api/v1/jobs", {"data": {"kind": "import"}}),
    ("POST", "/api/v1/jobs", {"data": {"kind": "__import__('os')", "params": "{}"}}),
    (
        "POST",
        "/api/v1/jobs",
        {"files": {"file": ("a", b"x")}, "data": {"kind": "import", "params": "{"}},
    ),
    (
        "POST",
        "/api/v1/jobs",
        {"files": {"file": ("a", b"x")}, "data": {"kind": "import", "params": "[]"}},
    ),
    (
        "POST",
        "/api/v1/jobs",
        {
            "files": {"file": ("../../etc/passwd", b"x")},
            "data": {"kind": "nothing", "params": "{}"},
        },
    ),
    (
        "POST",
        "/api/v1/jobs",
        {
            "files": {"file": ("a", b"x")},
            "data": {"kind": "import", "params": json.dumps({"mapping": {"id": "a"}})},
        },
    ),
    (
        "POST",
        "/api/v1/jobs",
        {
            "content": b"--x\r\nbroken",
            "headers": {"Content-Type": "multipart/form-data; boundary=x"},
        },
    ),
    (
        "POST",
        "/api/v1/jobs",
        {"content": b"", "headers": {"Content-Type": "multipart/form-data"}},
    ),
    ("GET", f"/api/v1/jobs/{NOBODY}", {}),
    ("GET", "/api/v1/jobs/x", {}),
    ("GET", f"/api/v1/jobs/{SQL}", {}),
    ("GET", "/api/v1/jobs/%00", {}),
    ("GET", f"/api/v1/jobs/{NOBODY}/artefacts/..%2f..%2f..%2fetc%2fpasswd", {}),
    ("GET", f"/api/v1/jobs/{NOBODY}/artefacts/%2e%2e%2fx", {}),
    ("DELETE", f"/api/v1/jobs/{NOBODY}", {}),
    ("POST", f"/api/v1/jobs/{NOBODY}/cancel", {}),
    ("PUT", "/api/v1/jobs", {}),
    ("GET", "/api/v1/jobs?limit=0", {}),
    ("GET", "/api/v1/jobs?cursor=x", {}),
]

REALTIME = [
    *tokens("GET", "/api/v1/events?topic=jobs"),
    *tokens("GET", "/api/v1/events?topic=me"),
    *tokens("GET", "/api/v1/events?topic=products"),
    ("GET", "/api/v1/events", {}),
    ("GET", "/api/v1/events?topic=", {}),
    ("GET", "/api/v1/events?topic=nothing", {}),
    ("GET", "/api/v1/events?topic=*", {}),
    ("GET", "/api/v1/events?topic=products%0d%0aX: y", {}),
    ("GET", "/api/v1/events?topic=products%00", {}),
    ("GET", "/api/v1/events?topic=users/" + NOBODY, {}),
    ("GET", "/api/v1/events?topic=users", {}),
    ("GET", "/api/v1/events?topic=users/" + NOBODY + "/jobs", {}),
    ("GET", "/api/v1/events?topic=" + "a" * 3000, {}),
    (
        "GET",
        "/api/v1/events?" + "&".join(f"topic=products/{n}" for n in range(200)),
        {},
    ),
    ("GET", "/api/v1/events?topic=products&last_event_id=x", {}),
    ("GET", "/api/v1/events?topic=products", {"headers": {"Last-Event-ID": SQL}}),
    ("GET", "/api/v1/events?topic=products", {"headers": {"Last-Event-ID": "9" * 500}}),
    ("POST", "/api/v1/events", {}),
    ("PUT", "/api/v1/events", {}),
    ("DELETE", "/api/v1/events?topic=products", {}),
    ("GET", "/api/v1/events/x?topic=products", {}),
]

AUTH = [
    *bodies("POST", "/oauth/token"),
    *forms("/oauth/token", ["grant_type", "code"]),
    *tokens("GET", "/api/v1/me"),
    *tokens("GET", "/api/v1/users"),
    ("GET", "/oauth/authorize", {}),
    ("GET", "/oauth/authorize?client_id=nobody&response_type=code", {}),
    (
        "GET",
        "/oauth/authorize?client_id=cli&response_type=code&redirect_uri=http://127.0.0.1@evil.test/",
        {},
    ),
    (
        "GET",
        "/oauth/authorize?client_id=cli&response_type=code&redirect_uri=javascript:alert(1)",
        {},
    ),
    ("GET", f"/oauth/authorize?client_id={SQL}", {}),
    ("POST", "/login", {"data": {"email": "a@b.c", "password": "x"}}),
    ("POST", "/register", {"data": {"email": SQL, "password": "x"}}),
    ("PUT", "/login", {}),
    ("GET", "/account/%00", {}),
    ("GET", f"/api/v1/users/{NOBODY}", {}),
    ("GET", "/oauth/nothing", {}),
]

WEB = [
    *forms("/sign-out", ["csrf_token"]),
    *forms("/import", ["csrf_token", "kind"]),
    ("POST", "/", {}),
    ("PUT", "/", {}),
    ("DELETE", "/products/x", {}),
    ("TRACE", "/", {}),
    ("GET", "/products/does-not-exist", {}),
    ("GET", f"/products/{NOBODY}", {}),
    ("GET", f"/products/{SQL}", {}),
    ("GET", "/products/%00", {}),
    ("GET", "/products/..%2f..%2fetc%2fpasswd", {}),
    ("GET", "/products/{{7*7}}", {}),
    ("GET", "/categories/does-not-exist", {}),
    ("GET", "/categories/%ff%fe", {}),
    ("GET", "/static/..%2f..%2fapp.py", {}),
    ("GET", "/static/../../settings.py", {}),
    ("GET", "/static/nothing.js", {}),
    ("GET", "/nothing", {}),
    ("GET", "/.git/config", {}),
    ("GET", "/.env", {}),
    ("GET", "/wp-login.php", {}),
    ("GET", "/console", {}),
    ("GET", "/_debug_toolbar/", {}),
    ("GET", "/callback", {}),
    ("GET", "/callback?code=x&state=y", {}),
    ("GET", "/callback?error=access_denied&state=x", {}),
    ("GET", "/callback?code=" + "a" * 3000, {}),
    ("GET", "/callback?state=%00", {}),
    ("GET", "/jobs/%00", {"headers": {"Cookie": "flagon_session=x"}}),
]

# Wherever it makes sense, hostile bodies come with a token that may do the thing: what is
# refused before anybody reads it proves nothing about reading it.
HOSTILE = {
    "auth": AUTH,
    "catalog": CATALOG,
    "realtime": REALTIME,
    "web": WEB,
    "worker": WORKER,
}


@pytest.mark.parametrize("service", sorted(HOSTILE))
class TestHostileRequests:
    def test_there_are_forty(self, service):
        assert len(HOSTILE[service]) >= 40

    def test_get_a_refusal_that_shows_nothing(self, stack, merchandiser, service):
        wrong = []
        with stack.client() as client:
            for method, path, given in HOSTILE[service]:
                options = dict(given)
                headers = {"Accept": "application/json"} | options.pop("headers", {})
                if service in {"catalog", "worker"} and "Authorization" not in headers:
                    headers |= merchandiser.bearer
                with client.stream(method, path, headers=headers, **options) as answer:
                    status = answer.status_code
                    text = (
                        answer.read().decode(errors="replace") if status >= 300 else ""
                    )
                said = (
                    f"{method} {path[:100]} {str(given)[:120]} → {status} {text[:200]}"
                )
                if not 400 <= status < 500:
                    wrong.append(f"status: {said}")
                    continue
                kind = answer.headers.get("content-type", "")
                # OAuth endpoints answer as RFC 6749 says, and auth's pages are for people.
                page = path.startswith(PAGES) and kind.startswith("text/html")
                oauth = path.startswith("/oauth/") and kind.startswith(
                    "application/json"
                )
                if (
                    not oauth
                    and not page
                    and not kind.startswith("application/problem+json")
                ):
                    wrong.append(f"type {kind}: {said}")
                if any(track in text for track in TRACKS):
                    wrong.append(f"inside shown: {said}")

        assert wrong == [], "\n".join(wrong)

    def test_leave_the_service_well(self, stack, service):
        stack.ready(20)
        errors = [
            line
            for line in stack.logs(service)
            if "Traceback" in str(line) and "hostile" in str(line)
        ]

        assert errors == []
