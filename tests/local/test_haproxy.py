"""HAProxy in nginx's place: the same promises, and those that are kept otherwise."""

from functools import partial

import pytest

from . import test_gateway
from .conftest import start_gateway
from .test_gateway import (  # noqa: F401 (the same tests, with another gateway)
    TestApiKeys,
    TestBodies,
    TestCompression,
    TestDocuments,
    TestErrors,
    TestHeaders,
    TestInsideMatters,
    TestLimits,
    TestRequestId,
    TestRetry,
    TestSessions,
    TestStreams,
    TestTls,
)


@pytest.fixture(scope="module")
def start():
    return partial(start_gateway, program="haproxy")
