"""Every write that was acknowledged, and whether it is there at the end."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Entity:
    """What is known of one product or review."""

    version: int
    """The last that was acknowledged."""
    value: object
    """What it was set to there."""
    unanswered: int = 0
    """Writes since then of which nobody knows whether they were done."""


@dataclass
class Ledger:
    """Notes of a run; an acknowledged write may not be lost, whatever else was."""

    entities: dict[str, Entity] = field(default_factory=dict)
    jobs: dict[str, list[str]] = field(default_factory=dict)
    """The SKUs that each accepted job has to make, by its path."""
    acknowledged: int = 0

    def wrote(self, path: str, version: int, value: object) -> None:
        """Note an acknowledged write."""
        self.acknowledged += 1
        known = self.entities.get(path)
        if known is None or version > known.version:
            self.entities[path] = Entity(version, value)

    def unanswered(self, path: str) -> None:
        """Note a write of which nobody knows whether it was done."""
        if path in self.entities:
            self.entities[path].unanswered += 1

    def accepted(self, path: str, skus: list[str]) -> None:
        """Note a job that was accepted."""
        self.acknowledged += 1
        self.jobs[path] = skus

    def lost(
        self,
        found: Mapping[str, tuple[int, object] | None],
        states: Mapping[str, str],
        skus: set[str],
    ) -> list[str]:
        """Return what is not as it was acknowledged, in words.

        :param found: version and value of each entity now; None where there is none.
        :param states: the state of each job, by its path.
        :param skus: of all products that the jobs made.
        """
        wrong = []
        for path, known in self.entities.items():
            now = found.get(path)
            if now is None:
                wrong.append(f"{path} is gone")
                continue
            version, value = now
            if version < known.version:
                wrong.append(f"{path} is back at {version}, was {known.version}")
            elif version > known.version + known.unanswered:
                wrong.append(f"{path} is at {version}, nobody wrote that")
            elif version == known.version and value != known.value:
                wrong.append(f"{path} has {value}, was set to {known.value}")
        for path, made in self.jobs.items():
            if states.get(path) != "succeeded":
                wrong.append(f"{path} is {states.get(path, 'gone')}")
            elif missing := set(made) - skus:
                wrong.append(f"{path} did not make {sorted(missing)}")
        return wrong
