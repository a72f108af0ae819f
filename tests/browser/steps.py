"""What several tests do in the pages."""

import json
import uuid
from contextlib import contextmanager
from gettext import GNUTranslations, NullTranslations
from pathlib import Path

from harness.waiting import until
from playwright.sync_api import expect

LOCALES = Path(__file__).parents[2] / "services/web/src/flagon_web/locale"


class _Unknown(NullTranslations):
    """What is no text of the pages is a mistake of the test."""

    def gettext(self, message):
        raise LookupError(message)


def words_of(language):
    """Return what says a text of the pages in a language; English is what they are in."""
    if language == "en":
        return str
    path = LOCALES / language / "LC_MESSAGES/messages.mo"
    with path.open("rb") as file:
        known = GNUTranslations(file)
    known.add_fallback(_Unknown())
    return known.gettext


def press(page, words):
    """Press a button of the page by all that stands on it."""
    page.locator("main").get_by_role("button", name=words, exact=True).click()


def a_file(folder, rows=40, *, broken=0):
    """Write a supplier's file whose products no other test knows."""
    mark = uuid.uuid4().hex[:8]
    lines = ["Artikelnummer;Titel;Autor;Preis;Bestand"]
    lines += [
        f"{mark}-{n};Bräuche {mark} Band {n} (Bräuche, #{n});Ünal Öz;{n % 90 + 5},50;7"
        for n in range(rows)
    ]
    lines += [f"{mark} no sku {n};x;y;z;-1" for n in range(broken)]
    path = folder / "lieferung.csv"
    path.write_text("\n".join(lines), encoding="cp1252")
    return path, mark


def a_product(client, **members):
    """Make a product of a name that no other test knows and return it."""
    word = f"t{uuid.uuid4().hex[:10]}"
    new = {"sku": word, "name": word, "price_minor": 900, "status": "active"}
    made = client.post("/api/v1/products", json={**new, **members})
    assert made.status_code == 201, made.text
    return made.json()


@contextmanager
def stopped(stack, name):
    """Stop a process of the stack for as long as the block lasts."""
    stack.make("stop", P=name)
    try:
        yield
    finally:
        stack.make("start", P=name)


def a_picture(browser, width=700, height=500):
    """Return the bytes of a picture that no other test has."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_content(f"<h1>{uuid.uuid4().hex}</h1>")
    try:
        return page.screenshot(type="png")
    finally:
        page.close()


def illustrated(client, browser, sizes, **members):
    """Make a product with pictures of these sizes and return it as it is with all."""
    product = a_product(client, **members)
    path = f"/api/v1/products/{product['id']}"
    for number, size in enumerate(sizes, 1):
        file = ("x.png", a_picture(browser, *size), "image/png")
        sent = client.post(
            f"{path}/images", files={"file": file}, data={"alt": f"Side {number}"}
        )
        assert sent.status_code == 201, sent.text

    def shown():
        found = client.get(f"{path}/images").json()["items"]
        return found if all(one["thumbnails"] for one in found) else None

    return {**product, "images": until(shown, what="the thumbnails")}


def find(page, mark, number):
    page.goto("/")
    page.fill("#q", f"{mark} Band {number}")
    page.press("#q", "Enter")
    page.click(f".book__link:has-text('{mark} Band {number}') >> nth=0")
    expect(page.locator("h1")).to_contain_text(mark)


def imported(person, folder, rows=40, **more):
    """Import a file by the pages and return its mark, with the job's page open."""
    path, mark = a_file(folder, rows, **more)
    person.upload(path)
    page = person.page
    page.fill("#category", "Browser tests")
    page.click("main button:text-is('Import')")
    page.wait_for_url("**/jobs/*")
    return mark


def plan(page, name, params, say=str):
    """Make a schedule of probes that is due once a year, and open its page.

    :param say: gives words of the pages in their language, as `words_of` makes it.
    """
    page.goto("/back-office/schedules/new")
    page.fill("#name", name)
    page.select_option("#kind", "probe")
    page.fill("#cron", "0 0 29 2 *")
    page.fill("#params", json.dumps(params))
    press(page, say("Make it"))
    expect(page.locator("h1")).to_have_text(name)


def run_now(page, say=str):
    """Run the open schedule and open the page of its job."""
    press(page, say("Run now"))
    page.click(f"main a:text-is('{say('its job')}')")
    page.wait_for_url("**/jobs/*")


def forget(page, say=str):
    """Delete what the page shows."""
    page.click(f"main summary:has-text('{say('Delete')}')")
    press(page, say("Delete for good"))
