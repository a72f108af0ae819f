import pytest

from flagon_web.domain import edits

SEEN = {
    "name": "Mug",
    "sku": "mug",
    "slug": "mug",
    "description": "One\nTwo",
    "price_minor": 900,
    "currency": "EUR",
    "status": "draft",
    "stock": 1,
    "category": None,
    "tags": ["a", "b"],
    "attributes": {"colour": "blue", "handles": 1},
}


def parts(**changes):
    return edits.parts({**SEEN, **changes})


@pytest.fixture
def seen():
    return edits.read(edits.written(edits.marks(parts())))


class TestMarks:
    def test_come_back_from_a_form(self, seen):
        assert seen == edits.marks(parts())
        assert len(edits.written(seen)) < 400

    @pytest.mark.parametrize(
        "text",
        ["", "x", "name", "name=", "name=xyz", "NAME=0123456789ab", "\x00=1 <script>"],
    )
    def test_of_others_are_none(self, text):
        assert edits.read(text) == {}

    def test_are_those_that_can_be_read(self):
        text = f"name={'0' * 12} <script> stock={'1' * 12}"

        assert edits.read(text) == {"name": "0" * 12, "stock": "1" * 12}


class TestChanged:
    def test_is_nothing_that_only_looks_different(self, seen):
        same = {"attributes": {"handles": 1, "colour": "blue"}}

        assert edits.changed(parts(description="One\r\nTwo", **same), seen) == set()

    @pytest.mark.parametrize(
        ("change", "name"),
        [
            ({"name": "Cup"}, "name"),
            ({"price_minor": 901}, "price"),
            ({"currency": "USD"}, "price"),
            ({"category": "cups"}, "category"),
            ({"tags": ["a"]}, "tags"),
            ({"attributes": {"colour": "blue", "handles": True}}, "attributes"),
        ],
    )
    def test_is_each_part_that_differs(self, seen, change, name):
        assert edits.changed(parts(**change), seen) == {name}

    def test_is_everything_without_marks(self):
        assert edits.changed(parts(), {}) == parts().keys()


class TestDifferences:
    def test_say_who_made_them(self, seen):
        mine = parts(name="Cup", stock=2, status="active")
        theirs = parts(name="Glass", price_minor=1, status="active")

        found = edits.differences(mine, theirs, seen)

        assert [(one.name, one.by) for one in found] == [
            ("name", "both"),
            ("stock", "me"),
            ("price", "them"),
        ]
        assert (found[0].mine, found[0].theirs) == ("Cup", "Glass")

    def test_leave_out_what_was_not_written(self, seen):
        mine = parts(name="Cup")
        del mine["slug"]

        found = edits.differences(mine, parts(slug="other"), seen)

        assert [one.name for one in found] == ["name"]


class TestFields:
    def test_has_the_price_as_the_catalog_does(self):
        found = edits.fields(parts(price_minor=5, currency="JPY"), ["price", "stock"])

        assert found == {"price_minor": 5, "currency": "JPY", "stock": 1}


class TestPatch:
    @pytest.mark.parametrize(
        ("present", "wanted", "patch"),
        [
            ({}, {}, {}),
            ({"a": 1}, {"a": 1}, {}),
            ({"a": 1}, {"a": 1.0}, {"a": 1.0}),
            ({"a": 1}, {"a": True}, {"a": True}),
            ({"a": 1, "b": 2}, {"b": 2}, {"a": None}),
            ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, {"a": {"c": None}}),
            ({"a": {"b": 1}}, {"a": {"b": 1}}, {}),
            ({"a": {"b": 1}}, {"a": [1]}, {"a": [1]}),
            ({"a": [1]}, {"a": {"b": 1}}, {"a": {"b": 1}}),
            ({"a": None}, {"a": None}, {}),
        ],
    )
    def test_makes_one_of_the_other(self, present, wanted, patch):
        assert edits.patch(present, wanted) == patch
