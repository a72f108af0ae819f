"""Pages with text, bars and tables, as PDF.

The letters are Helvetica, which every reader of PDF has: nothing is embedded, so a file is
a few kilobytes. It has those of Western Europe; others become question marks.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

Bars = Sequence[tuple[str, int]]
"""Labels and numbers, zero or more."""

# Points of 1/72 inch: A4, and where its text is.
_WIDTH, _HEIGHT, _MARGIN = 595, 842, 48
_RIGHT = _WIDTH - _MARGIN
_LABEL_WIDTH, _NUMBER_WIDTH = 170, 60
_ROW = 15
_CHART = 130
_INK, _SOFT, _BAR = (0.11, 0.12, 0.11), (0.42, 0.45, 0.43), (0.07, 0.34, 0.29)
# Of Helvetica, in thousandths of its size; what numbers are made of.
_DIGIT, _COMMA = 556, 278


class Document:
    """A document that is written from top to bottom, on as many pages as it takes.

    :param title: what programs show; also on each page.
    :param at: when it was made; the same contents at the same time are the same bytes.
    """

    def __init__(self, title: str, at: datetime) -> None:
        # Loaded where a report is made, which is rare.
        import pydyf  # noqa: PLC0415 (few jobs draw)

        self._pydyf = pydyf
        self._pdf = pydyf.PDF()
        self._title = title
        made = at.astimezone(UTC).strftime("D:%Y%m%d%H%M%SZ")
        self._pdf.info["Title"] = pydyf.String(title)
        self._pdf.info["Producer"] = pydyf.String("Flagon")
        self._pdf.info["CreationDate"] = pydyf.String(made)
        self._pdf.catalog["Lang"] = pydyf.String("en")
        self._fonts = pydyf.Dictionary(
            {"plain": self._font("Helvetica"), "bold": self._font("Helvetica-Bold")}
        )
        self._page: Any = None
        self._y = 0.0
        self.pages = 0
        self._turn()

    def _font(self, name: str) -> bytes:
        font = self._pydyf.Dictionary(
            {
                "Type": "/Font",
                "Subtype": "/Type1",
                "BaseFont": f"/{name}",
                "Encoding": "/WinAnsiEncoding",
            }
        )
        self._pdf.add_object(font)
        found: bytes = font.reference
        return found

    def _turn(self) -> None:
        """Begin a page."""
        self._page = self._pydyf.Stream(compress=True)
        self._pdf.add_object(self._page)
        resources = self._pydyf.Dictionary({"Font": self._fonts})
        self._pdf.add_page(
            self._pydyf.Dictionary(
                {
                    "Type": "/Page",
                    "Parent": self._pdf.pages.reference,
                    "MediaBox": self._pydyf.Array([0, 0, _WIDTH, _HEIGHT]),
                    "Contents": self._page.reference,
                    "Resources": resources,
                }
            )
        )
        self.pages += 1
        self._y = _HEIGHT - _MARGIN
        foot = f"{self._title}, page {self.pages}"
        self._text(foot, _MARGIN, _MARGIN / 2, size=8, colour=_SOFT)

    def _room(self, height: float) -> None:
        """Go to the next page unless so much fits on this one."""
        if self._y - height < _MARGIN:
            self._turn()

    def _text(
        self,
        text: str,
        x: float,
        y: float,
        *,
        size: float = 9,
        font: str = "plain",
        colour: tuple[float, float, float] = _INK,
        width: float = _WIDTH - 2 * _MARGIN,
    ) -> None:
        """Write a line of text; what is wider is cut off."""
        page = self._page
        page.push_state()
        page.rectangle(x, y - size / 2, width, 2 * size)
        page.clip()
        page.end()
        page.begin_text()
        page.set_color_rgb(*colour)
        page.set_font_size(font, size)
        page.move_text_to(x, y)
        page.show_text_string(_bytes(text))
        page.end_text()
        page.pop_state()

    def _number(self, number: int, right: float, y: float) -> None:
        text = f"{number:,}"
        width = sum(_COMMA if sign == "," else _DIGIT for sign in text) * 9 / 1000
        self._text(text, right - width, y, width=width + 1)

    def _rectangle(self, x: float, y: float, width: float, height: float) -> None:
        self._page.set_color_rgb(*_BAR)
        self._page.rectangle(x, y, width, height)
        self._page.fill()

    def heading(self, text: str, *, size: float = 12, chart: bool = False) -> None:
        """Write a heading on the page on which what follows begins.

        :param chart: whether `columns` follow, which are on one page as a whole.
        """
        self._room(2 * size + (_CHART if chart else 0) + 4 * _ROW)
        self._y -= size + _ROW
        self._text(text, _MARGIN, self._y, size=size, font="bold")
        self._y -= size / 2

    def line(self, text: str) -> None:
        """Write a line of text."""
        self._room(_ROW)
        self._y -= _ROW
        self._text(text, _MARGIN, self._y, colour=_SOFT)

    def bars(self, found: Bars) -> None:
        """Draw a chart of bars that lie, one below the other."""
        most = max((number for _, number in found), default=0) or 1
        start = _MARGIN + _LABEL_WIDTH
        length = _RIGHT - _NUMBER_WIDTH - start
        for label, number in found:
            self._room(_ROW)
            self._y -= _ROW
            self._text(label, _MARGIN, self._y, width=_LABEL_WIDTH - 8)
            self._rectangle(start, self._y - 2, length * number / most, 9)
            self._number(number, _RIGHT, self._y)

    def columns(self, found: Bars) -> None:
        """Draw a chart of bars that stand, one beside the other: a histogram."""
        if not found:
            return
        self._room(_CHART + 2 * _ROW)
        self._y -= _CHART + _ROW
        most = max(number for _, number in found) or 1
        width = min((_RIGHT - _MARGIN) / len(found), _LABEL_WIDTH / 2)
        for index, (label, number) in enumerate(found):
            x = _MARGIN + index * width
            height = (_CHART - _ROW) * number / most
            self._rectangle(x + 3, self._y, width - 6, height)
            self._text(f"{number:,}", x + 3, self._y + height + 3, size=7)
            self._text(label, x + 3, self._y - 10, size=7, width=width - 4)
        self._y -= _ROW

    def table(self, head: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
        """Write a table of texts, all columns of the same width."""
        width = (_RIGHT - _MARGIN) / len(head)
        for number, row in enumerate([tuple(head), *rows]):
            self._room(_ROW)
            self._y -= _ROW
            for index, cell in enumerate(row):
                self._text(
                    cell,
                    _MARGIN + index * width,
                    self._y,
                    font="plain" if number else "bold",
                    width=width - 6,
                )

    def bytes(self) -> bytes:
        """Return the file; nothing may be written afterwards."""
        target = BytesIO()
        self._pdf.write(target)
        return target.getvalue()


def _bytes(text: str) -> bytes:
    # A control character has no shape, and a reader may make anything of it.
    shown = "".join(sign if sign.isprintable() else " " for sign in text)
    return shown.encode("cp1252", "replace")
