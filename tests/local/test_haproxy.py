"""HAProxy in nginx's place: the same promises, and those that it keeps otherwise."""

import os
import signal
import threading
from functools import partial

import pytest

from . import test_gateway
from .conftest import Upstream, start_gateway, wait_for
from .test_gateway import (  # noqa: F401 (the same tests, with another gateway)
    TestApiKeys,
    TestCompression,
    TestDocuments,
    TestInsideMatters,
    TestLimits,
    TestRequestId,
    TestRetry,
    TestSessions,
    TestStreams,
    TestTls,
    unique,
)


@pytest.fixture(scope="module")
def start():
    return partial(start_gateway, program="haproxy")


class TestErrors(test_gateway.TestErrors):
    def test_a_dead_service_is_a_502_that_says_when_to_retry(self, start, tmp_path):
        """No connection at all: HAProxy calls that 503."""
        with start(tmp_path, Upstream(port=1)) as gateway:
            read = gateway.client.get("/api/v1/jobs")
            write = gateway.client.post("/api/v1/jobs")
            page = gateway.client.post("/import", headers={"Accept": "text/html"})

        for reply in (read, write, page):
            assert reply.status_code == 503
            assert reply.headers["retry-after"] == "2"
        assert read.json()["title"] == write.json()["title"] == "Service Unavailable"
        assert write.json()["instance"] == write.headers["x-request-id"]
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "<h1>Service Unavailable</h1>" in page.text


class TestBodies(test_gateway.TestBodies):
    def test_a_body_without_a_length_is_cut_off(self, gateway):
        """By the service, which counts what it reads."""
        body = [b"x" * 65536] * 40

        gateway.client.post("/api/v1/products", content=iter(body))

        got = gateway.upstream.last("/api/v1/products")["headers"]
        assert got["transfer-encoding"] == "chunked"


class TestHeaders(test_gateway.TestHeaders):
    def test_files_with_a_hash_in_their_name_never_change(self, gateway):
        """The files are web's to send; how long they hold is said here."""
        for path, said in {
            "/static/app.3f9a1c77.css": "public, max-age=31536000, immutable",
            "/static/app.css?v=3f9a1c77": "public, max-age=31536000, immutable",
            "/static/app.css": "no-cache",
        }.items():
            headers = {"Cookie": "flagon_session=abc"}
            reply = gateway.client.get(path, headers=headers)
            assert reply.headers["cache-control"] == said
            assert "cookie" not in gateway.upstream.last(path)["headers"]
