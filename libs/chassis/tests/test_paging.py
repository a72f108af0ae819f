from types import SimpleNamespace

import pytest
from flask import Flask

from flagon_chassis import paging


@pytest.fixture
def app():
    app = Flask("things")
    app.secret_key = "a"
    with app.app_context():
        yield app


class TestCursor:
    def test_gives_its_position_back(self, app):
        cursor = paging.encode("things:name", ["a", 7])

        assert paging.decode("things:name", cursor) == ["a", 7]

    def test_is_valid_for_its_own_list_alone(self, app):
        cursor = paging.encode("things:name", ["a"])

        with pytest.raises(paging.CursorInvalid):
            paging.decode("things:price", cursor)

    @pytest.mark.parametrize("cursor", ["", "x", "W10.invalid"])
    def test_cannot_be_made_up(self, app, cursor):
        with pytest.raises(paging.CursorInvalid):
            paging.decode("things", cursor)

    def test_of_another_installation_is_refused(self, app):
        cursor = paging.encode("things", [1])
        app.secret_key = "b"

        with pytest.raises(paging.CursorInvalid):
            paging.decode("things", cursor)


class TestPage:
    @pytest.fixture
    def page(self, app):
        """Returns a page of the numbers from 1 to 7."""

        def page(cursor, limit=3, purpose="numbers"):
            asked = SimpleNamespace(cursor=cursor, limit=limit)
            numbers = range(1, 8)
            return paging.page(
                purpose,
                asked,
                lambda after, most: [n for n in numbers if n > (after or 0)][:most],
                lambda number: number,
            )

        return page

    def test_follows_page_until_the_last(self, page):
        found, cursor = [], None
        while True:
            items, cursor = page(cursor)
            found.append(items)
            if cursor is None:
                break

        assert found == [[1, 2, 3], [4, 5, 6], [7]]

    def test_that_ends_the_list_has_no_next(self, page):
        assert page(None, limit=7) == ([1, 2, 3, 4, 5, 6, 7], None)

    def test_of_another_list_is_refused(self, page):
        _items, cursor = page(None)

        with pytest.raises(paging.CursorInvalid):
            page(cursor, purpose="letters")
