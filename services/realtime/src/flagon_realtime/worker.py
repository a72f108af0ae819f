"""The gunicorn worker that lets go of the sockets of streams."""

from typing import Any

import gevent
from gunicorn.workers.ggevent import GeventWorker


class StreamWorker(GeventWorker):  # type: ignore[misc]
    """A gevent worker whose requests may give their socket away and end.

    Never preload the app with it: gevent has to patch the library first.
    """

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

    def handle_exit(self, sig: int, frame: Any) -> None:  # noqa: ANN401
        """Stop on SIGTERM: streams begin to close while the last requests end."""
        self.closing = gevent.spawn(self.station.close)
        super().handle_exit(sig, frame)

    def run(self) -> None:
        """Serve until SIGTERM and until the streams are closed."""
        self.closing: gevent.Greenlet | None = None
        super().run()
        while self.closing is not None and not self.closing.dead:
            # The arbiter would take a silent worker for a hanging one.
            self.notify()
            gevent.sleep(0.1)
