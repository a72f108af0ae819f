"""The report of refused rows: a CSV file that a spreadsheet opens without harm."""

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

NAME = "refused.csv"
"""What the artefact is called."""

# A cell that begins so is a formula to a spreadsheet (OWASP, “CSV Injection”).
_FORMULA = re.compile(r"\A\s*[=+\-@\t\r\n|%]")
_NUMBER = re.compile(r"\A[+-]?\d+(?:[.,]\d+)*\Z")
# Excel takes the file for UTF-8 only with this mark.
_MARK = b"\xef\xbb\xbf"


def defuse(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    if _FORMULA.match(cell) and not _NUMBER.match(cell):
        return f"'{cell}"
    return cell


def encode(rows: Iterable[Sequence[str]]) -> bytes:
    """Return rows as CSV bytes, every cell defused."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([defuse(cell) for cell in row] for row in rows)
    # A lone surrogate (from a JSON escape) has no bytes; it becomes a question mark.
    return text.getvalue().encode("utf-8", errors="replace")


def header(columns: Sequence[str]) -> bytes:
    """Return the first bytes of a report on a file with these columns."""
    return _MARK + encode([["row", "sku", "reason", *columns]])


def write(path: Path, addition: bytes, *, at: int) -> int:
    """Write to a report from a byte on, cut off what followed, return its new length.

    What a crashed run left beyond `at` is overwritten, so rows never appear twice.
    """
    with path.open("r+b" if path.exists() else "wb") as file:
        file.seek(at)
        file.write(addition)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
        return file.tell()
