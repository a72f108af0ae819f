"""The JSON of reviews, as clients see it."""

import re
import unicodedata
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
)
from pydantic_core import PydanticCustomError

from .schemas import PageQuery

# Characters that no text is written with: controls but tab and line ends, halves of
# surrogate pairs, and what turns the direction of all that follows, so that a text reads
# otherwise than it is written.
_UNUSABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]"
)
# What is not seen and cannot be typed: controls, formats, private use, line separators.
_UNSEEN = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
# Two of them belong to words of Persian or Hindi, and to emoji.
_JOINERS = "\u200c\u200d"
# Letters and symbols by category, and empty to the eye.
_FILLERS = "\u115f\u1160\u2800\u3164\uffa0"


def _plain(value: str) -> str:
    if any(
        unicodedata.category(char) in _UNSEEN and char not in _JOINERS for char in value
    ):
        raise PydanticCustomError("text", "Text may not hold invisible characters.")
    if not any(
        unicodedata.category(char)[0] in "LNPS" and char not in _FILLERS
        for char in value
    ):
        raise PydanticCustomError("text", "Text must show something.")
    return value


def _no_address(value: str) -> str:
    if "@" in value:
        raise PydanticCustomError("text", "Give a name and not an address.")
    return value


def _usable(value: str) -> str:
    if _UNUSABLE.search(value):
        raise PydanticCustomError("text", "Text may not hold control characters.")
    return value


def _whole(value: object) -> object:
    # As in the other bodies: JSON Schema calls 4.0 an integer too.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Author = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=80),
    Field(description="The name to be shown with", examples=["Ada L."]),
    AfterValidator(_plain),
    AfterValidator(_no_address),
]
Title = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=120),
    Field(examples=["Keeps tea warm"]),
    AfterValidator(_plain),
]
Body = Annotated[
    str,
    Field(
        max_length=10_000,
        description="Markdown (CommonMark) without HTML, images and headings",
        examples=["Two hours, *measured*."],
    ),
    AfterValidator(_usable),
]
Stars = Annotated[int, Field(ge=1, le=5, examples=[4]), BeforeValidator(_whole)]
Language = Annotated[
    str,
    Field(
        pattern=r"^[a-z]{2,3}(-[A-Z]{2})?$",
        description="Of the text: a language tag, at most with a region",
        examples=["en"],
    ),
]
State = Literal["pending", "published", "rejected"]


class _Body(BaseModel, extra="forbid", strict=True, frozen=True):
    """What a client sends: exact types, no unknown fields."""


class NewReview(_Body):
    """A whole review, as its author may set it."""

    author: Author
    rating: Stars
    title: Title
    body: Body = ""
    language: Language | None = None


class ReviewChange(_Body):
    """A JSON merge patch (RFC 7396) for a review: null takes a field back."""

    author: Author = Field(default_factory=str)
    rating: Stars = Field(default_factory=int)
    title: Title = Field(default_factory=str)
    body: Body | None = None
    language: Language | None = None


class Rejection(_Body):
    """Why a review is not shown."""

    note: Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=1000),
        Field(description="For its author", examples=["Please leave out the address."]),
        AfterValidator(_usable),
    ]


class ReviewView(BaseModel):
    """A review."""

    id: UUID
    product_id: UUID
    subject: UUID | None = Field(
        description="The author's account; null for all but the author and moderators"
    )
    author: Author
    rating: Stars
    title: Title
    body: Body
    body_html: str = Field(description="The body as HTML that is safe to show")
    language: Language | None
    state: State
    note: str | None = Field(
        description="Why it was rejected; null for all but the author and moderators"
    )
    version: int
    created_at: datetime
    updated_at: datetime


class ReviewPage(BaseModel):
    """Some reviews and how to get the next ones."""

    items: list[ReviewView]
    next_cursor: str | None


class ProductReviewQuery(PageQuery):
    """Which published reviews of a product to list."""

    rating: Annotated[int, Field(ge=1, le=5)] | None = None
    language: Language | None = None
    sort: Literal["newest", "highest", "lowest"] = Field(
        default="newest",
        description="`highest` puts the newest of equals first, `lowest` the oldest.",
    )


class ReviewQuery(PageQuery):
    """Which reviews to list, in whatever state."""

    state: State | None = None
    own: bool = Field(
        default=False, description="The caller's own; matters to moderators alone."
    )
    sort: Literal["newest", "oldest"] = "newest"
