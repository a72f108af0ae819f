"""A typographic cover for every product, always the same for the same title.

The style sheet holds the palettes, motifs and layouts by number; nothing here needs an
inline style, which the content security policy refuses.
"""

import re
from dataclasses import dataclass
from hashlib import blake2b

PALETTES = 14
MOTIFS = 9
LAYOUTS = 4

_SERIES = re.compile(r"\s*\(([^()]{2,90})\)\s*\Z")
_SIZES = ((12, "xl"), (26, "l"), (48, "m"), (80, "s"))
_LONGEST = 110


@dataclass(frozen=True)
class Title:
    """A product's name, cut into what is large and what is small in print."""

    main: str
    series: str = ""
    subtitle: str = ""


@dataclass(frozen=True)
class Cover:
    """The words on a cover and the numbers of its looks."""

    title: str
    series: str
    by: str
    palette: int
    motif: int
    layout: int
    size: str

    @property
    def classes(self) -> str:
        """The CSS classes that make the looks."""
        return (
            f"cover cover--p{self.palette} cover--m{self.motif}"
            f" cover--l{self.layout} cover--{self.size}"
        )


def split_title(name: str) -> Title:
    """Cut "Main: Subtitle (Series, #1)" into its parts; what is not there is empty."""
    name = name.strip()
    series = ""
    found = _SERIES.search(name)
    if found and found.start() > 0:
        series, name = found[1].strip(), name[: found.start()].strip()
    main, _, subtitle = name.partition(": ")
    if not main or not subtitle:
        return Title(name, series)
    return Title(main.strip(), series, subtitle.strip())


def cover(name: str, *, by: str = "") -> Cover:
    """Return the cover of the product that has this name.

    :param by: who made it; empty when nobody is named.
    """
    title = split_title(name)
    words = title.main
    if len(words) > _LONGEST:
        words = words[:_LONGEST].rsplit(" ", 1)[0].rstrip(" ,;:") + "…"
    looks = blake2b(name.encode(), digest_size=4).digest()
    longest_word = max((len(word) for word in words.split()), default=0)
    weight = max(len(words), longest_word * 3)
    size = next((name for limit, name in _SIZES if weight <= limit), "xs")
    return Cover(
        title=words,
        series=title.series,
        by=by,
        palette=looks[0] % PALETTES,
        motif=looks[1] % MOTIFS,
        layout=looks[2] % LAYOUTS,
        size=size,
    )
