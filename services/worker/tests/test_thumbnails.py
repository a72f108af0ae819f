"""Thumbnails: what is made of a picture, and what happens when it is gone."""

import io

import pytest
from PIL import Image

from flagon_worker.domain import deliveries, thumbnails

NAME = "0" * 64


def picture(width, height):
    file = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(file, "WEBP")
    return file.getvalue()


class Shelf:
    """A catalog that keeps what it is handed, so many times."""

    def __init__(self, whole, room=9):
        self.whole, self.room, self.kept = whole, room, {}

    def picture(self, _sha256):
        return self.whole

    def keep_thumbnail(self, _sha256, width, content):
        self.room -= 1
        if self.room < 0:
            return False
        self.kept[width] = Image.open(io.BytesIO(content)).size
        return True


class TestMake:
    def test_hands_over_each_width(self):
        shelf = Shelf(picture(1000, 333))

        assert thumbnails.make(shelf, NAME, [160, 480]) == "made"
        assert shelf.kept == {160: (160, 53), 480: (480, 160)}

    def test_is_never_without_height(self):
        shelf = Shelf(picture(2000, 1))

        thumbnails.make(shelf, NAME, [160])

        assert shelf.kept == {160: (160, 1)}

    def test_ends_where_the_picture_is_gone(self):
        gone, going = Shelf(None), Shelf(picture(1000, 10), room=1)

        assert thumbnails.make(gone, NAME, [160]) == "over"
        assert thumbnails.make(going, NAME, [160, 480, 960]) == "over"
        assert list(going.kept) == [160]

    def test_is_tried_again_where_the_catalog_does_not_answer(self):
        class Silent(Shelf):
            def picture(self, _sha256):
                raise deliveries.NotYet("nobody there")

        with pytest.raises(deliveries.NotYet):
            thumbnails.make(Silent(None), NAME, [160])
