"""What holds with Redis as the broker holds with RabbitMQ."""

import pytest

from flagon_chassis.testing import start_postgres, start_rabbitmq

from . import test_ledger
from .test_ledger import World


@pytest.fixture(scope="module")
def world(redis_server, server, bearer, tmp_path_factory):
    # What was committed is with the kernel before anybody hears of it.
    postgres = start_postgres(synchronous_commit="on")
    broker = start_rabbitmq("worker")
    folder = tmp_path_factory.mktemp("world")
    (folder / "files").mkdir()
    found = World(
        next(postgres),
        redis_server,
        redis_server.url,
        folder,
        server.url,
        bearer.jwks,
        broker=next(broker),
    )
    yield found
    found.close()
    postgres.close()
    broker.close()


class TestLedger(test_ledger.TestLedger):
    """Workers killed every second; RabbitMQ killed once, and its queues emptied once."""
