"""Judges what was seen by the objectives in `deploy/observability/slos.yml`."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

SOURCE = Path(__file__).resolve().parents[2] / "deploy" / "observability" / "slos.yml"
REFUSALS = (429, 503)
"""What a platform says that has too much to do: not now."""


@dataclass(frozen=True)
class Objective:
    """One promise, as much of it as can be seen from outside."""

    title: str
    share: float
    """Part that must be good."""
    seconds: float | None
    """What is good takes no longer; None: where the time does not matter."""
    minimum: int
    """Of fewer than this nothing is said."""


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    at: float
    """When it was meant to be sent, in seconds from the start."""
    name: str
    read: bool
    """Whether the objective for reads counts it."""
    status: int
    """0 when there was no answer."""
    seconds: float
    """From when it was meant to be sent until the answer was whole."""
    retry_after: bool
    expected: bool
    """Whether the journey goes on with this status."""


@dataclass(frozen=True)
class Verdict:
    """One judgement; `ok` is None where there was too little to judge."""

    name: str
    ok: bool | None
    said: str


def load(path: Path = SOURCE) -> dict[str, Objective]:
    """Return the objectives by name; the limit is that of the metric's bucket."""
    found = {}
    for one in yaml.safe_load(path.read_text()):
        bucket = re.search(r'le="([0-9.]+)"', one["bad"])
        found[one["name"]] = Objective(
            one["title"],
            one["objective"],
            float(bucket[1]) if bucket else None,
            one["minimum"],
        )
    return found


def within(name: str, objective: Objective, bad: int, all_: int) -> Verdict:
    """Judge a number of events by one objective."""
    if all_ < objective.minimum:
        said = f"{all_} are too few to judge ({objective.minimum})"
        return Verdict(name, None, f"{objective.title}: {said}")
    good = 1 - bad / all_
    said = f"{good:.2%} of {all_}, wanted {objective.share:.1%}"
    return Verdict(name, good >= objective.share, f"{objective.title}: {said}")


def judge(
    objectives: dict[str, Objective],
    answers: Iterable[Answer],
    delays: dict[str, list[float]],
) -> list[Verdict]:
    """Judge what was seen while the objectives count.

    :param delays: seconds by objective, for those that are not about answers.
    """
    seen = list(answers)
    bad = sum(one.status == 0 or one.status >= 500 for one in seen)
    verdicts = [within("availability", objectives["availability"], bad, len(seen))]
    # What was refused was not read.
    counted = [one.seconds for one in seen if one.read and 0 < one.status < 500]
    times = {"read-latency": counted, **delays}
    for name, values in times.items():
        limit = objectives[name].seconds or math.inf
        late = sum(value > limit for value in values)
        verdicts.append(within(name, objectives[name], late, len(values)))
    return verdicts


def graceful(answers: Iterable[Answer]) -> Verdict:
    """Judge that nobody got an error other than "come back later", and when."""
    wrong: Counter[str] = Counter()
    refused = 0
    for one in answers:
        if one.status in REFUSALS:
            refused += 1
            if not one.retry_after:
                wrong[f"{one.name}: {one.status} without Retry-After"] += 1
        elif one.status == 0:
            wrong[f"{one.name}: no answer"] += 1
        elif not one.expected:
            wrong[f"{one.name}: {one.status}"] += 1
    said = ", ".join(f"{number} × {what}" for what, number in wrong.most_common(5))
    return Verdict("graceful", not wrong, said or f"{refused} told to come later")


def quantile(values: list[float], share: float) -> float:
    """Return the value that a share of all are not above; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
