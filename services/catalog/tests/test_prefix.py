"""Searches while the last word is being typed."""

import pytest

from .conftest import PRODUCTS


@pytest.fixture
def names(client):
    """Search and return the names of what is found, sorted."""

    def names(q, **more):
        answer = client.get(PRODUCTS, query_string={"q": q, "prefix": "true", **more})
        assert answer.status_code == 200, answer.text
        return sorted(item["name"] for item in answer.json["items"])

    return names


@pytest.fixture(autouse=True)
def shelf(make):
    make(name="Bräuche im Harz")
    make(name="The brown teapot")
    make(name="Tea towel")


class TestPrefix:
    def test_finds_the_beginning_of_a_word(self, names):
        assert names("bro") == ["The brown teapot"]
        assert names("te") == ["Tea towel", "The brown teapot"]

    def test_wants_the_other_words_whole(self, names):
        assert names("brown te") == ["The brown teapot"]
        assert names("bro teapot", exact="true") == []

    def test_makes_no_difference_of_accents(self, names):
        assert names("Bräu") == ["Bräuche im Harz"]
        assert names("brau") == ["Bräuche im Harz"]

    def test_is_only_where_it_is_asked_for(self, names):
        assert names("bro", prefix="false", exact="true") == []

    @pytest.mark.parametrize("q", ["b", '"bro', "te:*", "te & !", "te'"])
    def test_takes_nothing_else_for_a_beginning(self, names, q):
        assert names(q, exact="true") in ([], ["Tea towel", "The brown teapot"])

    def test_counts_and_pages_what_it_finds(self, client):
        asked = {"q": "te", "prefix": "true", "facets": "status", "limit": 1}
        first = client.get(PRODUCTS, query_string=asked).json
        asked["cursor"] = first["next_cursor"]
        second = client.get(PRODUCTS, query_string=asked).json

        assert first["facets"]["status"] == [{"value": "active", "count": 2}]
        assert first["items"][0]["name"] != second["items"][0]["name"]
        assert second["next_cursor"] is None
