"""What people do in the shop, in a real browser."""

import re
import uuid

import pytest
from harness.people import Person as Program
from people import Person
from playwright.sync_api import expect
from steps import a_file, a_product, find, imported

PHONE = {"width": 360, "height": 740}
OFFICE = "/back-office/{}"
PAGES = ("/", "/status", "/jobs", "/import", "/back-office")
LISTS = (
    *("products", "categories", "users", "clients", "keys", "webhooks"),
    *("audit", "audit/jobs", "audit/accounts"),
)
TOO_WIDE = """
    ([width, direction]) => {
      document.documentElement.dir = direction;
      return document.documentElement.scrollWidth <= width ? [] : [
        ...document.querySelectorAll("body *")
      ].filter((one) => {
        const {left, right} = one.getBoundingClientRect();
        return left < -0.5 || right > width + 0.5;
      }).map((one) => `${one.localName}.${one.className}`);
    }
"""
"""What sticks out of a page, read from one side, that is wider than it should be."""


class TestImport:
    def test_is_watched_live_and_ends_in_the_shop(self, merchandiser, tmp_path):
        page = merchandiser.page
        mark = imported(merchandiser, tmp_path, 8000, broken=3)
        loads = []
        page.on("load", lambda _: loads.append(1))
        page.evaluate(
            """() => {
              window.__seen = new Set();
              new MutationObserver(() => window.__seen.add(
                document.querySelector("[data-count]")?.textContent.trim()
              )).observe(document.body,
                {childList: true, subtree: true, characterData: true});
            }"""
        )

        expect(page.locator("[data-state-badge]")).to_have_text("Succeeded")

        seen = [text for text in page.evaluate("[...window.__seen]") if text]
        assert loads == [], "the page was loaded again"
        assert len(seen) >= 2, f"progress was not seen: {seen}"
        tiles = page.locator(".tile").all_inner_texts()
        assert [tile.split("\n")[0] for tile in tiles] == ["8,000", "0", "0", "3"]
        with page.expect_download() as download:
            page.click("text=Report of the refused rows")
        assert mark in download.value.path().read_text()

        find(page, mark, 7)
        expect(page.locator("[data-price]").first).to_have_text("€12.50")
        expect(page.locator(".product__series")).to_have_text("Bräuche, #7")

    @pytest.mark.parametrize("scripts", [True, False])
    def test_is_checked_first_and_then_run_without_another_upload(
        self, person, accounts, tmp_path, scripts
    ):
        somebody = person(java_script_enabled=scripts)
        somebody.sign_in(accounts["merchandiser"])
        page = somebody.page
        path, mark = a_file(tmp_path, 9, broken=1)
        somebody.upload(path)
        page.fill("#category", "Browser tests")
        page.check("#dry_run")
        page.click("main button:text-is('Import')")
        page.wait_for_url("**/jobs/*")
        badge, tiles = page.locator("[data-state-badge]"), page.locator(".tile")
        expect(badge).to_have_text("Succeeded")
        expect(tiles.first).to_have_text(re.compile(r"9\s*usable"))
        checked = page.url
        page.goto(f"/search?q={mark}")
        expect(page.locator(".book")).to_have_count(0)

        page.goto(checked)
        page.click("main button:text-is('Import it now')")
        page.wait_for_url(lambda url: "/jobs/" in url and url != checked)

        expect(badge).to_have_text("Succeeded")
        expect(tiles.first).to_have_text(re.compile(r"9\s*created"))
        find(page, mark, 3)
        page.goto(checked)
        expect(page.locator("main button:text-is('Import it now')")).to_have_count(0)

    def test_guesses_what_german_columns_mean(self, merchandiser, tmp_path):
        path, _ = a_file(tmp_path)
        merchandiser.upload(path)

        chosen = merchandiser.page.locator(".columns select").evaluate_all(
            "all => all.map((one) => one.value)"
        )

        assert chosen[:2] == ["sku", "name"]
        assert chosen[3:] == ["price", "stock"]

    def test_of_something_else_comes_back_with_the_reason(self, merchandiser, tmp_path):
        path = tmp_path / "picture.csv"
        path.write_bytes(b"\x89PNG\r\n\0\0\0")
        page = merchandiser.page

        page.goto("/import")
        page.set_input_files("#file", path)
        page.click("main button[type=submit]")

        expect(page.locator("[role=alert]")).to_contain_text("not text")
        merchandiser.forgive(422)

    def test_works_without_scripts(self, person, accounts, tmp_path):
        plain = person(java_script_enabled=False)
        plain.sign_in(accounts["merchandiser"])
        mark = imported(plain, tmp_path)

        # The page asks to be loaded again every few seconds until the job is done.
        expect(plain.page.locator("[data-state-badge]")).to_have_text("Succeeded")
        find(plain.page, mark, 3)


class TestPrice:
    def test_changes_in_every_open_browser(self, merchandiser, person, tmp_path):
        mark = imported(merchandiser, tmp_path, 3)
        expect(merchandiser.page.locator("[data-state-badge]")).to_have_text(
            "Succeeded"
        )
        find(merchandiser.page, mark, 2)
        address = merchandiser.page.url
        stranger = person()
        stranger.page.goto(address)
        expect(stranger.page.locator(".live").first).to_have_attribute(
            "data-state", "on"
        )
        loads = []
        stranger.page.on("load", lambda _: loads.append(1))

        merchandiser.page.fill("#price", "4,20")
        merchandiser.page.click("button:text-is('Save')")

        expect(merchandiser.page.locator(".note--success")).to_contain_text("€4.20")
        expect(stranger.page.locator("[data-price]").first).to_have_text("€4.20")
        expect(stranger.page.locator("[data-was]")).to_have_text("€7.50")
        assert loads == []

    def test_changed_by_somebody_else_is_a_conflict(self, merchandiser, tmp_path):
        mark = imported(merchandiser, tmp_path, 3)
        expect(merchandiser.page.locator("[data-state-badge]")).to_have_text(
            "Succeeded"
        )
        first = merchandiser.page
        find(first, mark, 1)
        second = merchandiser.tab()
        second.goto(first.url)
        # Before that it would not hear of the change.
        expect(second.locator(".live").first).to_have_attribute("data-state", "on")
        first.fill("#price", "8.00")
        first.click("button:text-is('Save')")
        expect(first.locator(".note--success")).to_be_visible()

        expect(second.locator("[data-stale]")).to_be_visible()
        second.fill("#price", "9.00")
        second.click("button:text-is('Save')")
        expect(second.locator("[role=alert]")).to_contain_text("It costs €8.00 now")
        second.click("button:text-is('Save')")

        expect(second.locator(".note--success")).to_contain_text("€9.00")
        merchandiser.forgive(409)
        second.close()

    def test_catches_up_after_a_lost_connection(self, merchandiser, person, tmp_path):
        mark = imported(merchandiser, tmp_path, 3)
        expect(merchandiser.page.locator("[data-state-badge]")).to_have_text(
            "Succeeded"
        )
        find(merchandiser.page, mark, 0)
        stranger = person()
        stranger.page.goto(merchandiser.page.url)
        live = stranger.page.locator(".live").first
        expect(live).to_have_attribute("data-state", "on")

        stranger.context.set_offline(True)
        expect(live).to_have_attribute("data-state", "lost")
        expect(live).to_contain_text("Reconnecting")
        merchandiser.page.fill("#price", "1.23")
        merchandiser.page.click("button:text-is('Save')")
        expect(merchandiser.page.locator(".note--success")).to_be_visible()
        stranger.context.set_offline(False)

        expect(live).to_have_attribute("data-state", "on")
        expect(stranger.page.locator("[data-price]").first).to_have_text("€1.23")
        # Being offline is what the console complains of.
        stranger.complaints[:] = [
            one for one in stranger.complaints if "ERR_INTERNET_DISCONNECTED" not in one
        ]


class TestSignIn:
    def test_and_out_again(self, merchandiser):
        page = merchandiser.page
        cookies = merchandiser.context.cookies()
        session = next(c for c in cookies if "session" in c["name"])
        assert session["httpOnly"]
        assert session["sameSite"] == "Lax"
        assert page.evaluate("Object.keys(localStorage).length") == 0

        page.click(".menu summary")
        page.click("text=Sign out")

        page.wait_for_url(re.compile(r"/$"))
        expect(page.locator("text=Sign in").first).to_be_visible()
        page.goto("/jobs")
        assert "/login" in page.url

    def test_works_over_https_too(self, browser, stack, accounts):
        somebody = Person(browser, stack.https_url)
        somebody.sign_in(accounts["customer"], "/jobs")
        session = next(
            cookie
            for cookie in somebody.context.cookies()
            if cookie["name"].startswith("__Host-flagon_session")
        )
        assert session["secure"]

        somebody.page.click(".menu summary")
        somebody.page.click("text=Sign out")

        expect(somebody.page.locator(".nav__sign-in")).to_be_visible()
        assert somebody.complaints == []
        somebody.context.close()

    def test_shows_customers_no_form_for_prices(
        self, merchandiser, person, accounts, tmp_path
    ):
        mark = imported(merchandiser, tmp_path, 1)
        expect(merchandiser.page.locator("[data-state-badge]")).to_have_text(
            "Succeeded"
        )
        find(merchandiser.page, mark, 0)
        expect(merchandiser.page.locator("#price")).to_have_count(1)
        customer = person()
        customer.sign_in(accounts["customer"])

        customer.page.goto(merchandiser.page.url)

        expect(customer.page.locator("h1")).to_contain_text(mark)
        expect(customer.page.locator("#price")).to_have_count(0)

    def test_shows_customers_no_way_to_import(self, person, accounts):
        customer = person()
        customer.sign_in(accounts["customer"])

        customer.page.goto("/")

        expect(customer.page.locator(".menu")).to_have_count(1)
        # Not by its text: an empty shop says what a merchandiser could do.
        expect(customer.page.locator("a[href*='/import']")).to_have_count(0)


class TestScripts:
    def test_of_our_pages_alone_change_things_with_the_session(self, merchandiser):
        ask = """async ([method, path, headers]) =>
            (await fetch(path, {method, headers: {"If-Match": '"1"', ...headers}})).status
        """
        page, nothing = merchandiser.page, f"/api/v1/products/{uuid.uuid4()}"
        csrf = page.get_attribute("meta[name=csrf-token]", "content")

        assert page.evaluate(ask, ["GET", "/api/v1/jobs?limit=1", {}]) == 200
        assert page.evaluate(ask, ["DELETE", nothing, {}]) == 403
        assert page.evaluate(ask, ["DELETE", nothing, {"X-CSRF-Token": "no"}]) == 403
        assert page.evaluate(ask, ["DELETE", nothing, {"X-CSRF-Token": csrf}]) == 404

        merchandiser.forgive(403, 403, 404)


@pytest.fixture
def wordy(stack, accounts):
    """Things with the longest names there may be, each one word: their pages."""
    long = f"{uuid.uuid4().hex}{'W' * 168}"
    with Program(stack, accounts["admin"]) as program, program.client() as client:

        def make(path, **members):
            made = client.post(f"/api/v1/{path}", json=members)
            assert made.status_code == 201, made.text
            return made.json()

        category = make("categories", name=long)
        product = a_product(
            client,
            name=long,
            sku=f"{uuid.uuid4().hex}{'m' * 32}",
            category=category["slug"],
            attributes={"author": "W" * 100, "series": "W" * 100, "x" * 60: "W" * 200},
            price_minor=99_999_999,
            stock=99_999_999,
            description="W" * 400,
        )
        shop = [f"/search?q={product['sku']}", f"/categories/{category['slug']}"]
        office = [f"products/{product['id']}", f"categories/{category['id']}"]
        make(
            f"products/{product['id']}/reviews",
            title="W" * 120,
            body="W" * 400,
            author="W" * 80,
            rating=5,
        )
        return [*shop, f"/products/{product['slug']}", *map(OFFICE.format, office)]


class TestPages:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_fit_a_small_phone_whatever_things_are_called(
        self, person, accounts, wordy, scheme
    ):
        somebody = person(viewport=PHONE, color_scheme=scheme, is_mobile=True)
        somebody.sign_in(accounts["admin"])

        for path in [*PAGES, *map(OFFICE.format, LISTS), *wordy]:
            somebody.page.goto(path)
            for direction in ("ltr", "rtl"):
                asked = [PHONE["width"], direction]
                assert somebody.page.evaluate(TOO_WIDE, asked) == [], (path, direction)

    def test_can_be_used_by_keyboard(self, person):
        page = person().page
        page.goto("/")
        page.keyboard.press("Tab")

        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"

    def test_renew_the_status_by_themselves(self, person):
        page = person().page
        page.goto("/status")
        with page.expect_response(lambda r: r.url.endswith("/status")):
            pass

        expect(page.locator(".service")).not_to_have_count(0)

    def test_that_are_renewed_keep_focus_and_what_is_unfolded(self, merchandiser):
        page = merchandiser.page
        page.goto("/")
        page.click(".menu summary")
        page.locator(".menu").evaluate("menu => menu.dataset.read = 'once'")
        page.focus(".menu a")
        held = page.evaluate("document.activeElement.outerHTML")

        assert page.evaluate("import('flagon/page').then((it) => it.renew('header'))")

        assert page.locator(".menu").get_attribute("data-read") is None
        assert page.locator(".menu").get_attribute("open") is not None
        assert page.evaluate("document.activeElement.outerHTML") == held

    def test_that_answer_a_form_are_not_read_again(self, merchandiser, tmp_path):
        page, asked = merchandiser.page, []
        empty = tmp_path / "empty.csv"
        empty.write_text("")
        merchandiser.page.goto("/import")
        page.set_input_files("#file", empty)
        page.click("main button[type=submit]")
        expect(page.locator("[role=alert]")).to_be_visible()
        merchandiser.forgive(422)
        page.on("request", lambda request: asked.append(request.url))

        ask = "async () => (await import('flagon/page')).renew('main')"
        assert page.evaluate(ask) is False
        assert page.url not in asked
