"""A judge that nobody tried may let everything pass."""

from itertools import pairwise

import addresses
import objectives
import profiles
import pytest
from ledger import Ledger
from objectives import Answer
from profiles import PROFILES, arrivals

OBJECTIVES = objectives.load()


def answer(status=200, *, seconds=0.01, retry_after=False, read=True, at=0.0):
    expected = 200 <= status < 400
    return Answer(at, "GET product", read, status, seconds, retry_after, expected)


def judged(answers, delays=None):
    found = objectives.judge(OBJECTIVES, answers, delays or {})
    return {one.name: one.ok for one in found}


class TestObjectives:
    def test_are_those_of_the_platform(self):
        assert OBJECTIVES["availability"].share == 0.999
        assert OBJECTIVES["availability"].seconds is None
        assert OBJECTIVES["read-latency"].seconds == 0.1
        assert OBJECTIVES["event-to-screen"].seconds == 0.5
        assert OBJECTIVES["job-start"].seconds == 2.0

    def test_hold_and_break_at_their_limit(self):
        good, slow = [answer()] * 950, [answer(seconds=0.2)] * 50

        assert judged(good + slow)["read-latency"] is True
        assert judged(good + [*slow, answer(seconds=0.2)] * 2)["read-latency"] is False

    def test_count_every_fault_of_ours(self):
        good = [answer()] * 998

        assert judged([*good, answer(), answer(500)])["availability"] is True
        for status in (0, 500, 503):
            bad = [answer(status), answer(status)]
            assert judged(good + bad)["availability"] is False

    def test_do_not_blame_the_platform_for_refusing_bad_requests(self):
        assert judged([answer(404)] * 1000)["availability"] is True

    def test_count_what_is_seen_late(self):
        assert judged([], {"event-to-screen": [0.1] * 20})["event-to-screen"] is True
        late = {"event-to-screen": [0.1] * 18 + [0.6] * 2}
        assert judged([], late)["event-to-screen"] is False

    def test_say_nothing_of_a_few(self):
        assert judged([answer(500)] * 99)["availability"] is None


class TestGraceful:
    def test_is_being_told_when_to_come_back(self):
        busy = [answer(503, retry_after=True), answer(429, retry_after=True)]

        assert objectives.graceful([*busy, answer()]).ok is True

    @pytest.mark.parametrize("status", [429, 503])
    def test_is_not_being_told_nothing(self, status):
        assert objectives.graceful([answer(status)]).ok is False

    @pytest.mark.parametrize("status", [0, 404, 500, 502, 504])
    def test_is_no_error(self, status):
        assert objectives.graceful([answer(status, retry_after=True)]).ok is False


class TestLedger:
    @pytest.fixture
    def ledger(self):
        ledger = Ledger()
        ledger.wrote("/p/1", 1, 100)
        ledger.wrote("/p/1", 2, 200)
        ledger.accepted("/jobs/1", ["a", "b"])
        return ledger

    def lost(self, ledger, found, state="succeeded", skus=("a", "b")):
        return ledger.lost({"/p/1": found}, {"/jobs/1": state}, set(skus))

    def test_is_content_with_what_was_acknowledged(self, ledger):
        assert self.lost(ledger, (2, 200)) == []

    @pytest.mark.parametrize("found", [None, (1, 100), (2, 100), (3, 300)])
    def test_finds_what_is_lost_or_nobody_wrote(self, ledger, found):
        [said] = self.lost(ledger, found)

        assert said.startswith("/p/1")

    def test_does_not_know_what_became_of_the_unanswered(self, ledger):
        ledger.unanswered("/p/1")

        assert self.lost(ledger, (2, 200)) == []
        assert self.lost(ledger, (3, 300)) == []
        assert len(self.lost(ledger, (1, 100))) == 1
        assert len(self.lost(ledger, (4, 400))) == 1

    @pytest.mark.parametrize("state", ["queued", "running", "failed", "gone"])
    def test_finds_jobs_that_were_not_done(self, ledger, state):
        assert self.lost(ledger, (2, 200), state) == [f"/jobs/1 is {state}"]

    def test_finds_rows_that_a_job_left_out(self, ledger):
        [said] = self.lost(ledger, (2, 200), skus=["a"])

        assert "['b']" in said


class TestProfiles:
    @pytest.mark.parametrize("name", PROFILES)
    def test_are_bounded(self, name):
        assert PROFILES[name].seconds <= 2 * 3600
        assert PROFILES[name].at(PROFILES[name].seconds + 1)[0] == 0

    def test_come_in_another_length(self):
        short = PROFILES["stress"].within(60)

        assert short.seconds == pytest.approx(60)
        assert [one.phase for one in short.stages] == [
            one.phase for one in PROFILES["stress"].stages
        ]

    def test_ask_for_objectives_until_it_is_too_much_and_soon_after(self):
        stress = PROFILES["stress"]
        end = stress.overload_end

        assert stress.judged(60)
        assert not stress.judged(end - 1)
        assert not stress.judged(end + profiles.RECOVERY_SECONDS - 0.1)
        assert stress.judged(end + profiles.RECOVERY_SECONDS)

    def test_let_people_in_at_their_rate_whatever_happens(self):
        moments = list(arrivals(PROFILES["average"], 10.0, seed=1))

        # 270 s at 10 a second, and 30 s on the way there.
        assert len(moments) == pytest.approx(2880, rel=0.1)
        assert moments == sorted(moments)
        gaps = [b - a for a, b in pairwise(moments) if a > 30]
        assert sum(gaps) / len(gaps) == pytest.approx(0.1, rel=0.1)
        # Not like a clock: some come together.
        assert min(gaps) < 0.01
        assert max(gaps) > 0.3

    def test_are_the_same_again(self):
        first, again = (
            list(arrivals(PROFILES["spike"], 2.0, seed=7)) for _ in range(2)
        )

        assert first == again
        assert first != list(arrivals(PROFILES["spike"], 2.0, seed=8))


class TestTarget:
    def test_is_this_machine_unless_somebody_names_another(self):
        assert addresses.target("", 9080) == ("http://localhost:9080", True)
        assert addresses.target("https://shop.example", 8080) == (
            "https://shop.example",
            False,
        )

    @pytest.mark.parametrize(
        "host",
        [
            "shop.example",
            "ftp://shop.example",
            "https://localhost@shop.example",
            "https://shop.example/path",
            "https://shop.example?x=localhost",
        ],
    )
    def test_is_not_taken_for_another(self, host):
        with pytest.raises(addresses.NotAllowed):
            addresses.target(host, 8080)

    @pytest.mark.parametrize(
        "host", ["https://localhost.shop.example", "https://127.0.0.1.shop.example"]
    )
    def test_is_no_look_alike(self, host):
        assert addresses.target(host, 8080)[1] is False
