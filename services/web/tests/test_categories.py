import re

import pytest

PAGE = "/back-office/categories"
WRITTEN = {"key": "0" * 32, "name": "Mugs", "slug": "", "parent": "", "description": ""}
SCHEMA = '{"type": "object",\r\n "properties": {"glaze": {"const": null}}}'
READ = {"type": "object", "properties": {"glaze": {"const": None}}}
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


@pytest.fixture
def kitchen(a_category):
    return a_category("Kitchen")


@pytest.fixture
def mugs(a_category, kitchen):
    return a_category("Mugs", kitchen)


def rows(text):
    return dict(
        re.findall(r'<li class="tree__row.*?id="c-([^"]+)">(.*?)</li>', text, re.DOTALL)
    )


class TestCategories:
    def test_are_shown_as_a_tree(self, signed_in, a_category, kitchen, mugs):
        a_category("Tall mugs", mugs)
        a_category("Bowls", kitchen)

        text = signed_in.get(PAGE).text

        assert re.findall(
            r'class="tree__row tree__row--(\d)" id="c-([^"]+)"', text
        ) == [
            ("0", "books"),
            ("0", "kitchen"),
            ("1", "bowls"),
            ("1", "mugs"),
            ("2", "tall-mugs"),
        ]
        found = rows(text)
        assert f'href="{PAGE}/{mugs["id"]}"' in found["mugs"]
        assert 'href="/back-office/products?category=mugs"' in found["mugs"]

    def test_offer_only_moves_that_there_are(self, signed_in, kitchen, mugs):
        found = rows(signed_in.get(PAGE).text)

        assert "/move" not in found["books"]
        assert "Into the one above: Move Kitchen into Books" in found["kitchen"]
        assert "Out: " not in found["kitchen"]
        assert "Out: Move Mugs out of kitchen" in found["mugs"]
        assert "Into the one above" not in found["mugs"]

    def test_are_all_read(self, signed_in, a_category):
        for number in range(120):
            a_category(f"Shelf {number}")

        text = signed_in.get(PAGE).text

        assert len(rows(text)) == 121

    def test_say_when_there_are_none(self, signed_in, platform):
        platform.categories.clear()

        assert "No categories yet" in signed_in.get(PAGE).text

    def test_are_offered_to_products_as_a_tree(self, signed_in, mugs):
        text = signed_in.get("/back-office/products/new").text

        assert '<option value="mugs">\N{EM SPACE}Mugs</option>' in text


class TestCreateCategory:
    def test_makes_it(self, signed_in, platform, kitchen):
        sent = {**WRITTEN, "parent": "kitchen", "description": "For\r\ntea"}

        answer = signed_in.submit(f"{PAGE}/new", **sent)

        made = platform.categories[-1]
        assert answer.location == PAGE
        assert (made["slug"], made["path"]) == ("mugs", ["kitchen", "mugs"])
        assert made["description"] == "For\ntea"
        assert "The category Mugs is made." in signed_in.get(PAGE).text

    def test_has_an_address_of_its_own_where_one_is_written(self, signed_in, platform):
        signed_in.submit(f"{PAGE}/new", **{**WRITTEN, "slug": "cups"})

        assert platform.categories[-1]["slug"] == "cups"

    def test_sent_twice_has_one_key(self, signed_in, platform):
        for _ in range(2):
            signed_in.submit(f"{PAGE}/new", **WRITTEN)
            platform.categories.clear()

        assert platform.keys[0] == platform.keys[1]

    def test_is_offered_where_it_is_asked_for(self, signed_in, kitchen):
        text = signed_in.get(f"{PAGE}/new?in=kitchen").text

        assert '<option selected value="kitchen">Kitchen</option>' in text

    @pytest.mark.parametrize(
        ("change", "place", "words"),
        [
            ({"name": ""}, "name", "This field is required."),
            ({"slug": "books"}, "slug", "It is in use."),
            ({"parent": "nowhere"}, "parent", "There is no such category."),
            ({"parent": EVIL}, "parent", "There is no such category."),
        ],
    )
    def test_says_at_the_field_what_is_wrong(
        self, signed_in, platform, change, place, words
    ):
        answer = signed_in.submit(f"{PAGE}/new", **{**WRITTEN, **change})

        assert answer.status_code in {409, 422}
        assert words in answer.text.partition(f'id="{place}-error"')[2][:200]
        assert "<script>alert" not in answer.text
        assert len(platform.categories) == 1


class TestChangeCategory:
    def test_renames_and_moves_it(self, signed_in, kitchen, mugs):
        place = f"{PAGE}/{mugs['id']}"
        text = signed_in.get(place).text
        assert 'value="Mugs"' in text
        assert '<option selected value="kitchen">Kitchen</option>' in text
        assert 'name="slug"' not in text

        sent = {**WRITTEN, "name": "Cups", "parent": "books", "slug": "other"}
        answer = signed_in.submit(place, **sent, etag='"v1"')

        assert answer.location == PAGE
        assert (mugs["name"], mugs["path"]) == ("Cups", ["books", "mugs"])

    def test_is_never_offered_to_itself(self, signed_in, kitchen, mugs):
        text = signed_in.get(f"{PAGE}/{kitchen['id']}").text

        assert 'value="books"' in text
        assert 'option value="mugs"' not in text
        assert 'option value="kitchen"' not in text

    def test_shows_what_somebody_else_wrote_meanwhile(self, signed_in, mugs):
        mugs.update(name="Theirs", description=EVIL, version=2)

        answer = signed_in.submit(f"{PAGE}/{mugs['id']}", **WRITTEN, etag='"v1"')

        assert answer.status_code == 409
        assert "is now <bdi>Theirs</bdi>" in answer.text
        assert "is now <bdi>kitchen</bdi>" in answer.text
        assert "<script>alert" not in answer.text
        assert 'name="etag" value="&#34;v2&#34;"' in answer.text
        assert mugs["name"] == "Theirs"

    def test_says_what_is_empty_now(self, signed_in, kitchen):
        kitchen["version"] = 2
        sent = {**WRITTEN, "description": "mine"}

        answer = signed_in.submit(f"{PAGE}/{kitchen['id']}", **sent, etag='"v1"')

        assert "is now <bdi>empty</bdi>" in answer.text

    def test_says_what_is_wrong(self, signed_in, kitchen, mugs):
        place = f"{PAGE}/{kitchen['id']}"
        empty = signed_in.submit(place, **{**WRITTEN, "name": ""}, etag='"v1"')
        assert empty.status_code == 422
        assert 'id="name-error"' in empty.text

        sent = {**WRITTEN, "parent": "mugs"}
        inside = signed_in.submit(place, **sent, etag='"v1"')
        assert inside.status_code == 409
        assert "mugs is in kitchen or the same." in inside.text
        assert kitchen["version"] == 1

    def test_needs_the_tag(self, signed_in, kitchen):
        assert signed_in.submit(f"{PAGE}/{kitchen['id']}", **WRITTEN).status_code == 400

    def test_keeps_what_was_written_while_the_catalog_is_down(
        self, signed_in, kitchen, falls_after
    ):
        falls_after("categories")
        place = f"{PAGE}/{kitchen['id']}"
        answer = signed_in.submit(place, **{**WRITTEN, "name": "precious"}, etag='"v1"')

        assert answer.status_code == 503
        assert 'value="precious"' in answer.text


class TestAttributeSchema:
    def test_is_shown_and_changed_whole(self, signed_in, mugs):
        place = f"{PAGE}/{mugs['id']}"
        mugs["attribute_schema"] = {"type": "object", "title": "Für Becher"}
        assert "&#34;title&#34;: &#34;Für Becher&#34;" in signed_in.get(place).text

        sent = {**WRITTEN, "attribute_schema": SCHEMA}
        answer = signed_in.submit(place, **sent, etag='"v1"')

        assert answer.location == PAGE
        assert mugs["attribute_schema"] == READ
        assert mugs["slug"] == "mugs"

    def test_is_taken_away(self, signed_in, mugs):
        mugs["attribute_schema"] = READ

        sent = {**WRITTEN, "attribute_schema": ""}
        signed_in.submit(f"{PAGE}/{mugs['id']}", **sent, etag='"v1"')

        assert mugs["attribute_schema"] is None

    def test_of_a_new_category(self, signed_in, platform):
        signed_in.submit(f"{PAGE}/new", **WRITTEN, attribute_schema=SCHEMA)

        assert platform.categories[-1]["attribute_schema"] == READ

    @pytest.mark.parametrize(
        ("written", "words"),
        [
            ("{", "This is no JSON."),
            ("[1]", "Write an object"),
            ("null", "Write an object"),
            ('{"a": NaN}', "This is no JSON."),
            ("[" * 10_000, "This is no JSON."),
            (" " * 20_001, "longer than 20000 characters"),
            (
                '{"properties": {"glaze": {"type": "colour"}}}',
                "properties glaze type: It is none of the types.",
            ),
        ],
    )
    @pytest.mark.parametrize("new", [True, False])
    def test_says_at_the_field_what_is_wrong(
        self, signed_in, mugs, written, words, new
    ):
        sent = {**WRITTEN, "attribute_schema": written}
        if new:
            answer = signed_in.submit(f"{PAGE}/new", **sent)
        else:
            answer = signed_in.submit(f"{PAGE}/{mugs['id']}", **sent, etag='"v1"')

        assert answer.status_code == 422
        said = answer.text.partition('id="attribute_schema-error"')[2][:200]
        assert words in said
        assert mugs["attribute_schema"] is None

    def test_is_shown_when_somebody_else_wrote_one(self, signed_in, mugs):
        mugs.update(attribute_schema=READ, version=2)

        answer = signed_in.submit(f"{PAGE}/{mugs['id']}", **WRITTEN, etag='"v1"')

        assert answer.status_code == 409
        assert "&#34;const&#34;: null" in answer.text.partition('class="theirs"')[2]


class TestMoveCategory:
    def test_puts_it_out_and_in_again(self, signed_in, kitchen, mugs):
        place = f"{PAGE}/{mugs['id']}/move"

        answer = signed_in.submit(place, parent="", seen="kitchen/mugs")
        assert answer.location == f"{PAGE}#c-mugs"
        assert mugs["path"] == ["mugs"]

        signed_in.submit(place, parent="kitchen", seen="mugs")
        assert mugs["path"] == ["kitchen", "mugs"]
        assert "The category is moved." in signed_in.get(PAGE).text

    def test_leaves_what_was_moved_meanwhile(self, signed_in, kitchen, mugs):
        for seen in ("mugs", "", EVIL):
            signed_in.submit(f"{PAGE}/{mugs['id']}/move", parent="books", seen=seen)

        assert mugs["path"] == ["kitchen", "mugs"]
        assert "It was moved since you looked" in signed_in.get(PAGE).text

    def test_says_why_it_cannot_be(self, signed_in, kitchen, mugs):
        place = f"{PAGE}/{kitchen['id']}/move"

        signed_in.submit(place, parent="mugs", seen="kitchen")

        assert "mugs is in kitchen or the same." in signed_in.get(PAGE).text


class TestDeleteCategory:
    def test_forgets_it(self, signed_in, platform, kitchen):
        answer = signed_in.submit(f"{PAGE}/{kitchen['id']}/delete", etag='"v1"')

        assert answer.location == PAGE
        assert kitchen not in platform.categories

    def test_says_why_it_cannot_be(self, signed_in, platform, kitchen, product_with):
        platform.add(product_with(category="kitchen"))
        place = f"{PAGE}/{kitchen['id']}"

        answer = signed_in.submit(f"{place}/delete", etag='"v1"')

        assert answer.location == place
        assert (
            "Move its products to another category first." in signed_in.get(place).text
        )
        assert kitchen in platform.categories

    def test_leaves_what_changed_meanwhile(self, signed_in, platform, kitchen):
        kitchen["version"] = 2

        signed_in.submit(f"{PAGE}/{kitchen['id']}/delete", etag='"v1"')

        assert kitchen in platform.categories
