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


class PublishedEvent(BaseModel):
    """What became of a published event."""

    id: UUID = Field(description="The event's id as its followers see it.")
    position: str = Field(description="Its place in the stream, as in `Last-Event-ID`.")
