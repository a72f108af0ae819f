import redis

from flagon_chassis.testing import start_replicated

from .conftest import Publisher


class TestFailover:
    def test_of_the_store_is_survived_by_the_streams_that_are_open(self, launch):
        """What comes after it arrives, on the connection that was open before."""
        for several in start_replicated():
            process = launch(redis_store_url=several.url.replace("things", "realtime"))
            stream = process.open("products")
            primary = several.primary()
            before, after = (
                Publisher(f"redis://admin:{several.password}@127.0.0.1:{port}")
                for port in (primary, next(p for p in several.ports if p != primary))
            )
            before("products", data={"n": 1})
            assert stream.next().data["data"] == {"n": 1}

            several.processes[primary].kill()

            several.wait_for_another(primary)
            after = Publisher(
                f"redis://admin:{several.password}@127.0.0.1:{several.primary()}"
            )
            after("products", data={"n": 2})
            assert stream.next().data["data"] == {"n": 2}
            process.stop()
