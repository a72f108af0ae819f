"""What mails and logout notices have in common: trying again, ever more slowly."""

import random

LONGEST_PAUSE_SECONDS = 240.0
"""Longest pause between attempts.

Below the time after which the broker takes a waiting message for lost and gives it out
again (see flagon_chassis.queue).
"""


class NotYet(Exception):
    """It could not be delivered now, and may be later."""


def pause_seconds(attempts: int) -> float:
    """Return how long to wait after so many failed attempts, at least one.

    Twice as long each time and never quite the same, so that who comes back is not told
    of everything at once.
    """
    longest = min(LONGEST_PAUSE_SECONDS, 2.0 ** min(attempts, 10))
    return random.uniform(longest / 2, longest)  # noqa: S311 (no secret)
