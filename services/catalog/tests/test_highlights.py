"""Where a search found its words."""

import re

import pytest
from sqlalchemy import event

from .conftest import PRODUCTS


@pytest.fixture
def search(client):
    """Search with highlights; return them in the order of the items."""

    def search(q, **more):
        answer = client.get(
            PRODUCTS, query_string={"q": q, "highlight": "true", **more}
        )
        assert answer.status_code == 200, answer.text
        page = answer.json
        return [page["highlights"][item["id"]] for item in page["items"]]

    return search


class TestHighlights:
    def test_mark_each_form_of_a_word(self, make, search):
        make(name="Walking boots", description="Boots to walk in, for long walks.")

        (found,) = search("walk")

        assert found["name"] == "<mark>Walking</mark> boots"
        assert found["description"].count("<mark>") == 2

    def test_show_the_part_of_a_long_text_that_counts(self, make, search):
        text = f"{'Much to say. ' * 150}Here is the zephyr. {'And more. ' * 150}"
        make(name="Fan", description=text)

        (found,) = search("zephyr")

        assert "the <mark>zephyr</mark>" in found["description"]
        assert len(found["description"]) < 300

    def test_show_a_description_as_people_read_it(self, make, search):
        make(
            name="Bag",
            description="**Bold** and [fine spice](https://spice.example/spice) & more",
        )

        (found,) = search("spice")

        shown = " ".join(found["description"].split())
        assert shown == "Bold and fine <mark>spice</mark> &amp; more"

    def test_mark_a_phrase_and_not_what_was_excluded(self, make, search):
        make(name="Blue mug", description="A blue one.")
        make(name="Blue red mug", description="")

        (found,) = search('"blue mug" -red')

        assert found["name"] == "<mark>Blue</mark> <mark>mug</mark>"

    def test_are_for_the_items_of_the_page_alone(self, client, make):
        for _ in range(3):
            make(name="Mug")

        page = client.get(
            PRODUCTS, query_string={"q": "mug", "highlight": "true", "limit": 2}
        ).json

        assert set(page["highlights"]) == {item["id"] for item in page["items"]}
        assert page["next_cursor"]

    def test_are_there_without_a_result(self, client):
        page = client.get(f"{PRODUCTS}?q=nothing-at-all&highlight=true").json

        assert (page["items"], page["highlights"]) == ([], {})

    @pytest.mark.parametrize("query", ["q=mug", "q=mug&highlight=false", "highlight=1"])
    def test_are_only_there_where_they_are_asked_for(self, client, make, query):
        make(name="Mug")

        assert "highlights" not in client.get(f"{PRODUCTS}?{query}").json

    def test_are_one_statement(self, app, client, make, session):
        for _ in range(5):
            make(name="Mug")
        statements = []
        engine = session.get_bind()
        event.listen(
            engine, "before_cursor_execute", lambda *args: statements.append(args[2])
        )

        client.get(f"{PRODUCTS}?q=mug&highlight=true")

        assert len([each for each in statements if "ts_headline" in each]) == 1
        assert len([each for each in statements if "SELECT" in each]) == 2

    @pytest.mark.parametrize(
        "attack",
        [
            "<script>alert(1)</script>",
            "<img src=x onerror=alert(1)>",
            '" onmouseover="alert(1)',
            "</mark><b>mug</b>",
            "&lt;script&gt;",
            "\ue000\ue001\ue001\ue000",
        ],
    )
    def test_are_safe_html(self, make, search, attack):
        make(name=f"Mug {attack}", description=f"{attack} mug {attack} mug")

        (found,) = search("mug")

        for text in found.values():
            rest = re.sub("<mark>([^<>]*)</mark>", r"\1", text)
            assert "<" not in rest
            assert ">" not in rest
            assert '"' not in rest
            assert not {"\ue000", "\ue001"} & set(text)
        assert "<mark>Mug</mark>" in found["name"]

    @pytest.mark.parametrize("q", ["'", "a:b & !", "<->", "\\", "mug:*", "%"])
    def test_bear_any_question(self, make, client, q):
        make(name="Mug")

        answer = client.get(PRODUCTS, query_string={"q": q, "highlight": "true"})

        assert answer.status_code == 200
