"""Where the CPU of a request goes: each layer's own time, without what it calls below."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any


class Layers:
    """Adds up CPU seconds of functions by the name of their layer, one thread's."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._below: list[float] = []

    def wrap(self, owner: Any, name: str, layer: str) -> None:
        """Count a function of a class, module or object to a layer from now on."""
        setattr(owner, name, self.counted(getattr(owner, name), layer))

    def counted(self, function: Callable[..., Any], layer: str) -> Callable[..., Any]:
        """Return the function, counted to a layer."""

        def call(*arguments: Any, **options: Any) -> Any:
            began = time.thread_time()
            self._below.append(0.0)
            try:
                return function(*arguments, **options)
            finally:
                took = time.thread_time() - began
                self.seconds[layer] += took - self._below.pop()
                if self._below:
                    self._below[-1] += took

        return call
