"""Attacks on every page at once; the routes are the app's own, so new ones are among them."""

import re
from unittest.mock import patch

import pytest
from sqlalchemy import event, text

from flagon_auth.app import create_app
from flagon_auth.domain.passwords import Hasher
from flagon_chassis import db

from .conftest import (
    PASSWORD,
    Browser,
    basic,
    bearer_of,
    fields,
    make_settings,
    token_request,
)

PAYLOAD = "<img src=x onerror=alert(1)>"
QUOTED = "\"><svg onload=alert(1)>'"
# Programs call these: they prove who they are in the request itself, no cookie counts.
PROGRAMS = re.compile(
    r"\A/(api|internal|oauth/(token|revoke|introspect|userinfo|par|device_auth))"
)
# Protocol messages that come from other pages on purpose; each has tests of its own.
FROM_ELSEWHERE = {"/oauth/authorize", "/logout", "/oauth/end_session"}
PROBES = {"/livez", "/readyz", "/metrics"}
KEY = "00000000-0000-0000-0000-000000000007"


def paths(method):
    app = create_app(make_settings("postgresql+psycopg://nobody@127.0.0.1:1/none"))
    found = [
        re.sub(r"<uuid:[^>]+>", KEY, re.sub(r"<any[^>]+>", "sent", rule.rule))
        for rule in app.url_map.iter_rules()
        if method in rule.methods and rule.rule not in PROBES
    ]
    app.extensions["flagon.sessions"].kw["bind"].dispose()
    return sorted(re.sub(r"<[^>]+>", "x", path) for path in found)


PAGES = [path for path in paths("GET") if not PROGRAMS.match(path)]
FORMS = [path for path in paths("POST") if not PROGRAMS.match(path)]


class TestCsrf:
    @pytest.mark.parametrize("path", [p for p in FORMS if p not in FROM_ELSEWHERE])
    def test_no_form_is_taken_without_our_token(self, ada, app, path):
        stolen = fields(Browser(app).get("/login"))["csrf_token"]

        for token in ({}, {"csrf_token": ""}, {"csrf_token": stolen}):
            answer = ada.post(
                path, {**token, "choice": "allow", "email": "e@evil.test"}
            )
            assert answer.status_code == 400, token

    @pytest.mark.parametrize("path", [p for p in FORMS if p not in FROM_ELSEWHERE])
    def test_no_page_does_by_get_what_its_form_does(self, ada, path):
        token = fields(ada.get("/account"))["csrf_token"]

        answer = ada.get(path, query_string={"csrf_token": token, "choice": "allow"})

        assert answer.status_code in {200, 303, 400, 403, 404, 405}
        assert ada.get("/account").status_code == 200

    @pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-Method-Override"])
    def test_no_header_makes_a_post_of_a_get(self, ada, name):
        answer = ada.get("/account/sign-out", headers={name: "POST"})

        assert answer.status_code == 405
        assert ada.get("/account").status_code == 200

    def test_no_cookie_counts_for_programs(self, ada):
        for path in ("/api/v1/me", "/api/v1/users", "/api/v1/api-keys"):
            assert ada.get(path).status_code == 401
        assert ada.post("/api/v1/api-keys", json={"name": "x"}).status_code == 401


class TestPages:
    @pytest.mark.parametrize("path", PAGES)
    def test_cannot_be_framed_cached_or_read_by_others(self, ada, path):
        answer = ada.get(
            path, headers={"Accept": "text/html", "Origin": "https://e.test"}
        )

        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers.get("Access-Control-Allow-Credentials") is None
        if answer.mimetype == "text/html":
            assert answer.headers["X-Frame-Options"] == "DENY"
            assert "no-store" in answer.headers["Cache-Control"]

    @pytest.mark.parametrize("path", PAGES)
    def test_lead_nowhere_else(self, ada, path):
        for hostile in ("https://evil.test/", "//evil.test/", "/\\evil.test/"):
            answer = ada.get(
                path,
                query_string=dict.fromkeys(
                    ("next", "back", "redirect_uri", "post_logout_redirect_uri"),
                    hostile,
                ),
            )
            assert "evil.test" not in answer.headers.get("Location", "").split("?")[0]

    @pytest.mark.parametrize("path", PAGES)
    def test_do_not_believe_a_foreign_host(self, ada, path):
        answer = ada.get(
            path,
            headers={
                "X-Forwarded-Host": "evil.test",
                "X-Host": "evil.test",
                "Forwarded": "host=evil.test",
                "Accept": "text/html",
            },
        )

        assert "evil.test" not in answer.get_data(as_text=True)
        assert "evil.test" not in str(answer.headers)

    def test_set_only_cookies_that_scripts_cannot_read(self, app, person):
        person()
        browser = Browser(app, "https")
        found = [
            *browser.get("/login").headers.getlist("Set-Cookie"),
            *browser.sign_in().headers.getlist("Set-Cookie"),
        ]

        assert len(found) > 2
        for header in found:
            assert header.startswith("__Host-")
            for part in ("Secure", "HttpOnly", "SameSite=Lax", "Path=/"):
                assert part in header


class TestStoredXss:
    """What people can name themselves and their things, on every page that there is."""

    @pytest.fixture
    def eve(self, app, person):
        """A browser of somebody with hostile names for everything."""
        person("eve@flagon.test", "admin")
        browser = Browser(app)
        browser.http.environ_base["HTTP_USER_AGENT"] = f"Mozilla/5.0 {PAYLOAD}{QUOTED}"
        browser.sign_in("eve@flagon.test")
        hidden = browser.form("/account/profile")
        with app.app_context(), db.transaction() as session:
            session.execute(
                text("update account set name = :name where email = :email"),
                {"name": PAYLOAD + QUOTED, "email": "eve@flagon.test"},
            )
            session.execute(
                text("update client set name = :name where id = 'other'"),
                {"name": PAYLOAD},
            )
        browser.post(
            "/account/api-keys",
            {**hidden, "name": PAYLOAD, "scope": "users:read", "days": "30"},
        )
        yield browser
        with app.app_context(), db.transaction() as session:
            session.execute(
                text("update client set name = 'Somebody else''s' where id = 'other'")
            )

    @pytest.mark.parametrize("path", PAGES)
    def test_of_names_and_user_agents(self, eve, path):
        answer = eve.get(path, headers={"Accept": "text/html"})

        page = answer.get_data(as_text=True)
        assert PAYLOAD not in page
        assert "<svg onload" not in page

    def test_shows_names_as_they_were_written(self, eve):
        assert "&lt;img src=x" in eve.get("/account").get_data(as_text=True)

    def test_of_a_clients_name_on_the_consent_page(self, eve):
        answer = eve.authorize(
            client_id="other",
            redirect_uri="https://other.test/cb",
            scope="openid email",
        )

        page = answer.get_data(as_text=True)
        assert answer.status_code == 200
        assert "&lt;img src=x" in page
        assert PAYLOAD not in page

    def test_of_what_was_typed_wrong(self, browser):
        for path, names in [
            ("/login", ("email",)),
            ("/register", ("name", "email")),
            ("/password/forgot", ("email",)),
            ("/device", ("user_code",)),
        ]:
            typed = dict.fromkeys(names, PAYLOAD + QUOTED)
            answer = browser.post(path, {**browser.form(path), **typed})
            assert PAYLOAD not in answer.get_data(as_text=True)
            assert "<svg onload" not in answer.get_data(as_text=True)

    @pytest.mark.parametrize("path", [*PAGES, f"/{PAYLOAD}", "/login/%3Cscript%3E"])
    def test_of_addresses(self, ada, path):
        answer = ada.get(
            path,
            query_string={"login_hint": QUOTED, "next": QUOTED, "x": PAYLOAD},
            headers={"Accept": "text/html", "Referer": PAYLOAD},
        )

        page = answer.get_data(as_text=True)
        assert PAYLOAD not in page
        assert "<svg onload" not in page


MORE = {
    "roles": "admin",
    "role": "admin",
    "disabled": "",
    "email_verified_at": "2026-01-01",
    "id": KEY,
    "account_id": KEY,
    "password_hash": "x",
    "version": "9",
}


class TestMassAssignment:
    def row(self, app, email="ada@flagon.test"):
        with app.app_context(), db.transaction() as session:
            return session.execute(
                text(
                    "select a.id::text, a.email_verified_at, a.version, r.role"
                    " from account a join account_role r on r.account_id = a.id"
                    " where a.email = :email"
                ),
                {"email": email},
            ).all()

    def test_of_a_new_account(self, browser, app):
        browser.post(
            "/register",
            {
                **browser.form("/register"),
                "name": "Ada",
                "email": "ada@flagon.test",
                "password": PASSWORD,
                **MORE,
            },
        )

        ((account_id, verified, version, role),) = self.row(app)
        assert account_id != KEY
        assert (verified, version, role) == (None, 1, "customer")

    def test_of_the_own_profile(self, ada, app):
        before = self.row(app)
        ada.post(
            "/account/profile",
            {
                **ada.form("/account/profile"),
                "name": "Ada L",
                "locale": "en",
                **MORE,
            },
        )

        after = self.row(app)
        assert [row[0] for row in after] == [row[0] for row in before]
        assert [row[3] for row in after] == ["customer"]
        assert after[0][1] == before[0][1]

    @pytest.mark.parametrize(
        "change", [{"id": KEY}, {"password_hash": "x"}, {"email_verified_at": "now"}]
    )
    def test_of_an_account_over_the_api(self, app, person, change):
        account = person("root@flagon.test", "admin")
        browser = Browser(app)
        browser.sign_in("root@flagon.test")
        proof = bearer_of(browser.tokens())

        answer = app.test_client().patch(
            f"/api/v1/users/{account.id}",
            json={"name": "Root", **change},
            headers={**proof, "If-Match": '"1"'},
        )

        assert answer.status_code == 422

    def test_of_a_token_request(self, app):
        answer = token_request(
            app,
            "worker",
            grant_type="client_credentials",
            scope="catalog:read",
            roles="admin",
            sub=KEY,
            expires_in="99999999",
        )

        assert answer.json["scope"] == "catalog:read"
        assert answer.json["expires_in"] == 300


INJECTIONS = [
    "' or '1'='1",
    "ada@flagon.test' --",
    "'; drop table account; --",
    "ada@flagon.test\\",
    "%",
    "_da@flagon.test",
    "$1",
    "{0}",
]


class TestSqlInjection:
    @pytest.mark.parametrize("typed", INJECTIONS)
    def test_at_the_sign_in_page(self, browser, person, typed):
        person()

        assert browser.sign_in(typed, PASSWORD).status_code == 422
        assert browser.sign_in(password=typed).status_code == 422
        assert browser.sign_in().status_code == 303

    @pytest.mark.parametrize("typed", INJECTIONS)
    def test_at_the_token_endpoint(self, app, typed):
        tries = [
            app.test_client().post(
                path,
                data={
                    "grant_type": "refresh_token",
                    "refresh_token": typed,
                    "token": typed,
                    "scope": typed,
                },
                headers=basic("worker"),
            )
            for path in ("/oauth/token", "/oauth/introspect", "/oauth/revoke")
        ]

        assert all(answer.status_code < 500 for answer in tries)
        assert (
            token_request(app, "worker", grant_type="client_credentials").status_code
            == 200
        )

    @pytest.mark.parametrize("typed", INJECTIONS)
    def test_at_the_api(self, app, person, typed):
        person()
        person("root@flagon.test", "admin")
        browser = Browser(app)
        browser.sign_in("root@flagon.test")
        proof = bearer_of(browser.tokens())

        for name in ("email", "role", "cursor", "limit", "subject", "action"):
            answer = app.test_client().get(
                "/api/v1/users", query_string={name: typed}, headers=proof
            )
            assert answer.status_code in {200, 400, 422}
            if answer.status_code == 200 and name == "email":
                assert answer.json["items"] == []


class TestPathTraversal:
    @pytest.mark.parametrize(
        "path",
        [
            "/static/../../../../etc/passwd",
            "/static/..%2f..%2f..%2fetc%2fpasswd",
            "/..%5c..%5cetc%5cpasswd",
            "/account/language/..%2f..%2f..%2fetc%2fpasswd",
            "/social/..%2fx/callback",
            "/.well-known/../../../etc/passwd",
            "/account/identities/..%2f..%2f/remove",
            "//etc/passwd",
        ],
    )
    def test_reads_no_file(self, ada, path):
        answer = ada.get(path)

        assert answer.status_code in {303, 308, 404, 405}
        assert "root:" not in answer.get_data(as_text=True)

    def test_language_names_no_file(self, ada):
        for code in ("..", "../../x", "de\0", "%2e%2e", "xx"):
            answer = ada.get(f"/account/language/{code}")
            assert answer.status_code in {400, 404}


class TestEnumeration:
    """Known and unknown addresses cost the same: hashes, statements and bytes.

    `tests/bench/bench_enumeration.py` compares the times.
    """

    @pytest.fixture
    def cost(self, app, parts):
        """A function that tells what a request cost, and what it answered."""
        engine = app.extensions["flagon.sessions"].kw["bind"]

        def measure(request):
            statements = []

            def seen(_connection, _cursor, statement, *_rest):
                statements.append(statement)

            event.listen(engine, "before_cursor_execute", seen)
            try:
                with patch.object(
                    Hasher, "_take_turn", autospec=True, side_effect=Hasher._take_turn
                ) as turns:
                    answer = request()
            finally:
                event.remove(engine, "before_cursor_execute", seen)
            return answer.status_code, turns.call_count, statements

        return measure

    @pytest.mark.parametrize(
        ("path", "more", "hashes"),
        [
            ("/login", {"password": "wrong-guess-of-a-stranger"}, 1),
            ("/password/forgot", {}, 0),
        ],
    )
    def test_by_work_is_impossible(self, app, person, cost, path, more, hashes):
        person("ada@flagon.test")
        found = []
        for email in ("ada@flagon.test", "eve@flagon.test"):
            browser = Browser(app)
            form = {**browser.form(path), "email": email, **more}
            found.append(cost(lambda form=form, b=browser: b.post(path, form)))

        assert found[0] == found[1]
        assert found[0][1] == hashes

    def test_by_work_is_impossible_when_registering(self, app, person, cost):
        person("ada@flagon.test")
        found = []
        for email in ("ada@flagon.test", "eve@flagon.test"):
            browser = Browser(app)
            form = {
                **browser.form("/register"),
                "name": "Ada",
                "email": email,
                "password": PASSWORD,
            }
            found.append(cost(lambda form=form, b=browser: b.post("/register", form)))

        (known, known_hashes, known_work), (new, new_hashes, new_work) = found
        assert (known, known_hashes) == (new, new_hashes) == (303, 1)
        # A known address takes back what a new one writes: one statement more or less.
        assert abs(len(known_work) - len(new_work)) <= 2


class TestSessionFixation:
    def test_a_planted_cookie_is_worthless_after_each_step(self, app, person):
        person()
        attacker, victim = Browser(app), Browser(app)
        attacker.get("/login")
        for name, cookie in attacker.cookies().items():
            victim.http.set_cookie(name, cookie.value)

        victim.sign_in()
        known = victim.cookies()["flagon_login"].value
        page = victim.get("/account")
        victim.post("/account/sign-out", fields(page))

        assert attacker.get("/account").status_code == 303
        again = Browser(app)
        again.http.set_cookie("flagon_login", known)
        assert again.get("/account").status_code == 303
