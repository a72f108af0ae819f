import json
import re
from html import unescape

import pytest

PAGE = "/back-office/products"
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
WRITTEN = {
    "key": "0" * 32,
    "name": "Blue mug",
    "sku": "mug-blue",
    "slug": "",
    "description": "Holds *tea*.",
    "price": "9,50",
    "currency": "EUR",
    "status": "draft",
    "stock": "7",
    "category": "books",
    "tags": "tea, cups tea",
    "attributes": '{"colour": "blue"}',
}
_AREA = re.compile(
    r'<textarea[^>]* name="([^"]+)"[^>]*>\r?\n?(.*?)</textarea>', re.DOTALL
)
_SELECT = re.compile(r'<select[^>]* name="([^"]+)".*?</select>', re.DOTALL)
_CHOSEN = re.compile(r'<option selected value="([^"]*)"')


def filled(text, action):
    """Return what a browser would send of the form with this action."""
    form = next(
        part
        for part in re.findall(r"<form.*?</form>", text, re.DOTALL)
        if f'action="{action}"' in part
    )
    sent = {}
    for tag in re.findall(r"<input[^>]*>", form):
        known = dict(re.findall(r'([\w-]+)="([^"]*)"', tag))
        if known.get("type") not in {"radio", "checkbox"} or " checked" in tag:
            sent[known["name"]] = unescape(known.get("value", ""))
    sent |= {name: unescape(words) for name, words in _AREA.findall(form)}
    for found in _SELECT.finditer(form):
        chosen = _CHOSEN.search(found[0])
        sent[found[1]] = unescape(chosen[1]) if chosen else ""
    return sent


@pytest.fixture
def mug(platform, product_with):
    return platform.add(
        product_with(
            "Mug",
            sku="mug",
            description="One\nTwo",
            tags=["cups", "tea"],
            attributes={"colour": "blue", "size": {"wide": 8, "high": 9}},
        )
    )


@pytest.fixture
def at(signed_in):
    """Open the form of a product and return what a browser would send of it."""

    def open_form(product):
        place = f"{PAGE}/{product['id']}"
        return place, filled(signed_in.get(place).text, place)

    return open_form


class TestProducts:
    def test_lists_them_whether_on_sale_or_not(self, signed_in, platform, product_with):
        mug = platform.add(product_with("Mug", status="draft", stock=1234))
        platform.add(product_with("Cup"), product_with("Jar", status="archived"))

        text = signed_in.get(PAGE).text

        assert f'href="{PAGE}/{mug["id"]}"' in text
        for words in ("Mug", "Cup", "Jar", "1,234", mug["sku"], "€12.99", "Books"):
            assert words in text
        assert "3 products" in text
        for status in ("Draft", "On sale", "Archived"):
            assert f'{status} <span class="num">1</span>' in text
        asked = next(path for _, path in platform.calls if "facets" in path)
        assert "status=any" in asked

    def test_narrows_them_down(self, signed_in, platform, product_with):
        platform.add(
            product_with("Red mug", status="draft", tags=["tea"]),
            product_with("Blue mug", status="active", tags=["tea"]),
            product_with("Tall mug", status="draft", tags=[]),
            product_with("Some cup", status="draft", tags=["tea"], category="x"),
        )

        text = signed_in.get(f"{PAGE}?q=mug&status=draft&category=books&tag=tea").text

        assert "Red mug" in text
        for other in ("Blue mug", "Tall mug", "Some cup"):
            assert other not in text
        assert "1 product<" in text
        assert 'value="mug"' in text
        assert '<option value="draft" selected>' in text
        assert '<option value="books" selected>' in text
        assert '<option value="tea">1</option>' in text

    def test_takes_no_status_that_there_is_not(self, signed_in, platform):
        assert signed_in.get(f"{PAGE}?status=none").status_code == 200
        assert any("status=any" in path for _, path in platform.calls)

    def test_goes_on_page_by_page_under_the_same_filters(
        self, signed_in, platform, product_with
    ):
        platform.add(*(product_with(f"Mug {n}", tags=["tea"]) for n in range(51)))

        first = signed_in.get(f"{PAGE}?tag=tea").text
        second = signed_in.get(f"{PAGE}?tag=tea&after=50").text

        assert f'href="{PAGE}?tag=tea&amp;after=50"' in first
        assert "Mug 50" not in first
        assert "Mug 50" in second
        assert "Back to the start" in second

    def test_says_when_there_are_more_than_were_counted(
        self, signed_in, platform, product_with
    ):
        platform.add(product_with())
        platform.counted = False

        assert "More than 1 products" in signed_in.get(PAGE).text

    def test_says_what_was_searched_for_instead(
        self, signed_in, platform, product_with
    ):
        platform.add(product_with("Mug"))
        platform.corrected["mgu"] = "mug"

        assert "Showing results for" in signed_in.get(f"{PAGE}?q=mgu").text

    def test_says_when_there_are_none(self, signed_in):
        assert "No products yet" in signed_in.get(PAGE).text
        text = signed_in.get(f"{PAGE}?q=nothing").text
        assert "No product fits these filters." in text
        assert "Show all" in text

    def test_says_what_is_wrong_with_the_filters(self, signed_in):
        answer = signed_in.get(f"{PAGE}?q=!!!")

        assert answer.status_code == 422
        assert "Nothing to search for." in answer.text
        assert 'value="!!!"' in answer.text

    def test_needs_no_categories(self, signed_in, platform, mug):
        platform.silent.add("/categories")

        assert "Mug" in signed_in.get(f"{PAGE}?category=books").text
        text = signed_in.get(f"{PAGE}/{mug['id']}").text
        assert '<option selected value="books">books</option>' in text

    def test_ends_like_everything_where_it_is_forbidden(self, signed_in, platform):
        platform.refuse["catalog"] = (403, "No.")

        assert signed_in.get(PAGE).status_code == 403


class TestPermissions:
    def test_of_strangers_are_none(self, browser):
        answer = browser.get(PAGE)

        assert answer.status_code == 303
        assert answer.location.startswith("/sign-in")

    def test_show_the_way_to_those_who_have_them(self, signed_in, mug):
        assert f'href="{PAGE}"' in signed_in.get("/back-office").text
        page = signed_in.get("/products/mug").text
        assert f'href="{PAGE}/{mug["id"]}"' in page


class TestCreateProduct:
    def test_makes_it(self, signed_in, platform):
        answer = signed_in.submit(f"{PAGE}/new", **WRITTEN)

        made = next(iter(platform.products.values()))
        assert answer.location == f"{PAGE}/{made['id']}"
        assert (made["price_minor"], made["currency"]) == (950, "EUR")
        assert (made["status"], made["stock"], made["category"]) == (
            "draft",
            7,
            "books",
        )
        assert made["tags"] == ["cups", "tea"]
        assert made["attributes"] == {"colour": "blue"}
        assert made["slug"] == "blue-mug"
        assert "Blue mug is made" in signed_in.get(answer.location).text

    def test_has_an_address_of_its_own_where_one_is_written(self, signed_in, platform):
        signed_in.submit(f"{PAGE}/new", **{**WRITTEN, "slug": "mine"})

        assert next(iter(platform.products.values()))["slug"] == "mine"

    def test_sent_twice_has_one_key(self, signed_in, platform):
        signed_in.submit(f"{PAGE}/new", **WRITTEN)
        platform.products.clear()
        signed_in.submit(f"{PAGE}/new", **WRITTEN)
        signed_in.submit(f"{PAGE}/new", **{**WRITTEN, "sku": "other"})

        assert platform.keys[0] == platform.keys[1] != platform.keys[2]

    @pytest.mark.parametrize(
        ("change", "place", "words"),
        [
            ({"name": ""}, "name", "This field is required."),
            ({"sku": "-"}, "sku", "String should match a pattern"),
            ({"sku": "mug"}, "sku", "It is in use."),
            ({"price": "a lot"}, "price", "Write an amount"),
            ({"price": "1.234", "currency": "EUR"}, "price", "2 decimals at most"),
            ({"price": "200000"}, "price", "is too much"),
            ({"currency": "euro"}, "currency", "Invalid input."),
            ({"currency": ""}, "currency", "This field is required."),
            ({"stock": "-1"}, "stock", "between 0 and"),
            ({"stock": "x"}, "stock", "Not a valid integer"),
            ({"status": "sold"}, "status", "Not a valid choice"),
            ({"tags": "no-such-tag"}, "tags", "There is no tag no-such-tag."),
            ({"attributes": '{"colour": "loud"}'}, "attributes", "colour: is not one"),
            ({"attributes": "[]"}, "attributes", "Write an object"),
            ({"attributes": '{"a": NaN}'}, "attributes", "This is no JSON."),
            ({"attributes": '{"a": 1e999}'}, "attributes", "This is no JSON."),
            ({"attributes": r'{"a": "\ud800"}'}, "attributes", "This is no JSON."),
            ({"attributes": "[" * 20_000}, "attributes", "This is no JSON."),
        ],
    )
    def test_says_at_the_field_what_is_wrong(
        self, signed_in, platform, mug, change, place, words
    ):
        answer = signed_in.submit(f"{PAGE}/new", **{**WRITTEN, **change})

        assert answer.status_code in {409, 422}
        _, mark, after = answer.text.partition(f'id="{place}-error"')
        assert mark
        assert words in after.partition("</p>")[0]
        assert re.search(rf'aria-describedby="[^"]*{place}-error"', answer.text)
        assert "Holds *tea*." in answer.text
        assert list(platform.products.values()) == [mug]

    def test_says_on_top_what_is_about_no_field(self, signed_in):
        sent = {**WRITTEN, "description": "nothing but errors"}

        answer = signed_in.submit(f"{PAGE}/new", **sent)

        assert answer.status_code == 422
        assert "It is no product." in answer.text


class TestChangeProduct:
    def test_sends_only_what_was_changed(self, signed_in, platform, mug, at):
        place, sent = at(mug)
        # As it is after a sale.
        mug["stock"] = 4

        answer = signed_in.submit(place, **{**sent, "name": "Big mug"})

        assert answer.location == place
        assert (mug["name"], mug["stock"]) == ("Big mug", 4)
        assert "The product is saved." in signed_in.get(place).text

    def test_fills_the_form_so_that_sending_it_changes_nothing(
        self, signed_in, mug, at
    ):
        mug["description"] = "\n\nOne\r\nTwo  "
        place, sent = at(mug)

        signed_in.submit(place, **sent)

        assert mug["version"] == 1
        assert "There is nothing to save" in signed_in.get(place).text

    def test_changes_all_that_there_is(self, signed_in, mug, at):
        place, sent = at(mug)
        changed = {
            "sku": "cup",
            "slug": "cup",
            "description": "Three",
            "price": "0.05",
            "currency": "USD",
            "status": "archived",
            "stock": "0",
            "category": "",
            "tags": "",
            "attributes": '{"size": {"wide": 8}, "new": [1]}',
        }

        signed_in.submit(place, **{**sent, **changed})

        assert (mug["sku"], mug["slug"], mug["description"]) == ("cup", "cup", "Three")
        assert (mug["price_minor"], mug["currency"]) == (5, "USD")
        assert (mug["status"], mug["stock"], mug["category"]) == ("archived", 0, None)
        assert mug["tags"] == []
        assert mug["attributes"] == {"size": {"wide": 8}, "new": [1]}

    def test_leaves_the_address_where_none_is_written(self, signed_in, mug, at):
        place, sent = at(mug)

        signed_in.submit(place, **{**sent, "slug": " ", "stock": "1"})

        assert (mug["slug"], mug["stock"]) == ("mug", 1)

    def test_knows_currencies_that_it_does_not_offer(self, signed_in, mug, at):
        mug.update(currency="KWD", price_minor=1234)
        place, sent = at(mug)
        assert (sent["currency"], sent["price"]) == ("KWD", "1.234")

        signed_in.submit(place, **{**sent, "name": "Dear mug"})

        assert (mug["name"], mug["price_minor"]) == ("Dear mug", 1234)

    def test_says_at_the_field_what_is_wrong(self, signed_in, mug, at):
        place, sent = at(mug)

        for change, name in (
            ({"price": "x"}, "price"),
            ({"price": "200000"}, "price"),
            ({"tags": "no-such-tag"}, "tags"),
        ):
            answer = signed_in.submit(place, **{**sent, **change})
            assert answer.status_code == 422
            assert f'id="{name}-error"' in answer.text
        assert mug["version"] == 1

    def test_needs_the_tag(self, signed_in, mug, at):
        place, sent = at(mug)

        for etag in ("", '"1"\r\nX: y', "1"):
            answer = signed_in.submit(place, **{**sent, "name": "x", "etag": etag})
            assert answer.status_code == 400
        assert mug["version"] == 1

    def test_keeps_what_was_written_while_the_catalog_is_down(
        self, signed_in, mug, at, falls_after
    ):
        place, sent = at(mug)
        falls_after("products")

        answer = signed_in.submit(place, **{**sent, "name": "precious"})

        assert answer.status_code == 503
        assert "What you wrote is still here" in answer.text
        assert 'value="precious"' in answer.text

    def test_of_one_that_is_gone_is_a_404(self, signed_in, platform, mug, at):
        place, sent = at(mug)
        platform.products.clear()

        assert signed_in.submit(place, **sent).status_code == 404


class TestConflict:
    @pytest.fixture
    def clash(self, signed_in, mug, at):
        """Two people change a product; return the answer to the slower one."""
        place, sent = at(mug)
        mug.update(name="Theirs", stock=9, version=2)

        def go(**changes):
            return place, signed_in.submit(place, **{**sent, **changes})

        return go

    def test_is_shown_field_by_field(self, clash, mug):
        place, answer = clash(name="Mine", price="1.00")

        assert answer.status_code == 409
        assert "Somebody changed this product" in answer.text
        assert (mug["name"], mug["price_minor"], mug["version"]) == ("Theirs", 1299, 2)
        sent = filled(answer.text, place)
        assert sent["asked"] == "name stock price"
        assert sent["etag"] == '"2"'
        # Where one of them changed something that stands; where both did, nobody knows.
        assert "take-name" not in sent
        assert (sent["take-stock"], sent["take-price"]) == ("theirs", "mine")
        for words in ("Theirs", "Mine", "€12.99", "€1.00"):
            assert f">{words}</span>" in answer.text

    def test_says_what_is_there_and_what_is_empty(self, signed_in, mug, at):
        place, sent = at(mug)
        mug.update(stock=0, category=None, version=2)

        text = signed_in.submit(place, **{**sent, "status": "draft"}).text

        assert '<span class="side__value" dir="auto">0</span>' in text
        assert text.count("<em") == 1
        assert '<span class="side__value" dir="auto">On sale</span>' in text

    def test_is_settled_by_choosing(self, clash, signed_in, mug):
        place, answer = clash(name="Mine", price="1.00", tags="tea")

        sent = {
            **filled(answer.text, place),
            "take-name": "mine",
            "take-tags": "theirs",
        }
        answer = signed_in.submit(place, **sent)

        assert answer.location == place
        assert (mug["name"], mug["price_minor"], mug["stock"]) == ("Mine", 100, 9)
        assert mug["tags"] == ["cups", "tea"]
        assert mug["version"] == 3

    def test_can_be_settled_by_leaving_all_theirs(self, clash, signed_in, mug):
        place, answer = clash(name="Mine")

        sent = {**filled(answer.text, place), "take-name": "theirs"}
        signed_in.submit(place, **sent)

        assert (mug["name"], mug["version"]) == ("Theirs", 2)
        assert "There is nothing to save" in signed_in.get(place).text

    @pytest.mark.parametrize("side", [None, "", "both", "<script>"])
    def test_is_settled_by_nobody_else(self, clash, signed_in, mug, side):
        place, answer = clash(name="Mine", price="1.00")
        sent = filled(answer.text, place)

        answer = signed_in.submit(
            place, **sent, **({"take-name": side} if side else {})
        )

        assert answer.status_code == 422
        assert 'id="name-error"' in answer.text
        assert 'id="price-error"' not in answer.text
        assert mug["version"] == 2
        again = filled(answer.text, place)
        assert "take-name" not in again
        assert again["take-price"] == "mine"
        signed_in.submit(place, **{**again, "take-name": "mine"})
        assert (mug["name"], mug["price_minor"]) == ("Mine", 100)

    def test_comes_again_while_others_go_on(self, clash, signed_in, mug):
        place, answer = clash(name="Mine", stock="3")
        sent = {**filled(answer.text, place), "take-stock": "mine"}
        mug.update(name="Third", description="New", version=3)

        answer = signed_in.submit(place, **{**sent, "take-name": "theirs"})

        assert answer.status_code == 409
        again = filled(answer.text, place)
        # What was taken from them is taken as it is now.
        assert again["asked"] == "description stock"
        assert again["take-description"] == "theirs"
        signed_in.submit(place, **{**again, "take-stock": "mine"})
        assert (mug["name"], mug["stock"]) == ("Third", 3)
        assert mug["description"] == "New"

    def test_fills_the_form_with_what_was_chosen_where_that_is_wrong(
        self, clash, signed_in, mug, at
    ):
        place, answer = clash(name="Mine", tags="no-such-tag", price="8")
        mug.update(price_minor=700, currency="USD")
        sent = {**filled(answer.text, place), "take-price": "theirs"}

        answer = signed_in.submit(place, **{**sent, "take-name": "theirs"})

        assert answer.status_code == 422
        assert 'id="tags-error"' in answer.text
        again = filled(answer.text, place)
        assert (again["name"], again["tags"]) == ("Theirs", "no-such-tag")
        assert (again["price"], again["currency"]) == ("7.00", "USD")
        # Nothing of what was given up comes back.
        signed_in.submit(place, **{**again, "tags": "tea"})
        assert (mug["name"], mug["stock"], mug["tags"]) == ("Theirs", 9, ["tea"])

    def test_is_none_where_both_did_the_same(self, clash, signed_in, mug):
        place, answer = clash(name="Theirs", stock="9")

        assert answer.location == place
        assert mug["version"] == 2
        assert "Somebody has saved just the same." in signed_in.get(place).text

    def test_is_none_where_only_pictures_are_new(self, signed_in, mug, at):
        place, sent = at(mug)
        mug["version"] = 4

        assert signed_in.submit(place, **{**sent, "name": "Mine"}).location == place
        assert (mug["name"], mug["version"]) == ("Mine", 5)

    def test_asks_about_everything_without_marks(self, signed_in, mug, at):
        place, sent = at(mug)
        mug.update(stock=9, version=2)

        answer = signed_in.submit(place, **{**sent, "seen": "", "name": "Mine"})

        assert answer.status_code == 409
        found = filled(answer.text, place)
        assert found["asked"] == "name stock"
        assert not [name for name in found if name.startswith("take-")]

    def test_ends_where_the_catalog_is_never_content(
        self, signed_in, platform, mug, at
    ):
        place, sent = at(mug)
        platform.stubborn = True

        answer = signed_in.submit(place, **{**sent, "name": "Mine"})

        assert answer.status_code == 409
        assert len([call for call in platform.calls if call[0] == "PATCH"]) == 3

    def test_escapes_what_both_wrote(self, signed_in, mug, at):
        place, sent = at(mug)
        theirs = dict.fromkeys(("name", "sku", "slug"), f"{EVIL} theirs")
        mug.update(
            **theirs,
            description=EVIL,
            category=EVIL,
            tags=[EVIL],
            attributes={EVIL: EVIL},
            version=2,
        )
        mine = dict.fromkeys(("name", "sku", "slug", "description"), f"{EVIL} mine")
        written = {"tags": EVIL, "attributes": json.dumps({EVIL: 1}), "category": "x'>"}

        answer = signed_in.submit(place, **{**sent, **mine, **written})

        assert answer.status_code == 409
        assert answer.text.count("onerror=alert(1)&gt;") >= 10
        assert "<script>alert" not in answer.text
        assert "<img src=x" not in answer.text


class TestArchiveProduct:
    def test_takes_it_out_and_brings_it_back(self, signed_in, mug):
        answer = signed_in.submit(f"{PAGE}/{mug['id']}/archive", etag='"1"')

        assert mug["status"] == "archived"
        text = signed_in.get(answer.location).text
        assert "Bring “Mug” back?" in text
        # Nobody is reminded for ever.
        assert "Bring “Mug” back?" not in signed_in.get(PAGE).text

        answer = signed_in.submit(f"{PAGE}/undo")
        assert mug["status"] == "active"
        assert "The product is back." in signed_in.get(answer.location).text

    def test_gives_back_the_status_that_it_had(self, signed_in, mug):
        mug["status"] = "draft"
        signed_in.submit(f"{PAGE}/{mug['id']}/archive", etag='"1"')

        signed_in.submit(f"{PAGE}/undo")

        assert mug["status"] == "draft"

    def test_leaves_what_changed_meanwhile(self, signed_in, mug):
        mug["version"] = 2
        place = f"{PAGE}/{mug['id']}"

        answer = signed_in.submit(f"{place}/archive", etag='"1"')

        assert answer.location == place
        assert mug["status"] == "active"
        assert "It changed since you looked" in signed_in.get(place).text
        signed_in.submit(f"{PAGE}/undo")
        assert "There is nothing to bring back." in signed_in.get(PAGE).text

    def test_is_undone_by_one_alone(self, signed_in, mug):
        signed_in.submit(f"{PAGE}/{mug['id']}/archive", etag='"1"')
        mug.update(status="draft", version=3)

        signed_in.submit(f"{PAGE}/undo")

        assert (mug["status"], mug["version"]) == ("draft", 3)
        assert "brought it back already" in signed_in.get(PAGE).text

    def test_can_be_undone_once_more_where_it_did_not_work(
        self, signed_in, platform, mug
    ):
        signed_in.submit(f"{PAGE}/{mug['id']}/archive", etag='"1"')
        platform.stubborn = True
        signed_in.submit(f"{PAGE}/undo")
        assert mug["status"] == "archived"

        platform.stubborn = False
        signed_in.submit(f"{PAGE}/undo")

        assert mug["status"] == "active"

    def test_says_what_an_archived_product_is(self, signed_in, mug):
        mug["status"] = "archived"

        text = signed_in.get(f"{PAGE}/{mug['id']}").text

        assert "Another status brings it back." in text
        assert "Archive it" not in text

    def test_needs_the_tag(self, signed_in, mug):
        answer = signed_in.submit(f"{PAGE}/{mug['id']}/archive")

        assert answer.status_code == 400
        assert mug["status"] == "active"


class TestChangeStatuses:
    @pytest.fixture
    def tick(self, signed_in):
        def go(*products, status="active", **more):
            sent = {"status": status, "product": [one["id"] for one in products]}
            for one in products:
                sent[f"sku.{one['id']}"] = one["sku"]
                sent[f"name.{one['id']}"] = one["name"]
            return signed_in.submit(f"{PAGE}/status", **{**sent, **more})

        return go

    def test_says_what_became_of_each(self, tick, platform, product_with):
        draft = platform.add(product_with("Draft", status="draft"))
        ready = platform.add(product_with("Ready"))
        gone = product_with("Gone")

        answer = tick(draft, ready, gone)

        assert draft["status"] == "active"
        assert gone["id"] not in platform.products
        for words in ("1 changed", "1 was so already", "1 refused"):
            assert words in answer.text
        rows = answer.text.partition("<tbody>")[2].split("<tr>")[1:]
        for row, words in zip(rows, ("Updated", "Unchanged", "Refused"), strict=True):
            assert words in row
        assert f'href="{PAGE}/{draft["id"]}"' in rows[0]
        assert "name: A new product needs it." in rows[2]

    def test_sent_twice_has_one_key(self, tick, platform, mug):
        for status in ("draft", "draft", "active"):
            tick(mug, status=status, key="a" * 32)

        assert platform.keys[0] == platform.keys[1] != platform.keys[2]

    def test_leads_back_to_the_list_as_it_was(self, tick, mug):
        there = f"{PAGE}?q=mug&after=50"

        assert f'href="{PAGE}?q=mug&amp;after=50"' in tick(mug, back=there).text
        assert tick(back=there).location == there

    @pytest.mark.parametrize(
        "back", ["//evil.example", "https://evil.example", "/jobs", "javascript:1", ""]
    )
    def test_leads_nowhere_else(self, tick, mug, back):
        text = tick(mug, back=back).text

        assert f'class="button" href="{PAGE}"' in text
        assert "evil" not in text

    def test_needs_something_ticked(self, tick, signed_in, platform):
        assert tick().location == PAGE
        assert "Tick a product first." in signed_in.get(PAGE).text
        assert platform.keys == []

    def test_refuses_what_no_form_of_ours_sends(
        self, tick, signed_in, platform, mug, product_with
    ):
        assert tick(mug, status="sold").status_code == 400
        assert tick(*(product_with() for _ in range(51))).status_code == 400
        for product in ("1", "../x", EVIL):
            sent = {"status": "active", "product": product}
            assert signed_in.submit(f"{PAGE}/status", **sent).status_code == 400
        assert platform.keys == []

    def test_escapes_what_the_form_said(self, tick, mug):
        answer = tick({**mug, "sku": EVIL, "name": EVIL})

        assert answer.status_code == 200
        assert "onerror=alert(1)&gt;" in answer.text
        assert "<script>alert" not in answer.text

    def test_says_so_when_the_catalog_is_down(self, tick, platform, mug):
        platform.down.add("catalog")

        answer = tick(mug)

        assert answer.status_code == 503
        assert "Look before you repeat it." in answer.text
        assert f'href="{PAGE}"' in answer.text
