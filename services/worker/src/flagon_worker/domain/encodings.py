"""Find out how the bytes of a file become characters."""

import codecs
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

ENCODINGS = {
    "utf-8": "UTF-8",
    "utf-16-le": "UTF-16",
    "utf-16-be": "UTF-16",
    "cp1250": "Windows-1250",
    "cp1251": "Windows-1251",
    "cp1252": "Windows-1252",
    "cp1253": "Windows-1253",
    "cp1254": "Windows-1254",
    "cp1257": "Windows-1257",
    "iso8859-1": "ISO 8859-1",
    "iso8859-2": "ISO 8859-2",
    "iso8859-15": "ISO 8859-15",
    "mac-roman": "Mac Roman",
}
"""Encodings that can be read, by codec. Each maps a line to bytes in one way only, so
that the length of what was read is the place in the file."""

SAMPLE_BYTES = 1 << 16
"""Bytes from the beginning of a file that are looked at closely."""

_CHUNK_BYTES = 1 << 18
# What C0 control characters a table may hold: tab, the line ends and form feed.
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_CP1252_UNDEFINED = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
_STRAY_BYTE = re.compile("[\udc80-\udcff]")
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "an Excel or OpenDocument workbook (or another ZIP file)"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook (.xls)"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3", "an SQLite database"),
)
SAVE_AS = "Save it as “CSV UTF-8” and send it again."
"""What helps with most files that cannot be read."""


class SheetUnreadable(Exception):
    """The file cannot be read as a table; the message says why and what to do."""


def find_encoding(path: Path) -> tuple[str, int]:
    """Return the codec of a file and the length of its byte order mark.

    UTF-8 is believed only when the whole file is; else the file is Windows-1252, unless
    it has characters that speak for damaged UTF-8: taking that for Windows-1252 would
    turn every good accent of the file into rubbish.

    :raises SheetUnreadable: the file is empty, binary or of no known encoding.
    """
    with path.open("rb") as file:
        head = file.read(SAMPLE_BYTES)
        if not head.strip():
            raise SheetUnreadable("The file is empty. Send a file with a header row.")
        for magic, what in _MAGIC:
            if head.startswith(magic):
                raise SheetUnreadable(f"The file is {what}, not a CSV file. {SAVE_AS}")
        if head.startswith(codecs.BOM_UTF8):
            _require_utf8(file)
            return "utf-8", len(codecs.BOM_UTF8)
        for mark, codec in (
            (codecs.BOM_UTF16_LE, "utf-16-le"),
            (codecs.BOM_UTF16_BE, "utf-16-be"),
        ):
            if head.startswith(mark):
                return codec, len(mark)
        codec = _utf16_without_mark(head)
        if codec:
            return codec, 0
        if _BINARY.search(head):
            raise SheetUnreadable(
                "The file is binary (it holds control characters), not a CSV file. "
                + SAVE_AS
            )
        return ("utf-8" if _is_utf8(file) else "cp1252"), 0


def _utf16_without_mark(head: bytes) -> str:
    # Mostly Latin text has a zero in every other byte; the side tells the order.
    even, odd = head[0::2], head[1::2]
    if odd.count(0) > len(odd) * 0.6 and even.count(0) < len(even) * 0.05:
        return "utf-16-le"
    if even.count(0) > len(even) * 0.6 and odd.count(0) < len(odd) * 0.05:
        return "utf-16-be"
    return ""


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    return iter(lambda: file.read(_CHUNK_BYTES), b"")


def _require_utf8(file: BinaryIO) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    place = 0
    try:
        for chunk in _chunks(file):
            decoder.decode(chunk)
            place += len(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise _broken_utf8(place + error.start) from error


def _broken_utf8(place: int) -> SheetUnreadable:
    return SheetUnreadable(
        f"The file looks like UTF-8, but the bytes near position {place} are not. "
        "Save it as UTF-8 again, or name its `encoding` in the parameters."
    )


def _is_utf8(file: BinaryIO) -> bool:
    """Tell UTF-8 from Windows-1252 by every byte of the file."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
    accents = strays = place = 0
    first_stray = -1
    undefined = False
    for chunk in itertools.chain(_chunks(file), [b""]):
        if chunk.isascii() and not decoder.getstate()[0] and chunk:
            place += len(chunk)
            continue
        text = decoder.decode(chunk, final=not chunk)
        plain = len(text.encode("ascii", errors="ignore"))
        found = len(_STRAY_BYTE.findall(text))
        strays += found
        accents += len(text) - plain - found
        if strays and first_stray < 0:
            first_stray = place
        undefined = undefined or bool(_CP1252_UNDEFINED.search(chunk))
        place += len(chunk)
    if not strays:
        return True
    if accents >= strays:
        raise _broken_utf8(first_stray)
    if undefined:
        raise SheetUnreadable(
            "The file is neither UTF-8 nor UTF-16 nor Windows-1252. Save it as UTF-8, "
            "or name its `encoding` in the parameters."
        )
    return False


def skip_mark(path: Path, encoding: str) -> tuple[str, int]:
    """Return the codec for an encoding that was named, and the length of its mark.

    :raises SheetUnreadable: the file is empty.
    """
    with path.open("rb") as file:
        head = file.read(4)
    if not head:
        raise SheetUnreadable("The file is empty. Send a file with a header row.")
    if encoding == "utf-16":
        big = head.startswith(codecs.BOM_UTF16_BE)
        encoding = "utf-16-be" if big else "utf-16-le"
    marks = {
        "utf-8": codecs.BOM_UTF8,
        "utf-16-le": codecs.BOM_UTF16_LE,
        "utf-16-be": codecs.BOM_UTF16_BE,
    }
    mark = marks.get(encoding, b"")
    return encoding, len(mark) if mark and head.startswith(mark) else 0
