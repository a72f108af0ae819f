"""How many people come when: the shapes of a load, without anything that sends it."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

HOLD, BEYOND, RECOVER, SEARCH = "hold", "beyond", "recover", "search"
"""What is asked of a stage: the objectives; only that it is graceful; the objectives again
soon after what was too much; to find the rate at which they break."""
RECOVERY_SECONDS = 10.0
"""How long after too much has ended the objectives are not yet asked for."""


@dataclass(frozen=True)
class Stage:
    """A stretch of time in which the rate goes straight from one value to another.

    :param start: in multiples of the rate that the named number of people makes.
    """

    seconds: float
    start: float
    end: float
    phase: str = HOLD


@dataclass(frozen=True)
class Profile:
    """A named load."""

    users: float
    """People at once, if nobody says another number."""
    stages: tuple[Stage, ...]
    timed: bool = True
    """Whether times are judged; a smoke test on any machine judges outcomes alone."""
    hesitation: float = 1.0
    """Part of the usual think time that people take."""

    @property
    def seconds(self) -> float:
        """How long people come."""
        return sum(stage.seconds for stage in self.stages)

    def within(self, seconds: float | None) -> "Profile":
        """Return the same shape in another time; None leaves it as it is."""
        if seconds is None:
            return self
        factor = seconds / self.seconds
        stages = tuple(
            Stage(one.seconds * factor, one.start, one.end, one.phase)
            for one in self.stages
        )
        return replace(self, stages=stages)

    def at(self, second: float) -> tuple[float, str]:
        """Return the multiple and the phase of a moment, nobody after the end."""
        begun = 0.0
        for stage in self.stages:
            if begun <= second < begun + stage.seconds:
                share = (second - begun) / stage.seconds
                return stage.start + share * (stage.end - stage.start), stage.phase
            begun += stage.seconds
        return 0.0, self.stages[-1].phase

    def judged(self, second: float) -> bool:
        """Say whether the objectives are asked for at a moment."""
        _multiple, phase = self.at(second)
        if phase == RECOVER:
            return second >= self.overload_end + RECOVERY_SECONDS
        return phase == HOLD

    @property
    def overload_end(self) -> float:
        """When too much has ended; 0 without any."""
        end = begun = 0.0
        for stage in self.stages:
            begun += stage.seconds
            if stage.phase == BEYOND:
                end = begun
        return end


PROFILES = {
    "smoke": Profile(4, (Stage(12, 1, 1),), timed=False, hesitation=0.3),
    "average": Profile(20, (Stage(30, 0.2, 1), Stage(270, 1, 1))),
    "stress": Profile(
        40,
        (
            Stage(30, 0.2, 1),
            Stage(150, 1, 1),
            Stage(30, 1, 4, BEYOND),
            Stage(90, 4, 4, BEYOND),
            Stage(60, 1, 1, RECOVER),
        ),
    ),
    "spike": Profile(
        20,
        (
            Stage(60, 1, 1),
            Stage(5, 1, 10, BEYOND),
            Stage(30, 10, 10, BEYOND),
            Stage(60, 1, 1, RECOVER),
        ),
    ),
    "soak": Profile(20, (Stage(60, 0.2, 1), Stage(7140, 1, 1))),
    "breakpoint": Profile(20, (Stage(900, 0, 20, SEARCH),)),
}


def arrivals(profile: Profile, rate: float, seed: int) -> Iterator[float]:
    """Yield the seconds at which people come, whatever became of those before them.

    People do not know of each other: the gaps are exponential, by thinning of an even
    stream at the highest rate.

    :param rate: people a second at a multiple of 1.
    """
    chance = random.Random(seed)
    highest = rate * max(max(one.start, one.end) for one in profile.stages)
    second = 0.0
    while (second := second + chance.expovariate(highest)) < profile.seconds:
        if chance.random() * highest < rate * profile.at(second)[0]:
            yield second
