"""Which release each service runs, since when, and what ran before: read out of a chart."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from .charts import Window, place
from .operations import RUNNING, Track

_MINUTE = 60


@dataclass(frozen=True)
class Release:
    """A release of a service, as it came or as it was there from the beginning."""

    service: str
    name: str
    before: tuple[str, ...]
    """What ran when it came."""
    at: float | None
    """When it came, in seconds since 1970; None: it was there at the beginning."""
    processes: float
    """Of the service that run it now."""
    among: float
    """Processes of the service."""
    minutes: int
    """Since it came."""

    @property
    def came(self) -> datetime | None:
        """When it was seen for the first time, one step of the chart late at most."""
        return None if self.at is None else datetime.fromtimestamp(self.at, UTC)

    @property
    def looks(self) -> str:
        """The tone of its badge: all run it, some do, or none any more."""
        if not self.processes:
            return "replaced"
        return "ready" if self.processes == self.among else "running"


def releases(tracks: Sequence[Track]) -> list[Release]:
    """Return what came meanwhile, the newest first, then what stayed as it was.

    :param tracks: the answer to `RUNNING` over time.
    """
    by_service: dict[str, dict[str, Track]] = defaultdict(dict)
    for track in tracks:
        names = track.metric
        by_service[names.get("service", "")][names.get(RUNNING.by, "")] = track
    newest = max((at for one in tracks for at, _n in one.values[-1:]), default=0.0)
    found = [one for name, own in by_service.items() for one in _of(name, own, newest)]
    return sorted(found, key=lambda one: (-(one.at or 0.0), one.service, one.name))


def marks(found: Sequence[Release], window: Window) -> list[float]:
    """Return where in a picture releases came."""
    return sorted({place(one.at, window) for one in found if one.at is not None})


def _of(service: str, tracks: Mapping[str, Track], newest: float) -> list[Release]:
    seen: dict[float, set[str]] = defaultdict(set)
    for name, track in tracks.items():
        for at, _count in track.values:
            seen[at].add(name)
    now = {
        name: count
        for name, track in tracks.items()
        for at, count in track.values[-1:]
        # What is replaced is gone already at the last step of all.
        if at == newest
    }
    came: list[tuple[str, tuple[str, ...], float | None]] = []
    last: set[str] = set()
    # A time at which nobody answered is none of these: who comes back as they went has
    # not been replaced.
    for at, here in sorted(seen.items()):
        came += [
            (name, tuple(sorted(last)), at if last else None)
            for name in sorted(here - last)
        ]
        last = here
    last_time = {name: number for number, (name, _before, _at) in enumerate(came)}
    return [
        Release(
            service,
            name,
            before,
            at,
            # What went and came back runs as what came back.
            processes=now.get(name, 0) if last_time[name] == number else 0,
            among=sum(now.values()),
            minutes=round((newest - (at or newest)) / _MINUTE),
        )
        for number, (name, before, at) in enumerate(came)
        if at is not None or (last_time[name] == number and name in now)
    ]
