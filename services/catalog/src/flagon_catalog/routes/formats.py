"""Lists as JSON, NDJSON, CSV and XML: what a client asks for, and how it is written."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from flask import request
from pydantic_core import to_json, to_jsonable_python
from werkzeug.exceptions import NotAcceptable

from flagon_catalog.domain.cells import harmless

Item = Mapping[str, Any]

TYPES = {
    "json": "application/json",
    "ndjson": "application/x-ndjson",
    "csv": "text/csv",
    "xml": "application/xml",
}
"""The media types of each format, by the name that `format=` takes."""

# All that a text may hold (schemas.py) and XML 1.0 may not.
_NO_XML = str.maketrans({"\ufffe": "\ufffd", "\uffff": "\ufffd"})


def chosen(*offered: str) -> str:
    """Return the format that the request asks for: by `format=`, else by `Accept`.

    :param offered: names of formats; the first is for who has no wish.
    :raises NotAcceptable: it accepts none of them.
    """
    by_type = {TYPES[name]: name for name in offered}
    if request.args.get("format") in offered:
        return request.args["format"]
    if "Accept" not in request.headers:
        return offered[0]
    # The order decides where the client likes two of them as much.
    best = request.accept_mimetypes.best_match(by_type)
    if best is None:
        raise NotAcceptable(f"Accept one of {', '.join(by_type)}.")
    return by_type[best]


def content_type(name: str) -> str:
    """Return the `Content-Type` of a format."""
    if name == "csv":
        return "text/csv; charset=utf-8; header=present"
    return TYPES[name]


def written(
    name: str, items: Sequence[Item], fields: Sequence[str], nouns: str
) -> bytes:
    """Return items in a format other than JSON.

    :param fields: the names of what each item has, in order: the columns of CSV.
    :param nouns: what they are, such as `products`: the root element of XML.
    """
    writers: dict[str, Callable[[], bytes]] = {
        "ndjson": lambda: b"".join(to_json(item) + b"\n" for item in items),
        "csv": lambda: _csv(items, fields),
        "xml": lambda: _xml(items, nouns),
    }
    return writers[name]()


def _csv(items: Sequence[Item], fields: Sequence[str]) -> bytes:
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow(fields)
    writer.writerows([_cell(item[name]) for name in fields] for item in items)
    return sheet.getvalue().encode()


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        return harmless(value)
    return value


def moment(value: datetime) -> str:
    """Return a time as RFC 3339 writes it, with six digits of a second."""
    return (
        value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    )


def _xml(items: Sequence[Item], nouns: str) -> bytes:
    top = Element(nouns)
    for item in items:
        _fill(SubElement(top, "item"), to_jsonable_python(item))
    return bytes(tostring(top, encoding="utf-8", xml_declaration=True))


def _fill(element: Element, value: object) -> None:
    """Write a JSON value into an element.

    Names of attributes can be any text, which names of elements cannot: an object below
    the first level becomes `<entry name="…">`, a list `<item>`.
    """
    if isinstance(value, Mapping):
        for name, part in value.items():
            if name.isidentifier() and name.isascii():
                _fill(SubElement(element, name), part)
            else:
                entry = SubElement(element, "entry", name=name.translate(_NO_XML))
                _fill(entry, part)
    elif isinstance(value, list):
        for part in value:
            _fill(SubElement(element, "item"), part)
    elif isinstance(value, bool):
        element.text = str(value).lower()
    elif value is not None:
        element.text = str(value).translate(_NO_XML)
