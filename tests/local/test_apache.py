"""Apache in nginx's place: the same promises, and those that it keeps otherwise."""

import os
import signal
import socket
from functools import partial
from pathlib import Path

import httpx2
import pytest

from . import test_gateway
from .conftest import start_gateway, wait_for
from .test_gateway import (  # noqa: F401 (the same tests, with another gateway)
    TestApiKeys,
    TestCompression,
    TestDocuments,
    TestInsideMatters,
    TestLimits,
    TestRequestId,
    TestSessions,
    TestStreams,
    TestTls,
    unique,
)


@pytest.fixture(scope="module")
def start(installed_apache):
    return partial(start_gateway, program="apache")


class TestErrors(test_gateway.WithoutListener, test_gateway.TestErrors):
    pass


class TestBodies(test_gateway.TestBodies):
    def test_a_body_without_a_length_is_cut_off(self, gateway):
        """What comes after the limit is no body any more for who passes it on."""
        body = [b"x" * 65536] * 40

        reply = gateway.client.post("/api/v1/products", content=iter(body))

        assert reply.status_code == 400
        assert reply.headers["content-type"] == "application/problem+json"


class TestHeaders(test_gateway.TestHeaders):
    server = "Apache"
    """It does not let its name be taken away."""


class TestRetry(test_gateway.TestRetry):
    def test_a_read_survives_a_killed_worker(self, gateway):
        """The client asks again: of itself on a kept connection, else told by a 502."""
        gateway.upstream.answer = lambda h: h.connection.shutdown(socket.SHUT_RDWR)
        path = unique("/api/v1/jobs")

        with httpx2.Client(base_url=gateway.url, trust_env=False) as client:
            first = client.get(path)
            gateway.upstream.answer = None
            assert client.get(path).status_code == 200
            gateway.upstream.answer = lambda h: h.connection.shutdown(socket.SHUT_RDWR)
            with pytest.raises(httpx2.RemoteProtocolError):
                client.get(path)

        assert first.status_code == 502
        assert first.headers["retry-after"] == "2"
        assert gateway.upstream.count(path) == 3


class TestReload(test_gateway.Reloads):
    def reload(self, gateway):
        def workers():
            said = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text()
            return set(said.split())

        before = workers()
        os.kill(gateway.pid, signal.SIGUSR1)
        wait_for(lambda: workers() - before)


class TestSlowness(test_gateway.Slowness):
    pass


class TestTraces(test_gateway.Spans):
    pass
