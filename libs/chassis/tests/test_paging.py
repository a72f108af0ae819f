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
