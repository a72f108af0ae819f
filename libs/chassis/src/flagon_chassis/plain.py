"""What processes have in common that are no web service: plain answers, and their end."""

import signal
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from json import dumps
from types import FrameType


class Handler(BaseHTTPRequestHandler):
    """Answers with JSON or bytes, and keeps the connection."""

    protocol_version = "HTTP/1.1"

    def answer(
        self, status: int, body: object, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send an object as JSON."""
        self.send(status, "application/json", dumps(body).encode(), headers)

    def send(
        self,
        status: int,
        content_type: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send bytes."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing: probes and scrapes are not news."""


def stop_at_signals(stop: threading.Event) -> None:
    """Set the event when the process is asked to end."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
