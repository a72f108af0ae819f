"""Several questions at once, so that a page waits for the slowest and not for the sum."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

import structlog

from flagon_chassis.http import Unreachable

T = TypeVar("T")
log = structlog.get_logger()


class Gather:
    """Asks in threads of its own, which are started with the first question.

    :param threads: questions that a process asks at once.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._starting = threading.Lock()

    def __call__(self, questions: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
        """Return the answers by name; None for one that could not be had.

        A question raises `Unreachable` when nobody answers it; the page then shows its
        other parts. Whatever else it raises is raised here.
        """
        asked = {
            # Request id and trace travel in context variables.
            name: self._executor().submit(copy_context().run, _ask, name, question)
            for name, question in questions.items()
        }
        return {name: answer.result() for name, answer in asked.items()}

    def _executor(self) -> ThreadPoolExecutor:
        # Not before the fork: a child would inherit a pool without its threads.
        with self._starting:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, "gather")
            return self._pool


def _ask(name: str, question: Callable[[], T]) -> T | None:
    try:
        return question()
    except Unreachable as error:
        log.warning("part_missing", part=name, error=str(error))
        return None
