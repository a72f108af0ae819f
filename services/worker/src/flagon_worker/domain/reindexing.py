"""The reindex: the words by which searches find what was meant, made anew in steps.

First the catalog learns the words of all products, then it forgets those that no product
has, then it learns those of products that were written meanwhile. Each step is safe to
repeat, so one that was sent and not confirmed is sent again. Searches go on all the time:
no word that a product has is missing at any moment that lasts.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from . import leases
from .runs import Run

_SAID = {
    "learn": "Learning the words of products.",
    "forget": "Forgetting words that no product has.",
    "again": "Learning what came meanwhile.",
    "done": "All words are there.",
}
_NEXT = {"learn": "forget", "forget": "again", "again": "done"}


class Catalog(Protocol):
    """Who knows the products."""

    def index_words(self, step: str, asked: Mapping[str, str]) -> Mapping[str, Any]:
        """Have a step done, `learn` or `forget`; safe to repeat.

        :returns: `after`, where the next one goes on, None at the end; `looked_at` and
            `written`; `at`, when it began.
        :raises leases.Trouble: the catalog does not answer.
        """


@dataclass
class Place:
    """Where a reindex goes on."""

    phase: str = "learn"
    after: str | None = None
    since: str | None = None
    """When the last step of learning began, before anything was forgotten."""
    looked_at: int = 0
    learned: int = 0
    forgotten: int = 0


def run_reindex(run: Run, *, catalog: Catalog) -> dict[str, Any]:
    """Have the catalog make its words anew; return how many came and went."""
    place = Place()
    if run.job.checkpoint:
        place = Place(**run.job.checkpoint["place"])
    # Not a turn's end: every turn must get a step further, or none would come to an end.
    run.check(turn=False)
    while place.phase != "done":
        _take(catalog, place)
        with run.step() as (session, job):
            run.advance(session, job, _step(place))
        if place.phase != "done":
            run.check()
    return _result(place)


def _take(catalog: Catalog, place: Place) -> None:
    asked = {"after": place.after} if place.after is not None else {}
    if place.phase == "again" and place.since is not None:
        asked["since"] = place.since
    forgets = place.phase == "forget"
    found = catalog.index_words("forget" if forgets else "learn", asked)
    place.looked_at += found["looked_at"]
    place.after = found["after"]
    if forgets:
        place.forgotten += found["written"]
    else:
        place.learned += found["written"]
    if place.phase == "learn":
        place.since = found["at"]
    if place.after is None:
        place.phase = _NEXT[place.phase]


def _result(place: Place) -> dict[str, Any]:
    return {"learned": place.learned, "forgotten": place.forgotten}


def _step(place: Place) -> leases.Step:
    return leases.Step(
        place=asdict(place),
        result=_result(place),
        artefacts=[],
        done=place.looked_at,
        total=place.looked_at if place.phase == "done" else None,
        unit="products and words",
        message=_SAID[place.phase],
    )
