"""Tools that others wrote, whose answers a page can go without."""

from collections.abc import Iterator
from contextlib import contextmanager

from flagon_chassis.http import Refused, Unreachable

_RETRY_SECONDS = 10


@contextmanager
def sense(name: str) -> Iterator[None]:
    """Take a refusal, and an answer that makes no sense, for no answer.

    :param name: who is asked, as the first word of a sentence.
    :raises Unreachable: instead of `Refused` and `ValueError`.
    """
    try:
        yield
    except Refused as refused:
        raise Unreachable(
            f"{name} refused ({refused.status}).", retry_after_seconds=_RETRY_SECONDS
        ) from refused
    except ValueError as error:
        raise Unreachable(
            f"{name} said what makes no sense.", retry_after_seconds=_RETRY_SECONDS
        ) from error
