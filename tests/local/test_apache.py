"""Apache in nginx's place: the same promises, and those that it keeps otherwise."""

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
    unique,
)


@pytest.fixture(scope="module")
def start(installed_apache):
    return partial(start_gateway, program="apache")
