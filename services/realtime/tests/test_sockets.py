"""WebSockets against real processes, with the real client of Socket.IO."""

import queue

import pytest
import socketio

PATIENCE = 30.0


class Client:
    """One connection of python-socketio's client, which never comes back by itself."""

    def __init__(self, port, *, token=None, headers=None):
        self.told = queue.Queue()
        self.io = socketio.Client(reconnection=False)
        self.io.on("*", lambda event, data: self.told.put((event, data)))
        given = dict(headers or {})
        if token:
            given["Authorization"] = f"Bearer {token}"
        self.io.connect(
            f"http://127.0.0.1:{port}",
            headers=given,
            transports=["websocket"],
            wait_timeout=PATIENCE,
        )

    def call(self, event, data):
        return self.io.call(event, data, timeout=PATIENCE)

    def join(self, room):
        return self.call("join", {"room": room})

    def wait_for(self, condition):
        """Return the first message of the server that is as it should be."""
        while True:
            found = self.told.get(timeout=PATIENCE)
            if condition(*found):
                return found[1]

    def wait_for_count(self, count):
        return self.wait_for(lambda e, d: e == "presence" and d["count"] == count)

    def close(self):
        self.io.disconnect()


@pytest.fixture
def connect():
    opened = []

    def make(process, **options):
        opened.append(Client(process.port, **options))
        return opened[-1]

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def process(redis_url, shared_processes):
    return shared_processes()


class TestRooms:
    def test_tell_how_many_are_in_them(self, process, connect):
        first = connect(process)
        assert first.join("products/1") == {"room": "products/1", "count": 1}

        second = connect(process)
        assert second.join("products/1")["count"] == 2
        first.wait_for_count(2)
        second.close()
        first.wait_for_count(1)
