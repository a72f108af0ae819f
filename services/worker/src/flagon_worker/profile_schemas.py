"""JSON in and out of the import profiles API."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints

from .domain.sheets import COLUMNS_MAX
from .schemas import Column, ImportMapping

Name = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        min_length=1,
        max_length=100,
        # Nothing that cannot be seen: names are told apart by people.
        pattern=r"^[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ufeff]+$",
    ),
]


class NewProfile(ImportMapping):
    """A profile to be; what it maps is judged as an import's mapping is."""

    name: Name = Field(examples=["Books from the wholesaler"])


class ProfileView(BaseModel):
    """A mapping of columns that the account keeps."""

    id: UUID
    name: str
    mapping: dict[str, str]
    defaults: dict[str, Any] = Field(examples=[{"currency": "EUR"}])
    encoding: str | None = Field(examples=[None])
    delimiter: str | None = Field(examples=[";"])
    decimals: str = Field(examples=["auto"])
    created_at: datetime
    updated_at: datetime
    version: int


class ProfilePage(BaseModel):
    """A page of profiles, by name."""

    items: list[ProfileView]
    next_cursor: str | None


class Header(BaseModel, extra="forbid"):
    """The header of a file that is about to be imported."""

    columns: list[Column] = Field(
        min_length=1, max_length=COLUMNS_MAX, examples=[["code", "title", "cost"]]
    )


class Suggestions(BaseModel):
    """The profiles that fit, those first that use most of the columns."""

    items: list[ProfileView]
