"""What clients may send over a WebSocket, checked against a JSON Schema each."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema_rs import Draft202012Validator, ValidationError

from .presence import MessageMalformed, MessageUnknown

FOLDER = Path(__file__).with_name("messages")
"""`<message>.json` for each: those of clients, and in `sent` those of ours."""

_SHOWN_ERRORS = 10
_SHOWN_CHARACTERS = 200


@cache
def validators() -> dict[str, Draft202012Validator]:
    """Return what checks each message of clients, by its name."""
    return {
        path.stem: Draft202012Validator(json.loads(path.read_text()))
        for path in sorted(FOLDER.glob("*.json"))
    }


def check(name: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Return what a client sent with a message.

    :param arguments: of the event, as Socket.IO has them.
    :raises MessageUnknown: there is no such message.
    :raises MessageMalformed: it is something else than the schema says.
    """
    validator = validators().get(name)
    if validator is None:
        raise MessageUnknown(f"{name[:100]!r} is none.", known=sorted(validators()))
    if len(arguments) != 1:
        raise MessageMalformed("Send one object with it.")
    (content,) = arguments
    errors = []
    for error in validator.iter_errors(content):
        errors.append(_told(error))
        if len(errors) == _SHOWN_ERRORS:
            break
    if errors:
        raise MessageMalformed(f"It is not a `{name}`.", errors=errors)
    found: dict[str, Any] = content
    return found


def _told(error: ValidationError) -> dict[str, str]:
    parts = (str(part) for part in error.instance_path)
    escaped = (part.replace("~", "~0").replace("/", "~1") for part in parts)
    pointer = "#" + "".join(f"/{part}" for part in escaped)
    return {
        "pointer": pointer[:_SHOWN_CHARACTERS],
        "detail": error.message[:_SHOWN_CHARACTERS],
    }
