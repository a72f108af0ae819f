"""The gunicorn worker that lets go of the sockets of streams."""

from types import TracebackType
from typing import Any

import gevent
from gunicorn.workers.ggevent import GeventWorker


class StreamWorker(GeventWorker):  # type: ignore[misc]
    """A gevent worker whose requests may give their socket away and end.

    Never preload the app with it: gevent has to patch the library first.
    """

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **options)
        self.station: Any = None
        self.idle: set[gevent.Greenlet] = set()
        """Connections that wait for their next request."""
        self.closing = False
        self.closed = False

    def load_wsgi(self) -> None:
        """Load the app and start to read events, before the first client comes."""
        super().load_wsgi()
        self.station = self.wsgi.extensions["flagon.station"]
        self.station.start(hands_over=True)

    def is_already_handled(self, respiter: Any) -> bool:  # noqa: ANN401
        """Leave the connection alone once its socket is somebody else's."""
        if super().is_already_handled(respiter):
            # The loop for further requests on the connection ends by this.
            raise StopIteration
        return False

    def timeout_ctx(self) -> "Waiting":
        """Return what bounds the time between two requests of a connection."""
        return Waiting(self)

    def handle_exit(self, sig: int, frame: Any) -> None:  # noqa: ANN401
        """Stop on SIGTERM: streams begin to close while the last requests end."""
        if not self.closing and self.station is not None:
            self.closing = True
            gevent.spawn(self._close)
        super().handle_exit(sig, frame)

    def run(self) -> None:
        """Serve until SIGTERM and until the streams are closed."""
        super().run()
        while self.closing and not self.closed:
            # The arbiter would take a silent worker for a hanging one.
            self.notify()
            gevent.sleep(0.1)

    def _close(self) -> None:
        self.station.close()
        self.closed = True
        # A proxy keeps connections for later, and each would hold up the end of the
        # process for the whole grace period.
        while True:
            for connection in list(self.idle):
                connection.kill(StopIteration, block=False)
            gevent.sleep(0.1)


class Waiting:
    """The time in which a connection waits for a request, and may be closed."""

    def __init__(self, worker: StreamWorker) -> None:
        self._idle = worker.idle
        self._timeout = gevent.Timeout(worker.cfg.keepalive, False)

    def __enter__(self) -> None:
        self._idle.add(gevent.getcurrent())
        self._timeout.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self._timeout.close()
        self._idle.discard(gevent.getcurrent())
        return error is self._timeout
