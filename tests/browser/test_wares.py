"""What merchandisers do with products in the back office, in a real browser."""

import json
import re
import uuid

import pytest
from axe import judge
from harness.people import Person as Program
from playwright.sync_api import expect
from steps import a_picture, a_product, forget, illustrated, press


@pytest.fixture
def product(stack, accounts):
    """A product that no other test knows, with a word that only it has."""
    with (
        Program(stack, accounts["merchandiser"]) as program,
        program.client() as client,
    ):
        return a_product(client, stock=3)


@pytest.fixture
def picture(browser):
    """Bytes of a picture that no other test has."""
    return a_picture(browser)


class TestProducts:
    def test_are_changed_by_two_at_once(self, merchandiser, person, accounts, product):
        page, place = merchandiser.page, f"/back-office/products/{product['id']}"
        page.goto(place)
        judge(page)
        admin = person()
        admin.sign_in(accounts["admin"])
        admin.page.goto(place)
        expect(page.locator("[data-lookers]")).to_contain_text("2 people")

        admin.page.fill("#name", f"{product['name']} theirs")
        # The form is held by who is in it, and others are told.
        expect(page.locator("[data-lookers]")).to_have_text(
            re.compile(r"2 people .* \S+.* is editing it\.")
        )
        admin.page.fill("#stock", "8")
        admin.page.click("main button:text-is('Save')")
        expect(admin.page.locator("main .note--success")).to_be_visible()
        expect(page.locator("[data-stale]")).to_be_visible()

        page.fill("#name", f"{product['name']} mine")
        page.fill("#price", "wrong")
        page.click("main button:text-is('Save')")
        expect(page.locator("#price-error")).to_be_visible()
        judge(page)
        page.fill("#price", "7.77")
        page.click("main button:text-is('Save')")
        expect(page.locator(".sides")).to_have_count(3)
        judge(page)
        page.click("button:text-is('Save what is chosen')")
        expect(page.locator("#name-error")).to_be_visible()
        judge(page)
        page.check("[name=take-name][value=mine]")
        page.click("button:text-is('Save what is chosen')")
        expect(page.locator("main .note--success")).to_be_visible()

        expect(page.locator("#name")).to_have_value(f"{product['name']} mine")
        expect(page.locator("#stock")).to_have_value("8")
        expect(page.locator("#price")).to_have_value("7.77")
        merchandiser.forgive(422, 409, 422)

    def test_are_made_found_archived_and_brought_back_without_scripts_on_a_phone(
        self, person, accounts, product
    ):
        somebody = person(
            java_script_enabled=False, viewport={"width": 390, "height": 844}
        )
        somebody.sign_in(accounts["merchandiser"], then="/back-office/products")
        page, word = somebody.page, product["sku"]

        page.click("main a:text-is('New product')")
        page.fill("#name", f"{word} second")
        page.fill("#sku", word)
        page.fill("#price", "12,50")
        page.click("main button:text-is('Make it')")
        expect(page.locator("#sku-error")).to_contain_text("in use")
        page.fill("#sku", f"{word}-2")
        page.click("main button:text-is('Make it')")
        expect(page.locator("h1")).to_have_text(f"{word} second")
        page.click("button:text-is('Archive it')")
        page.click("main button:text-is('Undo')")
        expect(page.locator("main .note--success")).to_be_visible()

        page.fill("#words", word)
        page.click("button:text-is('Filter')")
        expect(page.locator("tbody tr")).to_have_count(2)
        expect(page.locator(".counts")).to_contain_text("2 products")
        for box in page.locator("[name=product]").all():
            box.check()
        page.select_option("#new-status", "draft")
        page.click("button:text-is('Change it')")
        expect(page.locator("h1")).to_have_text("What became of them")
        for sku, outcome in ((word, "Updated"), (f"{word}-2", "Unchanged")):
            row = page.locator(f"tbody tr:has(code:text-is('{sku}'))")
            expect(row.locator(".badge")).to_have_text(outcome)
        page.click("main a:text-is('Back to the list')")
        expect(page.locator("tbody .badge")).to_have_text(["Draft", "Draft"])
        somebody.forgive(409)

    def test_have_nothing_that_axe_finds(self, merchandiser, product):
        page = merchandiser.page
        for path in (
            "products",
            "products?q=no-such-words-zzz",
            "products/new",
            "categories",
            "categories/new",
        ):
            page.goto(f"/back-office/{path}")
            judge(page)
        page.goto(f"/back-office/products?q={product['sku']}")
        # All at once, by the box that scripts show.
        page.check("[data-all] input")
        expect(page.locator("[data-ticked]")).to_have_text("1 ticked")
        page.click("button:text-is('Change it')")
        expect(page.locator("tbody .badge")).to_have_text("Unchanged")
        judge(page)


class TestPlans:
    @pytest.fixture
    def catalog(self, stack, accounts):
        with (
            Program(stack, accounts["merchandiser"]) as program,
            program.client() as client,
        ):
            yield client

    @pytest.fixture
    def pair(self, catalog):
        """Two products that no other test knows, found by one word."""
        first = a_product(catalog, price_minor=1299, stock=3)
        name = f"{first['name']} second"
        return [first, a_product(catalog, name=name, price_minor=995, stock=1)]

    @pytest.fixture
    def prices(self, catalog, pair):
        def prices():
            found = [catalog.get(f"/api/v1/products/{one['id']}") for one in pair]
            return [answer.json()["price_minor"] for answer in found]

        return prices

    def test_are_shown_made_and_taken_back_without_scripts_on_a_phone(
        self, german, catalog, pair, prices
    ):
        somebody, say = german(
            "merchandiser",
            java_script_enabled=False,
            viewport={"width": 390, "height": 844},
        )
        page, (first, second) = somebody.page, pair

        def ticked():
            page.goto(f"/back-office/products?q={first['name']}")
            expect(page.locator("tbody tr")).to_have_count(2)
            for box in page.locator("[name=product]").all():
                box.check()
            press(page, f"{say('Price')}…")

        def row(product):
            return page.locator(f"tbody tr:has(code:text-is('{product['sku']}'))")

        ticked()
        page.fill("#value", "viel")
        press(page, say("Show what would change"))
        expect(page.locator("#value-error")).to_contain_text("−7,5")
        page.fill("#value", "−10")
        press(page, say("Show what would change"))
        expect(row(first)).to_contain_text("12,99\N{NO-BREAK SPACE}€")
        expect(row(first)).to_contain_text("11,69\N{NO-BREAK SPACE}€")
        for cell in page.locator("main table td").all():
            box = cell.bounding_box()
            assert box["x"] + box["width"] <= 390
        assert prices() == [1299, 995]

        place = f"/api/v1/products/{second['id']}"
        etag = catalog.get(place).headers["ETag"]
        theirs = catalog.patch(
            place,
            content=json.dumps({"price_minor": 777}),
            headers={"If-Match": etag, "Content-Type": "application/merge-patch+json"},
        )
        assert theirs.status_code == 200, theirs.text
        press(page, "2 Produkte ändern")
        expect(row(second)).to_contain_text("7,77\N{NO-BREAK SPACE}€")
        expect(row(second)).to_contain_text("8,96\N{NO-BREAK SPACE}€")
        assert prices() == [1169, 777]
        press(page, say("Look at what was left alone"))
        expect(row(second)).to_contain_text("7,77\N{NO-BREAK SPACE}€")
        expect(page.locator("tbody tr")).to_have_count(1)
        page.fill("#value", "-10 %")
        press(page, say("Show what would change"))
        press(page, "1 Produkt ändern")
        expect(row(second)).to_contain_text("6,99\N{NO-BREAK SPACE}€")
        assert prices() == [1169, 699]
        press(page, say("Undo"))
        expect(page.locator("h1")).to_have_text(say("What became of them"))
        expect(page.locator("tbody tr")).to_have_count(1)
        assert prices() == [1169, 777]
        somebody.forgive(422)

    def test_are_made_by_the_keyboard_and_have_nothing_that_axe_finds(
        self, merchandiser, pair
    ):
        page = merchandiser.page
        page.goto(f"/back-office/products?q={pair[0]['name']}")
        page.locator("[data-all] input").press("Space")
        expect(page.locator("[data-ticked]")).to_have_text("2 ticked")
        page.get_by_role("button", name="Stock…").press("Enter")
        judge(page)
        page.fill("#value", "-2")
        page.press("#value", "Enter")
        expect(page.locator(".counts")).to_contain_text("1 would be refused")
        judge(page)
        page.get_by_role("button", name="Change 1 product").press("Enter")
        expect(page.locator("h1")).to_have_text("What became of them")
        judge(page)
        page.get_by_role("button", name="Undo").press("Enter")
        expect(page.locator("tbody .badge")).to_have_text(["Updated"])

        for change in ("Category…", "Price…"):
            page.goto(f"/back-office/products?q={pair[0]['name']}")
            page.check("[data-all] input")
            press(page, change)
            expect(page.locator("#value")).to_be_visible()
            judge(page)


class TestPictures:
    def test_are_sent_while_the_form_stays(self, merchandiser, product, picture):
        page = merchandiser.page
        page.goto(f"/back-office/products/{product['id']}")
        page.fill("#name", "Half a na")
        expect(page.locator("[data-live]")).to_have_attribute("data-state", "on")

        page.set_input_files(
            "#file", {"name": "x.txt", "mimeType": "text/plain", "buffer": b"no"}
        )
        page.click("main button:text-is('Upload')")
        expect(page.locator("[data-told]")).to_contain_text("Send JPEG")
        file = {"name": "x.png", "mimeType": "image/png", "buffer": picture}
        page.set_input_files("#file", file)
        page.fill("#alt", "Words on white")
        page.click("main button:text-is('Upload')")
        expect(page.locator(".pictured img")).to_have_attribute("alt", "Words on white")
        expect(page.locator("[data-told]")).to_have_text("The picture is added.")
        judge(page)
        expect(page.locator("#name")).to_have_value("Half a na")
        # A new picture is a new version, and no reason to ask anybody.
        page.click("main button:text-is('Save')")
        expect(page.locator("main .note--success")).to_have_text(
            "The product is saved."
        )

        page.click(".pictured summary")
        page.click("main button:text-is('Delete this picture')")
        expect(page.locator(".pictured")).to_have_count(0)
        merchandiser.forgive(415)

    def test_change_places_and_texts(self, merchandiser, stack, accounts, browser):
        with (
            Program(stack, accounts["merchandiser"]) as program,
            program.client() as client,
        ):
            product = illustrated(client, browser, [(700, 500), (500, 700)])
        page = merchandiser.page
        page.goto(f"/back-office/products/{product['id']}")
        texts = page.locator(".pictured [name=alt]")
        expect(texts).to_have_count(2)

        for step, first in (("Later: Picture 1", 2), ("Earlier: Picture 2", 1)):
            press(page, step)
            expect(texts.first).to_have_value(f"Side {first}")
        page.fill("#alt-2", "The other side")
        press(page, "Save the text: Picture 2")
        expect(page.locator(".pictured img").last).to_have_attribute(
            "alt", "The other side"
        )


class TestCategories:
    def test_are_moved_by_the_keyboard_and_deleted(self, merchandiser, product):
        page, word = merchandiser.page, f"c{uuid.uuid4().hex[:10]}"
        for name in (f"{word} a", f"{word} b"):
            page.goto("/back-office/categories/new")
            page.fill("#name", name)
            page.click("main button:text-is('Make it')")
            expect(page.locator("main .note--success")).to_be_visible()

        row = page.locator(f"#c-{word}-b")
        row.get_by_role("button", name="Into the one above").press("Enter")
        expect(row).to_have_class(re.compile("tree__row--1"))
        judge(page)
        row.get_by_role("button", name="Out").press("Enter")
        expect(row).to_have_class(re.compile("tree__row--0"))
        row.get_by_role("button", name="Into the one above").press("Enter")
        expect(row).to_have_class(re.compile("tree__row--1"))

        page.click(f"main a:has-text('{word} a')")
        judge(page)
        above = page.url
        forget(page)
        expect(page.locator("main .note--warning")).to_contain_text("Move or delete")
        page.goto("/back-office/categories")
        for name in ("b", "a"):
            page.click(f"main a:has-text('{word} {name}')")
            forget(page)
            page.wait_for_url("**/categories")
        expect(page.locator(f"#c-{word}-a")).to_have_count(0)
        assert page.goto(above).status == 404
        merchandiser.forgive(404)

    def test_ask_something_of_the_attributes_of_their_products(
        self, merchandiser, product
    ):
        page, word = merchandiser.page, f"c{uuid.uuid4().hex[:10]}"
        page.goto("/back-office/categories/new")
        page.fill("#name", word)
        page.fill("#attribute_schema", '{"type": "object", "required": 7}')
        page.click("main button:text-is('Make it')")
        expect(page.locator("#attribute_schema-error")).to_contain_text("required")
        judge(page)
        schema = {"type": "object", "properties": {"colour": {"const": "red"}}}
        page.fill("#attribute_schema", json.dumps(schema))
        page.click("main button:text-is('Make it')")
        page.click(f"main a:has-text('{word}')")
        # What a merge patch cannot say.
        schema["properties"] = {"colour": {"enum": ["blue"]}, "glaze": {"const": None}}
        page.fill("#attribute_schema", json.dumps(schema))
        page.click("main button:text-is('Save')")
        page.click(f"main a:has-text('{word}')")
        category = page.url
        written = page.locator("#attribute_schema").input_value()
        assert json.loads(written) == schema

        page.goto(f"/back-office/products/{product['id']}")
        page.select_option("#category", word)
        page.fill("#attributes", '{"colour": "green"}')
        page.click("main button:text-is('Save')")
        expect(page.locator("#attributes-error")).to_contain_text("colour")
        page.fill("#attributes", '{"colour": "blue"}')
        page.click("main button:text-is('Save')")
        expect(page.locator("main .note--success")).to_be_visible()
        page.select_option("#category", "")
        page.click("main button:text-is('Save')")
        expect(page.locator("main .note--success")).to_be_visible()
        page.goto(category)
        forget(page)
        merchandiser.forgive(422, 422)
