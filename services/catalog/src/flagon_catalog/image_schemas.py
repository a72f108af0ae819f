"""The JSON of images, as clients see it."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, TypeAdapter
from pydantic_core import PydanticCustomError

ALT_MAX = 300
# They belong to words of Persian or Hindi, and to emoji.
_JOINERS = str.maketrans("", "", "\u200c\u200d")


def _one_line(value: str) -> str:
    if not value.translate(_JOINERS).isprintable():
        raise PydanticCustomError(
            "text", "Text must be one line, without invisible characters."
        )
    return value


Alt = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=ALT_MAX),
    Field(
        description="What it shows, for who does not see it; empty for mere decoration.",
        examples=["A blue mug with a white handle"],
    ),
    AfterValidator(_one_line),
]
Place = Annotated[
    int,
    Field(
        ge=0,
        le=1000,
        description="From 0; beyond the end means the end. The first one stands for the"
        " product in lists.",
    ),
]

ALT: TypeAdapter[str] = TypeAdapter(Alt)


class ImageChange(BaseModel, extra="forbid", strict=True, frozen=True):
    """A JSON merge patch (RFC 7396) for an image: null takes a text back."""

    alt: Alt | None = None
    position: Place = Field(default_factory=int)


class ThumbnailView(BaseModel):
    """The same, narrower."""

    width: int
    height: int
    url: str


class ImageView(BaseModel):
    """An image of a product."""

    id: UUID
    product_id: UUID
    alt: Alt
    position: int
    sha256: str = Field(description="Of the bytes at `url`, in hexadecimal digits")
    width: int
    height: int
    url: str = Field(
        description="WebP, without metadata; what is there never changes.",
        examples=[f"/media/{'0' * 64}/full.webp"],
    )
    thumbnails: list[ThumbnailView] = Field(
        description="Those that there are already: they come a moment later."
    )
    version: int
    created_at: datetime
    updated_at: datetime


class ImagePage(BaseModel):
    """All images of a product, in order."""

    items: list[ImageView]
    next_cursor: None


UPLOAD: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {
                        "type": "string",
                        "format": "binary",
                        "description": "JPEG, PNG, WebP, GIF or AVIF; the content"
                        " decides, not the name or the type",
                    },
                    "alt": {"type": "string", "maxLength": ALT_MAX, "default": ""},
                },
                "additionalProperties": False,
            }
        }
    },
}
"""The body of an upload, which the framework cannot know."""
