"""What people see while one service is stopped, and that all is well when it is back."""

import pytest
from harness.people import Person as Program
from harness.waiting import until
from playwright.sync_api import expect
from steps import a_file, a_product, stopped

DOWN = "The service behind it does not answer."


@pytest.fixture(scope="module")
def product(stack, accounts):
    """A product that no other test knows."""
    with Program(stack, accounts["admin"]) as program, program.client() as client:
        return a_product(client, stock=3)


@pytest.fixture
def price(stack, accounts, product):
    """Change the price of the product, as a program does."""

    def change(minor):
        place = f"/api/v1/products/{product['id']}"
        with Program(stack, accounts["admin"]) as program, program.client() as client:
            tag = client.get(place).headers["ETag"]
            changed = client.patch(
                place, json={"price_minor": minor}, headers={"If-Match": tag}
            )
            assert changed.status_code == 200, changed.text

    return change


def opened(somebody, path, *, status=200):
    """Open a page and say what stands in it."""
    answer = somebody.page.goto(path)
    assert answer.status == status, path
    if status >= 400:
        somebody.forgive(status)
    return somebody.page.locator("main")


def again(somebody, path):
    """Open a page that was missed; whoever asks others gives them a few seconds."""

    def look():
        answer = somebody.page.goto(path)
        if answer.status == 503:
            somebody.forgive(503)
        return answer.status == 200

    until(look, 60, pause=0.5, what=path)
    return somebody.page.locator("main")


class TestRealtime:
    def test_is_missed_by_pages_that_poll_instead(self, stack, person, product, price):
        somebody = person()
        main = opened(somebody, f"/products/{product['slug']}")
        live = main.locator(".live").first
        expect(live).to_have_attribute("data-state", "on")

        with stopped(stack, "realtime"):
            expect(live).to_have_attribute("data-state", "lost")
            price(1234)
            expect(main.locator("[data-price]").first).to_have_text("€12.34")
            for path in ("/", "/search?q=x", "/status"):
                opened(somebody, path)
            main = opened(somebody, f"/products/{product['slug']}")
            expect(main.locator("h1")).to_have_text(product["name"])

        live = somebody.page.locator("main .live").first
        expect(live).to_have_attribute("data-state", "on")
        price(1235)
        expect(somebody.page.locator("[data-price]").first).to_have_text("€12.35")
        # That events do not come is what the console complains of.
        somebody.complaints[:] = [
            one
            for one in somebody.complaints
            if "/api/v1/events" not in one and "/socket.io/" not in one
        ]


class TestWorker:
    def test_takes_its_parts_along_and_no_others(self, stack, merchandiser, product):
        with stopped(stack, "worker"):
            expect(opened(merchandiser, "/")).not_to_contain_text(DOWN)
            main = opened(merchandiser, f"/products/{product['slug']}")
            expect(main.locator("#watch")).to_contain_text(DOWN)
            expect(main.locator("[data-price]").first).to_be_visible()
            main = opened(merchandiser, "/back-office/products")
            expect(main.locator("tbody tr").first).to_be_visible()
            main = opened(merchandiser, "/jobs", status=503)
            expect(main).to_contain_text("Jobs cannot be shown right now.")
            expect(main.locator("[data-request]")).to_be_visible()

        expect(again(merchandiser, "/jobs")).not_to_contain_text(DOWN)

    def test_processes_leave_jobs_queued(self, stack, merchandiser, tmp_path):
        page, (path, _) = merchandiser.page, a_file(tmp_path)
        with stopped(stack, "worker-bulk"):
            merchandiser.upload(path)
            page.click("main button:text-is('Import')")
            page.wait_for_url("**/jobs/*")
            expect(page.locator("[data-state-badge]")).to_have_text("Queued")
            expect(page.locator("[data-message]")).to_have_text("Waiting for its turn")

        expect(page.locator("[data-state-badge]")).to_have_text("Succeeded")


class TestAuth:
    def test_lets_everybody_browse_and_says_so_at_the_sign_in(
        self, stack, person, merchandiser, accounts, product
    ):
        stranger = person()
        with stopped(stack, "auth"):
            for somebody in (stranger, merchandiser):
                expect(opened(somebody, "/")).not_to_contain_text(DOWN)
                main = opened(somebody, f"/products/{product['slug']}")
                expect(main.locator("[data-price]").first).to_be_visible()
            # Their token is good until it ends, and needs nobody to be asked.
            opened(merchandiser, "/jobs")
            main = opened(stranger, "/sign-in", status=503)
            expect(main).to_contain_text("Signing in is not possible at the moment")

        again(stranger, "/sign-in")
        stranger.sign_in(accounts["customer"])


class TestCatalog:
    def test_leaves_pages_that_say_what_is_missing(
        self, stack, merchandiser, person, product
    ):
        stranger = person()
        with stopped(stack, "catalog"):
            for path, words in (
                ("/", "The shelf cannot be shown right now."),
                ("/search?q=x", "The results cannot be shown right now."),
                ("/categories/books", "This category cannot be shown right now."),
            ):
                expect(opened(stranger, path)).to_contain_text(f"{words} {DOWN}")
            main = opened(stranger, f"/products/{product['slug']}", status=503)
            expect(main.locator("h1")).to_have_text("Back in a moment")
            expect(opened(merchandiser, "/jobs")).not_to_contain_text(DOWN)
            opened(merchandiser, "/back-office/products", status=503)

        main = again(stranger, f"/products/{product['slug']}")
        expect(main.locator("h1")).to_have_text(product["name"])
