from contextlib import closing

import pytest

from flagon_chassis.testing import start_replicated

from .conftest import Publisher, numbers
from .test_worker import wait_until


@pytest.fixture(scope="module")
def several():
    yield from start_replicated()


def publish(several, number):
    """Add an entry where the relays add theirs, and see that another server has it."""
    port = several.primary()
    publisher = Publisher(f"redis://admin:{several.password}@127.0.0.1:{port}")
    with closing(publisher.redis):
        publisher("products", data={"n": number})
        assert publisher.redis.wait(1, 5000)


def moved(several, old):
    try:
        return several.primary() != old and several.role(several.primary()) == "master"
    except ConnectionError:
        return False


class TestFailover:
    def test_of_the_store_leaves_no_gap(self, several, launch):
        process = launch(redis_store_url=several.url.replace("things", "realtime"))
        stream = process.open("products")
        publish(several, 1)
        assert numbers([stream.next()]) == [1]
        old = several.primary()

        several.processes[old].kill()
        wait_until(lambda: moved(several, old))
        wait_until(lambda: process.metric("flagon_sse_connections") is not None)
        publish(several, 2)

        # As a browser does: whoever was told to come back says what they have.
        seen = numbers(stream.take(1))
        if stream.ended:
            seen += numbers(process.open("products", after=stream.last_id).take(1))
        assert seen == [2]
        wait_until(lambda: process.get("/readyz")[0] == 200)
        process.stop()
