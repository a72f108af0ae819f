"""Batched loading: what was found together is asked about together."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from flagon_catalog.domain.reviews import Reader
from flagon_chassis.errors import Failure

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Asker:
    """Who asks, and the one session that everything is read in."""

    session: Any
    hidden: bool
    """Whether drafts and archived products are shown."""
    reader: Reader
    broken: Exception | None = None
    """What went wrong unexpectedly; nothing is read after it."""

    def read(self, load: Callable[[], R]) -> R:
        """Return what `load` reads.

        :raises Exception: what it raised, and after an unexpected one that one again: a
            database that is away is not waited for once for each field.
        """
        if self.broken is not None:
            raise self.broken
        try:
            return load()
        except Failure:
            raise
        # Remembered and raised: it is unexpected, so the next field would meet it too.
        except Exception as error:
            self.broken = error
            raise


@dataclass(frozen=True)
class Level(Generic[T]):
    """All things of one place in a query, and what has been found for all of them.

    GraphQL resolves one thing after the other. The first one that is asked for its
    category has the categories of its whole level found, and the others find theirs
    there: as many statements for fifty products as for one.
    """

    items: Sequence[T]
    asker: Asker
    _found: dict[Hashable, Any] = field(default_factory=dict)

    def once(self, key: Hashable, load: Callable[[Sequence[T]], R]) -> R:
        """Return what `load` gives for the whole level, loaded at the first call.

        :param key: what is loaded, with all that it depends on but the level.
        :raises Exception: whatever it raised, each time.
        """
        if key not in self._found:
            try:
                self._found[key] = (self.asker.read(lambda: load(self.items)), None)
            # Kept, so that the next one of the level does not try again.
            except Exception as error:  # noqa: BLE001
                self._found[key] = (None, error)
        found, failure = self._found[key]
        if failure is not None:
            raise failure
        return cast("R", found)
