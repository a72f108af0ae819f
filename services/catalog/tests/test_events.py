"""Event schemas: files that describe exactly what the API shows."""

import json
from pathlib import Path

import pytest

import flagon_catalog
from flagon_catalog.models import (
    CATEGORY_VIEW,
    PRODUCT_VIEW,
    RESERVATION_VIEW,
    REVIEW_VIEW,
    TAG_VIEW,
)
from flagon_catalog.review_schemas import ReviewView
from flagon_catalog.schemas import (
    CategoryView,
    ProductView,
    ReservationView,
    TagView,
)

EVENTS = Path(flagon_catalog.__file__).parent / "events"


@pytest.mark.parametrize(
    ("name", "columns", "view"),
    [
        ("product", PRODUCT_VIEW, ProductView),
        ("category", CATEGORY_VIEW, CategoryView),
        ("review", REVIEW_VIEW, ReviewView),
        ("reservation", RESERVATION_VIEW, ReservationView),
        ("tag", TAG_VIEW, TagView),
    ],
)
class TestSchemas:
    def test_show_what_the_api_shows(self, name, columns, view):
        schema = json.loads((EVENTS / f"{name}.changed.v1.json").read_text())
        whole = list(view.model_fields)
        # Made of the description, and not read by lists; told when it alone has changed.
        fields = [field for field in whole if field != "description_html"]

        assert [column.key for column in columns] == fields
        assert schema["required"] == [*fields, "changed"]
        assert list(schema["properties"]) == [*fields, "changed"]
        # What has an address of its own can change too.
        more = ["images"] if name == "product" else []
        told = schema["properties"]["changed"]["items"]["enum"]
        assert told == [*whole, *more]


@pytest.mark.parametrize("name", ["product", "category"])
class TestSchemasOfDeletions:
    def test_identify_what_is_gone(self, name):
        schema = json.loads((EVENTS / f"{name}.deleted.v1.json").read_text())

        assert "id" in schema["required"]
