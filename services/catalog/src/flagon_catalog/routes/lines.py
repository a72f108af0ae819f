"""Bulk upserts of any length: a product a line in, what became of it a line out."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from io import BufferedReader
from typing import Any, cast

from apiflask import APIBlueprint
from flask import Response, current_app, g, request, stream_with_context
from pydantic_core import to_json
from werkzeug.exceptions import UnsupportedMediaType

from flagon_catalog.domain import bulk
from flagon_catalog.schemas import BulkSummary, bulk_report, sift
from flagon_chassis import auth
from flagon_chassis.db import retrying, transaction

from . import WRITE, formats, refuse_twice

bp = APIBlueprint("lines", __name__, url_prefix="/api/v1/products", tag="Bulk")
bp.before_request(refuse_twice)

PATH = "/api/v1/products/bulk/lines"
LINES_MAX = 500
"""Most lines of one transaction."""
LINE_BYTES_MAX = 256 * 1024
"""Longest line; a longer one is refused, and the next is read."""
_BATCH_BYTES = 2 * 1024 * 1024
_NDJSON = formats.TYPES["ndjson"]

Line = tuple[int, Any, str]
"""Its number from 1, the value that it holds, and what is wrong with it as text."""


@bp.post("/bulk/lines")
@auth.requires(WRITE)
@bp.doc(
    operation_id="upsert_product_lines",
    responses={
        200: "What became of each line, and a summary as the last one",
        413: "The body is too large",
        415: "It is no NDJSON",
    },
)
def upsert_product_lines() -> Response:
    """Create or change any number of products by SKU, a line of JSON each.

    Each line is judged on its own, as an item of a bulk upsert is. Up to 500 lines are
    written at once, and told once they are: `line`, `sku`, `outcome` and `errors`. The last
    line has `summary`; without it the answer is not whole, and what was not told may or may
    not have been written. Sending all of it again is harmless. Empty lines do not count.
    """
    if request.mimetype != _NDJSON:
        raise UnsupportedMediaType(f"Send the lines as {_NDJSON}.")
    formats.chosen("ndjson")
    # A view that is tried again finds the lines that it has read.
    if "flagon_batches" not in g:
        g.flagon_batches = _batches(_lines())
        g.flagon_first = next(g.flagon_batches, [])
    # Before the answer begins: until then a failure is a problem to be told.
    first = _upserted(g.flagon_first)
    counts = Counter(result["outcome"] for result in first)

    def told() -> Iterator[bytes]:
        yield _written(first)
        for batch in g.flagon_batches:
            results = retrying(partial(_upserted, batch), harmless=True)
            counts.update(result["outcome"] for result in results)
            yield _written(results)
        summary = {name: counts[name] for name in BulkSummary.model_fields}
        yield _written([{"summary": summary}])

    response = Response(stream_with_context(told()))
    response.content_type = _NDJSON
    response.headers["Cache-Control"] = "private, no-store"
    return response


@bp.before_request
def allow_many_lines() -> None:
    """Let the body be as large as the setting says: it is never in memory as a whole."""
    settings = current_app.extensions["flagon.settings"]
    request.max_content_length = settings.lines_bytes_max


def _lines() -> Iterator[Line]:
    # The stream itself would read a line byte by byte.
    body = BufferedReader(cast("Any", request.stream), 64 * 1024)
    number = 0
    while text := body.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(text) > LINE_BYTES_MAX:
            while text and not text.endswith(b"\n"):
                text = body.readline(LINE_BYTES_MAX)
            yield number, None, f"The line is longer than {LINE_BYTES_MAX} bytes."
        elif text.strip():
            yield _parsed(number, text)


def _parsed(number: int, text: bytes) -> Line:
    try:
        value = current_app.json.loads(text)
    except ValueError:
        return number, None, "The line is no JSON in UTF-8."
    if not isinstance(value, dict):
        return number, None, "The line is no JSON object."
    return number, value, ""


def _batches(lines: Iterator[Line]) -> Iterator[list[Line]]:
    batch: list[Line] = []
    size = 0
    for line in lines:
        batch.append(line)
        # What is kept of it is about as large as its text.
        size += len(to_json(line[1]))
        if len(batch) == LINES_MAX or size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _upserted(batch: list[Line]) -> list[dict[str, Any]]:
    """Write a batch in a transaction and return what became of each line."""
    try:
        return _tried(batch)
    except bulk.TooMuchText as failure:
        if len(batch) > 1:
            # Only the database knows which of them it is.
            return [result for line in batch for result in _upserted([line])]
        ((number, value, _),) = batch
        wrong = [{"pointer": "#", "detail": failure.detail}]
        sku = value.get("sku")
        return [{"line": number, "sku": sku, "outcome": "refused", "errors": wrong}]


def _tried(batch: list[Line]) -> list[dict[str, Any]]:
    values = [value for _, value, wrong in batch if not wrong]
    items, errors = sift(values)
    with transaction() as session:
        outcomes = bulk.upsert_products(session, list(items.values()))
    told = dict(zip(items, outcomes, strict=True))
    reports = iter(bulk_report(values, told, errors)["results"])
    results = []
    for number, _, wrong in batch:
        if wrong:
            report = {
                "sku": None,
                "outcome": "refused",
                "errors": [{"pointer": "#", "detail": wrong}],
            }
        else:
            report = next(reports)
            del report["index"]
        results.append({"line": number, **report})
    return results


def _written(lines: list[dict[str, Any]]) -> bytes:
    return b"".join(to_json(line) + b"\n" for line in lines)
