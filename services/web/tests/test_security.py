import io
import re
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest

from .conftest import OWN_ID, REVIEWER, make_category, make_picture, make_watch

EVIL = "%22%3E%3Cscript%3Ealert(1)"
PLACE = {
    "profile_id": "00000000-0000-0000-0000-000000000000",
    "ref": "the-hobbit",
    "slug": "books",
    "picture_id": "00000000-0000-0000-0000-000000000000",
    "category_id": "00000000-0000-0000-0000-000000000000",
    "product_id": "00000000-0000-0000-0000-000000000000",
    "schedule_id": "0" * 8 + "-0000-0000-0000-" + "0" * 12,
    "step": "pause",
    "turn": "disable",
    "webhook_id": "0" * 8 + "-0000-0000-0000-" + "0" * 12,
    "account_id": "0" * 8 + "-0000-0000-0000-" + "0" * 12,
    "client_id": "0",
    "kid": "0",
    "delivery_id": "0" * 8 + "-0000-0000-0000-" + "0" * 12,
    "review_id": "00000000-0000-0000-0000-000000000000",
    "job_id": "0" * 8 + "-0000-0000-0000-" + "0" * 12,
}
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
ID = "0123456789abcdef" * 2
NO_PAGES = {"account.sign_in", "account.callback", "account.exchange_session"}
VOID = {
    "area",
    "base",
    "br",
    "col",
    "embed",
    "hr",
    "img",
    "input",
    "link",
    "meta",
    "source",
    "track",
    "wbr",
}
# Elements that end by themselves when another begins or the parent ends.
SVG = {"path", "circle"}


class Page(HTMLParser):
    """Collects what a browser would trip over."""

    def __init__(self, text):
        super().__init__()
        self.open, self.problems, self.ids, self.inline = [], [], set(), []
        self.feed(text)
        self.close()
        if self.open:
            self.problems.append(f"never closed: {self.open}")

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        if len(known) < len(attributes):
            self.problems.append(f"an attribute twice in <{tag}>")
        if known.get("id") in self.ids:
            self.problems.append(f"two elements have the id {known['id']}")
        if "id" in known:
            self.ids.add(known["id"])
        if tag == "img" and "alt" not in known:
            self.problems.append("an image without alt")
        for name in known:
            if name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")
        if tag == "script" and "nonce" not in known:
            self.inline.append("script without nonce")
        if tag not in VOID and tag not in SVG:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID and tag not in SVG:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag in SVG:
            return
        if not self.open or self.open[-1] != tag:
            self.problems.append(f"</{tag}> closes {self.open[-1:]}")
        else:
            self.open.pop()


@pytest.fixture
def signed_in(administrator):
    """Administrators see all pages that there are; this one is about to import a file."""
    column = EVIL.replace('"', '""')
    table = io.BytesIO(f'"{column}",b\n"{column}",2\n'.encode())
    assert administrator.submit("/import", file=(table, EVIL)).status_code == 303
    return administrator


@pytest.fixture
def people(platform, a_user, a_session, an_event, a_client, audited, job_audited):
    """Accounts whose owners wish us ill."""
    a_user(name=EVIL, email=EVIL, roles=[EVIL])
    a_user(id=OWN_ID, name="", email=EVIL, roles=["admin"], disabled=True)
    a_session(agent=EVIL, address=EVIL)
    hostile = {"name": EVIL, "scope": EVIL, "jwks": {EVIL: EVIL}}
    addresses = {"redirect_uris": [EVIL], "backchannel_logout_uri": EVIL}
    method = {"token_endpoint_auth_method": "private_key_jwt", "grant_types": [EVIL]}
    a_client(**hostile, **addresses, **method)
    a_client(**hostile, **addresses, first_party=True, disabled=True)
    a_client(name="", scope="", token_endpoint_auth_method=EVIL)
    change = {EVIL: {"from": EVIL, "to": [EVIL]}, "x": {"to": {EVIL: EVIL}}}
    audited(actor=EVIL, client=EVIL, action=EVIL, entity=EVIL, id=EVIL, changes=change)
    audited(actor=OWN_ID, client="web", changes=change, action="deleted")
    for entity in ("job", "schedule", "webhook"):
        job_audited(actor=EVIL, action=EVIL, entity=entity, id=EVIL, changes=change)
    an_event(EVIL, account_id=EVIL)
    an_event(EVIL, actor=EVIL, address=EVIL, details={EVIL: EVIL, "more": [{EVIL: 1}]})


@pytest.fixture
def shop(
    people, platform, product_with, a_review, a_job, a_schedule, a_webhook, a_delivery
):
    """A shop with something on every page."""
    evil = EVIL
    platform.add(
        *(product_with(f"Book {n}", slug=f"book-{n}") for n in range(20)),
        product_with(
            evil,
            slug="evil",
            sku=evil,
            category=evil,
            tags=[evil],
            description=evil,
            stock=0,
            status="draft",
            attributes={
                "authors": ", ".join([evil] * 6),
                evil: evil,
                "javascript": "javascript:alert(1)",
                "pages": 12,
                "signed": True,
                "tags": ["a", "b"],
                "nested": {"a": 1},
            },
        ),
        product_with(slug="the-hobbit", description="There and back again."),
    )
    for product in platform.products.values():
        if product["slug"] in {"evil", "the-hobbit"}:
            hostile = {"title": evil, "author": evil, "body": evil, "note": evil}
            pictures = [make_picture(alt=evil, thumbnails=[]), make_picture()]
            platform.pictures[product["id"]] = pictures
            a_review(product, **hostile)
            a_review(product, **hostile, subject=REVIEWER, state="rejected")
            watch = make_watch(product["id"], below_minor=5, currency="EUR")
            platform.watches[product["id"]] = watch
    platform.watches["gone"] = make_watch("gone", seen=None)
    platform.categories += [
        make_category(
            evil, slug="x", description=evil, attribute_schema={evil: [evil]}
        ),
        make_category(evil, slug="y", parent="x", path=["x", "y"]),
        make_category(evil, slug="z", parent="x", path=["x", "z"]),
    ]
    running = a_job("running", progress={"done": 1, "total": None, "message": evil})
    done = a_job(
        "succeeded",
        result={"created": 1, "updated": 2, "unchanged": 3, "refused": 4},
        artefacts=[{"name": "refused.csv", "url": "/api/v1/jobs/x/artefacts/r.csv"}],
        attempts=2,
    )
    failed = a_job("failed", error=evil, dead="poison", owner=evil)
    at = "2026-01-02T03:04:06Z"
    platform.lines.append({"number": 1, "at": at, "level": "error", "text": evil})
    platform.attempts.append(
        {"number": 1, "started_at": at, "worker": evil, "outcome": evil, "error": evil}
    )
    a_schedule(
        name=evil,
        kind=evil,
        params={evil: evil},
        owner=evil,
        cron=evil,
        time_zone=evil,
        last_firing={
            "fired_at": at,
            "outcome": "refused",
            "error": evil,
            "job_id": failed["id"],
        },
    )
    a_schedule(name="reap", task=evil, cron=None, interval_seconds=3, enabled=False)
    a_webhook(url=evil, event_types=[evil] * 4, description=evil, owner=evil)
    a_webhook(circuit="open", failures=5, paused_until=at)
    a_delivery(
        "dead",
        event_type=evil,
        log=[{"at": at, "status": None, "answer": evil, "error": evil}],
    )
    a_delivery("waiting", due_at=at, attempts=2)
    queued = a_job("queued", progress=None, started_at=None)
    for job in (running, done, failed, queued):
        platform.add_job(job)
    return platform


@pytest.fixture
def pages(shop):
    jobs = [f"/jobs/{job_id}" for job_id in shop.jobs]
    return [
        "/",
        "/search",
        "/search?q=book",
        "/search?q=nothing-fits",
        "/search?q=%3Cscript%3Ealert(1)%3C/script%3E",
        "/categories/books",
        "/categories/books?after=18",
        "/categories/x",
        "/products/evil",
        "/products/the-hobbit",
        "/products/the-hobbit?review=edit",
        "/products/the-hobbit?reviews=1",
        "/status",
        "/watches",
        "/watches?after=1",
        "/jobs",
        "/jobs?state=failed&kind=%3Cscript%3E",
        *jobs,
        "/back-office",
        "/back-office/export",
        "/back-office/export?q=%22%3E%3Cscript%3Ealert(1)&category=%22%3E%3Cscript%3E",
        "/back-office/products",
        "/back-office/products?after=18",
        "/back-office/products?q=nothing-fits",
        f"/back-office/products?q={EVIL}&status={EVIL}&category={EVIL}&tag={EVIL}",
        "/back-office/products/new",
        *(
            f"/back-office/products/{found['id']}"
            for found in shop.products.values()
            if found["slug"] == "evil"
        ),
        "/back-office/categories",
        f"/back-office/categories/new?in={EVIL}",
        *(f"/back-office/categories/{one['id']}" for one in shop.categories),
        "/back-office/webhooks",
        "/back-office/webhooks/new",
        *(f"/back-office/webhooks/{webhook_id}" for webhook_id in shop.webhooks),
        "/back-office/schedules",
        "/back-office/schedules/new",
        *(f"/back-office/schedules/{schedule_id}" for schedule_id in shop.schedules),
        "/back-office/dead-letters",
        "/back-office/dead-letters?kind=import",
        *(
            f"/back-office/dead-letters/{job_id}"
            for job_id, job in shop.jobs.items()
            if job.get("dead")
        ),
        "/back-office/users",
        "/back-office/users?email=%3Cscript%3Ealert(1)&role=%22%3E&disabled=%22%3E",
        "/back-office/users?email=%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E%40x",
        *(f"/back-office/users/{account_id}" for account_id in shop.users),
        "/back-office/clients",
        "/back-office/clients/-/new",
        *(f"/back-office/clients/{client_id}" for client_id in shop.clients),
        *(f"/back-office/clients/{client_id}/delete" for client_id in shop.clients),
        "/back-office/audit",
        "/back-office/audit?id=%22%3E%3Cscript%3Ealert(1)&entity=%22%3E%3Cimg%20src=x",
        "/back-office/audit?actor=%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E",
        "/back-office/audit?since=%22%3E%3Cscript%3Ealert(1)&until=2026-01-01T00:00",
        "/back-office/audit/jobs",
        "/back-office/audit/accounts",
        "/back-office/audit/accounts?id=%22%3E%3Cscript%3Ealert(1)",
        "/back-office/keys",
        "/back-office/operations",
        "/back-office/operations/catalog",
        f"/back-office/operations/request?id={EVIL}",
        "/import",
        "/import/columns",
        "/nowhere/%3Cscript%3E",
    ]


class TestEveryPage:
    def test_is_sound_html_without_inline_scripts_and_styles(self, signed_in, pages):
        for path in pages:
            answer = signed_in.get(path)
            page = Page(answer.text)
            assert answer.status_code in {200, 404, 422}, path
            assert page.problems == [], path
            assert page.inline == [], path
            assert answer.text.startswith("<!doctype html>"), path
            assert re.search(r"<h1\b", answer.text), path

    def test_looks_the_same_to_strangers(self, browser, pages):
        for path in pages:
            answer = browser.get(path)
            if answer.status_code != 303:
                assert Page(answer.text).problems == [], path

    def test_escapes_what_comes_from_elsewhere(self, signed_in, pages):
        for path in pages:
            text = signed_in.get(path).text
            assert "<script>alert" not in text, path
            assert "<img src=x" not in text, path
            assert 'href="javascript:' not in text, path

    @pytest.mark.parametrize(
        "hostile",
        [
            EVIL,
            f"<mark>{EVIL}</mark>",
            "<mark onclick=alert(1)>a</mark>",
            "&lt;script&gt;alert(1)&lt;/script&gt;",
            "&amp;lt;script&amp;gt;alert(1)",
            "<mark><mark>a</mark>",
            "</mark><script>alert(1)<mark>",
            "\ue001<\ue000script>alert(1)\ue001",
        ],
    )
    def test_takes_nothing_but_marks_from_what_a_search_found(
        self, signed_in, shop, hostile
    ):
        told = {"name": hostile, "description": f"<mark>hit</mark> {hostile}"}
        shop.highlights = dict.fromkeys(shop.products, told)

        answer = signed_in.get("/search?q=book")

        page = Page(answer.text)
        assert page.problems == []
        assert page.inline == []
        shown = re.findall(
            r'<(?:span class="book__title"|p class="book__hit").*', answer.text
        )
        assert len(shown) >= 20
        for line in shown:
            tags = set(re.findall(r"<(?!/)([^\s>]+)", line))
            assert tags <= {"span", "p", "mark", "div", "strong", "s"}, line
            assert "<mark>hit</mark>" in line or "book__title" in line

    def test_carries_a_strict_policy_with_a_fresh_nonce(self, signed_in, pages):
        nonces = set()
        for path in pages:
            answer = signed_in.get(path)
            policy = answer.headers["Content-Security-Policy"]
            nonce = re.search(r"script-src 'self' 'nonce-([\w-]{16,})'", policy)[1]
            assert f'nonce="{nonce}"' in answer.text
            assert "unsafe" not in policy
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "form-action 'self'" in policy
            assert "require-trusted-types-for 'script'; trusted-types flagon;" in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["X-Frame-Options"] == "DENY"
            assert answer.headers["Referrer-Policy"] == "same-origin"
            nonces.add(nonce)

        assert len(nonces) == len(pages)

    def test_of_a_person_is_kept_by_no_cache(self, signed_in, pages):
        for path in pages:
            headers = signed_in.get(path).headers
            assert headers["Cache-Control"] == "no-store", path
            assert "Cookie" in headers["Vary"], path

    def test_of_a_stranger_is_kept_by_no_shared_cache(self, make_browser, pages):
        for path in pages:
            headers = make_browser().get(path).headers
            kept = {part.strip() for part in headers["Cache-Control"].split(",")}
            assert kept & {"private", "no-store"}, path
            assert "Cookie" in headers["Vary"], path

    def test_is_among_them(self, app, pages):
        addresses = app.url_map.bind("localhost")
        looked_at = {
            addresses.match(urlsplit(path).path)[0]
            for path in pages
            if not path.startswith("/nowhere")
        }
        every = {
            rule.endpoint
            for rule in app.url_map.iter_rules()
            if "GET" in rule.methods and "." in rule.endpoint
        }

        assert every - looked_at == NO_PAGES

    def test_names_static_files_by_their_content(self, browser):
        text = browser.get("/").text
        found = re.findall(r'"(/static/[^"]+)"', text)

        assert len(found) >= 5
        for address in found:
            assert re.search(r"\?v=[0-9a-f]{12}$", address)
            answer = browser.get(address)
            assert answer.status_code == 200
            answer.close()

    def test_loads_nothing_from_elsewhere(self, signed_in, pages):
        for path in pages:
            for address in re.findall(
                r'(?:src|href|action)="([^"]+)"', signed_in.get(path).text
            ):
                assert address.startswith(("/", "#")), (path, address)
                assert not address.startswith("//")


class TestForms:
    def routes(self, app):
        for rule in app.url_map.iter_rules():
            if rule.rule in {"/backchannel-logout", "/internal/alerts"}:
                # No forms: what auth brings is signed (test_backchannel.py), and
                # Alertmanager shows a token (test_notices.py).
                continue
            for method in rule.methods - {"GET", "HEAD", "OPTIONS"}:
                values = {name: PLACE[name] for name in rule.arguments}
                with app.test_request_context():
                    yield method, app.url_for(rule.endpoint, **values)

    def test_there_are_as_many_as_we_know(self, app):
        assert len(list(self.routes(app))) == 58

    def test_refuse_what_does_not_come_from_our_page(self, signed_in, app, platform):
        before = len(platform.uploads), len(platform.revoked)
        for method, path in self.routes(app):
            for data in ({}, {"csrf_token": "wrong"}, {"csrf_token": ""}):
                answer = signed_in.client.open(
                    path, method=method, data=data, headers={"Accept": "text/html"}
                )
                assert answer.status_code == 400, path
                assert "This form has expired" in answer.text, path

        assert (len(platform.uploads), len(platform.revoked)) == before
        assert all(method != "PATCH" for method, _ in platform.calls)

    def test_refuse_the_token_of_another_session(
        self, signed_in, make_browser, platform, app
    ):
        other = make_browser()
        other.sign_in(platform)
        foreign = other.csrf()

        for _, path in self.routes(app):
            assert signed_in.post(path, {"csrf_token": foreign}).status_code == 400

    def test_over_https_also_want_our_referrer(self, make_browser, platform):
        browser = make_browser("https")
        browser.sign_in(platform)
        data = {"csrf_token": browser.csrf()}

        for referrer in ("https://evil.example/", ""):
            answer = browser.post("/sign-out", data, headers={"Referer": referrer})
            assert answer.status_code == 400
        assert browser.post("/sign-out", data).status_code == 303

    def test_carry_the_token_in_every_page(self, signed_in, pages):
        for path in pages:
            text = signed_in.get(path).text
            for form in re.findall(r"<form.*?</form>", text, re.DOTALL):
                if 'method="post"' in form:
                    assert 'name="csrf_token"' in form, path


HOSTILE = [
    ("GET", "/%00", {}),
    ("GET", "/products/%00", {}),
    ("GET", "/products/..%2f..%2fetc%2fpasswd", {}),
    ("GET", "/products/" + "a" * 5000, {}),
    ("GET", "/products/%ff%fe", {}),
    ("GET", "/products/%F0%9F%92%A9", {}),
    ("GET", "/products/x%0d%0aSet-Cookie:%20a=b", {}),
    ("GET", "/products/'%20OR%201=1--", {}),
    ("GET", "/products/nothing-like-this", {}),
    ("GET", "/products/", {}),
    ("GET", "/categories/nothing-like-this", {}),
    ("GET", "/categories/../../x", {}),
    ("GET", "/categories/%00", {}),
    ("GET", "/search?q=%00", {}),
    ("GET", "/search?q=%21%21%21", {}),
    ("GET", "/jobs/1", {}),
    ("GET", "/jobs/../../etc/passwd", {}),
    ("GET", f"/jobs/{PLACE['job_id']}", {}),
    ("GET", "/static/../app.py", {}),
    ("GET", "/static/..%2fapp.py", {}),
    ("GET", "/static/%2e%2e/%2e%2e/settings.py", {}),
    ("GET", "/static/", {}),
    ("GET", "/static/nothing.css", {}),
    ("GET", "/callback", {}),
    ("GET", "/callback?code=1&state=2", {}),
    ("GET", "/callback?error=%3Cscript%3E", {}),
    ("GET", "/callback?state=" + "x" * 9000, {}),
    ("GET", "/internal", {}),
    ("GET", "/internal/sessions", {}),
    ("GET", "/metrics/x", {}),
    ("GET", "/.env", {}),
    ("GET", "/wp-login.php", {}),
    ("GET", "/console", {}),
    ("POST", "/", {}),
    ("PUT", "/products/the-hobbit", {}),
    ("DELETE", "/products/the-hobbit", {}),
    ("PATCH", "/import", {}),
    ("POST", "/status", {}),
    ("POST", "/sign-in", {}),
    ("POST", "/internal/session", {}),
    ("POST", "/products/the-hobbit/price", {"data": {"price": "1"}}),
    ("POST", "/import", {"data": b"x", "content_type": "multipart/form-data"}),
    (
        "POST",
        "/import",
        {"data": b"--x\r\nbroken", "content_type": "multipart/form-data; boundary=x"},
    ),
    ("POST", "/import", {"data": b"{", "content_type": "application/json"}),
    ("POST", "/import/columns", {"data": {"targets-0": "sku"}}),
    ("POST", "/sign-out", {"data": b"\xff\xfe" * 100}),
    ("POST", "/sign-out", {"data": {"csrf_token": "x" * 300_000}}),
    ("POST", "/sign-out", {"data": {f"f{n}": "x" for n in range(2000)}}),
    ("POST", f"/jobs/{PLACE['job_id']}/cancel", {"data": {"csrf_token": "é\x00"}}),
]


class TestHostileRequests:
    @pytest.mark.parametrize(("method", "path", "options"), HOSTILE)
    def test_get_a_refusal_without_a_trace(
        self, signed_in, shop, method, path, options
    ):
        answer = signed_in.client.open(
            path, method=method, headers={"Accept": "text/html"}, **options
        )

        assert 400 <= answer.status_code < 500
        for leak in ("Traceback", "flagon_web", "site-packages", "werkzeug", ".py"):
            assert leak not in answer.text

    def test_are_enough(self):
        assert len(HOSTILE) >= 40

    def test_unknown_methods_are_refused(self, browser):
        answer = browser.client.open("/", method="BREW")

        assert 400 <= answer.status_code <= 501

    def test_a_crash_shows_nothing_of_the_inside(self, make_app, make_browser):
        app = make_app()

        @app.get("/-crash")
        def crash():
            raise RuntimeError("secret detail")

        answer = make_browser(app=app).get("/-crash")

        assert answer.status_code == 500
        assert "Something broke on our side" in answer.text
        assert "secret" not in answer.text
        assert "RuntimeError" not in answer.text

    @pytest.mark.parametrize("given", [ID, EVIL, "short", "x" * 65, ""])
    @pytest.mark.parametrize("path", ["/nowhere", "/jobs"])
    def test_tells_what_to_do_with_the_id_as_it_was_accepted(
        self, signed_in, platform, path, given
    ):
        platform.down.add("worker")

        answer = signed_in.get(path, headers={"X-Request-ID": given})

        accepted = answer.headers["X-Request-ID"]
        assert answer.status_code in {404, 503}
        assert (accepted == given) is (given == ID)
        assert "tell support the number of your request" in answer.text
        assert f"data-request>{accepted}</code>" in answer.text
        assert f"/back-office/operations/request?id={accepted}" in answer.text
        assert given in ("", "short", accepted) or given not in answer.text

    def test_leads_operators_alone_to_the_request(self, browser, platform):
        assert "/operations/request" not in browser.get("/nowhere").text
        platform.role = "merchandiser"
        browser.sign_in(platform)

        answer = browser.get("/nowhere", headers={"Accept-Language": "de"})

        assert "nenne dem Support die Nummer deiner Anfrage" in answer.text
        assert "/operations/request" not in answer.text

    def test_programs_get_problems(self, browser):
        answer = browser.client.get("/nowhere")

        assert answer.status_code == 404
        assert answer.mimetype == "application/problem+json"
