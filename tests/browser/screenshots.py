"""Take the pictures of the README from a running stack.

    .venv/bin/python tests/browser/screenshots.py docs/images --file books.csv

The stack is the one at FLAGON_URL (http://localhost:8080). With `--file` its books are
imported first, which the pictures of the import show.
"""

import argparse
import os
import sys
from pathlib import Path
from uuid import uuid4

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e")]

from harness.stack import running  # noqa: E402 (found by the path above)
from people import Person, chromium  # noqa: E402 (found by the path above)

SIZES = {"desktop": (1280, 860), "phone": (390, 844), "wide": (1440, 900)}
SCHEMES = ("light", "dark")
OFFICE_WIDTHS = (390, 1440)
PARTLY = 0.25
"""Share of an import that is done when its picture is taken."""


def pictures(browser, stack, account, folder, pages):
    """Take pages in both sizes and both colour schemes.

    :param pages: their paths by name.
    """
    for size, (width, height) in SIZES.items():
        for scheme in SCHEMES:
            somebody = Person(
                browser,
                stack.url,
                viewport={"width": width, "height": height},
                color_scheme=scheme,
                reduced_motion="reduce",
            )
            somebody.sign_in(account)
            page = somebody.page
            for name, path in pages.items():
                page.goto(path)
                page.wait_for_timeout(600)
                page.screenshot(path=folder / f"{name}-{size}-{scheme}.png")
            somebody.context.close()


def scheduled(page, name, kind, params):
    """Make a schedule, run it now, and return the path of its job."""
    page.goto("/back-office/schedules/new")
    page.fill("#name", f"{name}-{uuid4().hex[:6]}")
    page.select_option("#kind", kind)
    page.fill("#cron", "30 2 * * *")
    page.fill("#params", params)
    page.click("main button:text-is('Make it')")
    page.click("main button:text-is('Run now')")
    return page.locator("main a:text-is('its job')").get_attribute("href")


def office_pages(browser, stack, account):
    """Give the back office something to show and return its pages by name."""
    somebody = Person(browser, stack.url)
    somebody.sign_in(account)
    page = somebody.page
    bad = scheduled(page, "broken", "probe", '{"crash": true}')
    job = scheduled(page, "nightly-export", "export", "{}")
    schedule = page.url
    page.goto("/back-office/webhooks/new")
    page.fill("#url", "https://shop.example.com/hooks/flagon")
    page.fill("#description", "Search of the shop")
    page.fill("#event_types", "market.flagon.product.*")
    page.click("main button:text-is('Make it')")
    page.click("main a:text-is('I have it')")
    page.click("main button:text-is('Send a test')")
    page.wait_for_selector(".delivery")
    webhook = page.url
    page.goto("/back-office/categories/new")
    page.fill("#name", "Mugs and cups")
    page.click("main button:text-is('Make it')")
    page.goto("/back-office/products/new")
    page.fill("#name", "Enamel mug, blue")
    page.fill("#sku", f"mug-{uuid4().hex[:6]}")
    page.fill("#price", "12.90")
    page.click("main button:text-is('Make it')")
    page.wait_for_selector("[data-held]")
    product = page.url.removeprefix(stack.url)
    page.goto(bad)
    page.wait_for_selector("[data-state-badge]:text-is('Failed')", timeout=180_000)
    base = "/back-office"
    page.goto(f"{base}/users?role=admin")
    page.click("main tbody a >> nth=0")
    user = page.url
    page.goto(f"{base}/clients/-/new")
    page.fill("#name", "Reading list")
    page.fill("#redirect_uris", "https://app.example.com/callback")
    page.click("main button:text-is('Register it')")
    page.click("main a:text-is('I have it')")
    client = page.url
    somebody.context.close()
    return {
        "office": base,
        "office-products": f"{base}/products",
        "office-product": product,
        "office-categories": f"{base}/categories",
        "office-jobs": "/jobs",
        "office-job": job,
        "office-dead": f"{base}/dead-letters",
        "office-letter": bad.replace("/jobs", f"{base}/dead-letters"),
        "office-schedules": f"{base}/schedules",
        "office-schedule": schedule.removeprefix(stack.url),
        "office-webhooks": f"{base}/webhooks",
        "office-webhook": webhook.removeprefix(stack.url),
        "office-export": f"{base}/export",
        "office-operations": f"{base}/operations?range=15m",
        "office-operations-service": f"{base}/operations/catalog?range=15m",
        "office-operations-request": f"{base}/operations/request?id=" + 4 * "0123abcd",
        "office-users": f"{base}/users",
        "office-user": user.removeprefix(stack.url),
        "office-clients": f"{base}/clients",
        "office-client": client.removeprefix(stack.url),
        "office-client-new": f"{base}/clients/-/new",
        "office-client-delete": f"{client.removeprefix(stack.url)}/delete",
        "office-audit": f"{base}/audit",
        "office-audit-jobs": f"{base}/audit/jobs",
        "office-audit-accounts": f"{base}/audit/accounts",
    }


def picture_office(browser, stack, account, folder):
    """Take every page of the back office, whole, in both sizes and colour schemes."""
    pages = office_pages(browser, stack, account)
    for width in OFFICE_WIDTHS:
        for scheme in SCHEMES:
            somebody = Person(
                browser,
                stack.url,
                viewport={"width": width, "height": 900},
                color_scheme=scheme,
                reduced_motion="reduce",
            )
            somebody.sign_in(account)
            for name, path in pages.items():
                somebody.page.goto(path)
                somebody.page.wait_for_timeout(400)
                somebody.page.screenshot(
                    path=folder / f"{name}-{width}-{scheme}.png", full_page=True
                )
            somebody.context.close()


def picture_import(browser, stack, account, folder, file):
    """Import a file and take its steps."""
    width, height = SIZES["desktop"]
    somebody = Person(
        browser,
        stack.url,
        viewport={"width": width, "height": height},
        color_scheme="light",
    )
    somebody.sign_in(account)
    somebody.upload(file)
    page = somebody.page
    page.screenshot(path=folder / "import-columns.png")
    page.fill("#price", "12.99")
    page.fill("#stock", "5")
    page.fill("#category", "Books")
    page.click("main button:text-is('Import')")
    page.wait_for_url("**/jobs/*")
    page.wait_for_selector("[data-state-badge]:text-is('Running')")
    # Not `wait_for_function`: the page's policy allows no `eval`.
    while page.locator("[data-bar]").evaluate("(bar) => bar.position") < PARTLY:
        page.wait_for_timeout(100)
    page.screenshot(path=folder / "import-progress.png")
    page.wait_for_selector(".tiles", timeout=180_000)
    page.screenshot(path=folder / "import-result.png")
    somebody.context.close()


def main():
    """Take all pictures and say where they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--file", type=Path, help="a supplier's file to import first")
    parser.add_argument("--book", help="the product page to show, as its path")
    parser.add_argument(
        "--office", action="store_true", help="the pages of the back office, no others"
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("FLAGON_URL", "http://localhost:8080")
    with running() as stack, chromium() as browser:
        if options.office:
            admin = stack.accounts()["admin"]
            picture_office(browser, stack, admin, options.folder)
            return
        account = stack.accounts()["merchandiser"]
        if options.file:
            picture_import(browser, stack, account, options.folder, options.file)
        book = options.book
        if not book:
            stranger = Person(browser, stack.url)
            stranger.page.goto("/")
            book = stranger.page.locator(".book__link").first.get_attribute("href")
            stranger.context.close()
        shown = {"shop": "/", "product": book, "jobs": "/jobs", "status": "/status"}
        pictures(browser, stack, account, options.folder, shown)
        # Who sees all of it.
        admin = stack.accounts()["admin"]
        behind = {
            "office": "/back-office/products",
            "operations": "/back-office/operations?range=15m",
        }
        pictures(browser, stack, admin, options.folder, behind)
    for path in sorted(options.folder.glob("*.png")):
        print(f"{path.stat().st_size // 1024:5} kB  {path}")


if __name__ == "__main__":
    main()
