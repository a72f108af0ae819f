"""Waiting for a state instead of for a time."""

import time


class NeverHappened(AssertionError):
    """The state did not come in time."""


def until(look, seconds=120.0, *, pause=0.1, what="", ignore=()):
    """Return the first true value that `look()` gives.

    The time is for what surely happens, on the busiest machine; no promise of ours.

    :param look: asked again and again.
    :param ignore: exceptions that mean "not yet".
    :raises NeverHappened: with what was seen last.
    """
    deadline = time.monotonic() + seconds
    last = None
    while True:
        try:
            last = look()
        except ignore as error:
            last = None
            reason = f"{type(error).__name__}: {error}"
        else:
            reason = repr(last)
        if last:
            return last
        if time.monotonic() > deadline:
            raise NeverHappened(
                f"{what or look} did not happen in {seconds} s: {reason}"
            )
        time.sleep(pause)
