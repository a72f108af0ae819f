"""JSON in and out of `POST /api/v1/events`."""

import json
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field
from pydantic_core import PydanticCustomError

_DEPTH_MAX = 16


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Make sure that every reader can take it, the archive's database among them."""
    try:
        # `1e999` is JSON, becomes infinite here, and would leave as no JSON at all.
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise PydanticCustomError("data", "Numbers must be finite.") from None
    level: list[Any] = [value]
    for _ in range(_DEPTH_MAX):
        level = [
            item
            for one in level
            for item in (one.values() if isinstance(one, dict) else one)
            if isinstance(item, dict | list)
        ]
        if not level:
            return value
    raise PydanticCustomError("data", f"Nest at most {_DEPTH_MAX} deep.")


class NewEvent(BaseModel, extra="forbid", strict=True, frozen=True):
    """A CloudEvents 1.0 envelope, as a trusted client may fill it."""

    specversion: Literal["1.0"]
    id: str = Field(
        pattern=r"^[\x21-\x7e]{1,64}$",
        description="Unlike that of any other event of the client: sent again, it has no"
        " second effect for 24 hours.",
        examples=["reading-4711"],
    )
    type: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
        description="`custom.<client_id>.<name>`.",
        examples=["custom.robot.reading.v1"],
    )
    subject: str = Field(
        pattern=r"^[\x21-\x7e]{1,100}$",
        description="What it is about.",
        examples=["sensor-7"],
    )
    topics: list[str] = Field(
        min_length=1,
        max_length=5,
        description="Where it is delivered: below `custom/<client_id>`.",
        examples=[["custom/robot/sensor-7"]],
    )
    time: Annotated[AwareDatetime, Field(strict=False)] | None = Field(
        default=None, description="When it happened; now, when absent."
    )
    datacontenttype: Literal["application/json"] = "application/json"
    data: Annotated[dict[str, Any], AfterValidator(_plain)]


class RoomQuery(BaseModel, extra="forbid"):
    """Query of `GET /api/v1/presence`."""

    room: str = Field(
        max_length=200,
        description="A topic: `products/<id>`.",
        examples=["products/0198c3a0-8f5e-7b60-8d3c-0f9c1c3c4b5a"],
    )


class PersonView(BaseModel):
    """Somebody who works with what a room is about."""

    id: str = Field(description="The account.")
    name: str | None = Field(description="null: nobody can tell at the moment.")
    activity: Literal["viewing", "editing"]


class LockView(BaseModel):
    """Who keeps others from editing."""

    id: str = Field(description="The account.")
    name: str | None
    expires_in_seconds: float = Field(description="Unless it is renewed.")


class PresenceView(BaseModel):
    """Who is in a room."""

    room: str
    count: int = Field(
        ge=0,
        description="People: an account counts once, a stranger once for each connection.",
    )
    people: list[PersonView] | None = Field(
        default=None, description="For those who work with it, and of them alone."
    )
    lock: LockView | None = Field(default=None, description="As for `people`.")


class PublishedEvent(BaseModel):
    """What became of a published event."""

    id: UUID = Field(description="The event's id as its followers see it.")
    position: str = Field(description="Its place in the stream, as in `Last-Event-ID`.")
