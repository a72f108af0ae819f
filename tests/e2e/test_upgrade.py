"""From one release to the next and back, beside each other, and nobody notices."""

import socket
import threading
from collections import Counter

import httpx2
import pytest
from harness.traffic import AsBrowsers, Traffic
from harness.upgrade import NEW_MEMBER, PATCHES, Drill, Problem, Stack, beside, roll

pytestmark = [pytest.mark.restarts, pytest.mark.rolls]

SERVICES = ("catalog", "worker", "realtime")


@pytest.fixture(scope="module")
def drilled(stack, merchandiser, operator):
    """What people saw of an upgrade and a rollback."""
    # Containers take longer to come and go: people are seen meanwhile as well.
    seen = 8 if stack.mode == "docker" else 16
    drill = Drill(stack, SERVICES, seen=seen)
    with Traffic(stack, merchandiser, operator, "drill-ci", rate=10) as traffic:
        try:
            drill.run(traffic)
        finally:
            traffic.stop()
            traffic.settle()
            traffic.verdict = traffic.verdicts()
            drill.clean()
    traffic.said = drill.said
    stack.ready()
    return traffic


class TestUpgradeAndRollback:
    def test_no_request_fails(self, drilled):
        wrong = [one for one in drilled.answers if one.wrong]

        assert wrong == []
        # Not for want of requests: each step saw some that were meant during it.
        seen = Counter(one.phase for one in drilled.answers)
        assert {phase for _, phase in drilled.marks if "both" in phase} <= set(seen)

    @pytest.mark.parametrize(
        "promise",
        ["acknowledged writes", "accepted jobs", "events", "event streams"],
    )
    def test_keeps_what_it_promised(self, drilled, promise):
        held, said = drilled.verdict[promise]

        assert held, said

    @pytest.mark.parametrize("phase", ["catalog: both"])
    def test_both_releases_answer_beside_each_other(self, drilled, phase):
        shown = {
            NEW_MEMBER in one.told
            for one in drilled.answers
            if one.phase == phase and one.told
        }

        assert shown == {False, True}

    def test_streams_are_handed_over_twice(self, drilled):
        for one in drilled.watchers:
            assert one.words.count("open") >= 3
            assert one.gaps == 0

    def test_each_release_reads_job_messages_of_the_other(self, drilled):
        read = {
            line["says_kind"]
            for line in drilled.said
            if isinstance(line, dict) and line.get("event") == "job_message"
        }

        # The next release told it of all that it read, also of the older form. That the
        # older one read the newer form: its jobs ended while it alone worked on them.
        assert True in read
        assert drilled.ledger.jobs

    def test_leaves_the_stack_as_it_was(self, stack, drilled, merchandiser):
        [path, *_] = drilled.ledger.entities
        with merchandiser.client() as client:
            product = client.get(path).json()

        assert NEW_MEMBER not in product
        assert not any(name.endswith("-next") for name in stack.processes())


class TestBrokenRelease:
    def test_leaves_the_old_one_serving(self, stack):
        ours = Stack(stack.mode, stack.port_base)
        way = beside.of(ours)
        before = way.serving("catalog")
        tree = roll.patched(ours, "broken", PATCHES)
        app = tree / "services/catalog/src/flagon_catalog/app.py"
        app.write_text("raise SystemExit(3)")
        way.build(["catalog"], tree)

        with pytest.raises(Problem, match="catalog"):
            roll.roll(ours, "catalog", tree)

        assert way.serving("catalog") == before
        with stack.client(headers={"Cache-Control": "no-cache"}) as client:
            assert client.get("/api/v1/products?limit=1").status_code == 200


class TestKeptConnection:
    """What the people of the drill send again before containers, and what not."""

    OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    @pytest.fixture
    def serve(self):
        """Let connections be closed after so many answers, when the next request comes."""
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def run(*answers):
                for number in answers:
                    connection, _ = listening.accept()
                    with connection:
                        for _ in range(number):
                            connection.recv(65536)
                            connection.sendall(self.OK)
                        connection.recv(65536)

            def begin(*answers):
                threading.Thread(target=run, args=answers, daemon=True).start()
                return f"http://127.0.0.1:{listening.getsockname()[1]}/"

            yield begin

    def test_is_replaced_once_and_counted(self, serve):
        url, closed = serve(1, 1), []

        with httpx2.Client(transport=AsBrowsers(lambda: closed.append(1))) as client:
            said = [client.get(url).text, client.post(url, json={}).text]

        assert said == ["ok", "ok"]
        assert closed == [1]

    def test_that_is_fresh_is_none(self, serve):
        url, closed = serve(0), []

        with (
            httpx2.Client(transport=AsBrowsers(lambda: closed.append(1))) as client,
            pytest.raises(httpx2.TransportError),
        ):
            client.get(url)

        assert closed == []
