"""When schedules are due."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flagon_worker.domain.times import (
    CATCH_UP_MAX,
    Timing,
    TimingInvalid,
    Turn,
    turn,
    zone,
)

BERLIN = ZoneInfo("Europe/Berlin")
START = datetime(2026, 1, 1, tzinfo=UTC)


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def cron(expression, time_zone="UTC"):
    return Timing(expression, None, START, time_zone)


def every(seconds):
    return Timing(None, seconds, START)


def times(timing, since, count):
    found = []
    for _ in range(count):
        since = timing.after(since)
        found.append(since)
    return found


class TestAfter:
    def test_goes_by_the_clock_on_the_wall(self):
        timing = cron("30 7 * * mon-fri", "Europe/Berlin")

        found = times(timing, at("2026-01-02 06:30"), 2)

        assert found == [at("2026-01-05 06:30"), at("2026-01-06 06:30")]
        assert timing.after(at("2026-07-01 00:00")) == at("2026-07-01 05:30")

    def test_is_later_than_the_moment(self):
        assert cron("0 * * * *").after(at("2026-01-01 12:00")) == at("2026-01-01 13:00")
        late = at("2026-01-01 12:00") + timedelta(microseconds=1)
        assert cron("0 * * * *").after(late) == at("2026-01-01 13:00")
        early = at("2026-01-01 12:00") - timedelta(microseconds=1)
        assert cron("0 * * * *").after(early) == at("2026-01-01 12:00")

    def test_of_an_interval_stays_on_its_grid(self):
        timing = every(90)

        assert timing.after(START) == START + timedelta(seconds=90)
        assert timing.after(START + timedelta(seconds=91)) == START + timedelta(
            seconds=180
        )

    @pytest.mark.parametrize("expression", ["30 2 * * *", "15 2 * * *", "0,45 2 * * *"])
    def test_in_the_hour_that_is_left_out_is_its_end_and_once(self, expression):
        # On 29 March 2026 Berlin goes from 2:00 to 3:00.
        timing = cron(expression, "Europe/Berlin")

        found = times(timing, at("2026-03-29 00:00"), 2)

        assert found[0] == at("2026-03-29 01:00")
        assert found[1].astimezone(BERLIN).date().isoformat() == "2026-03-30"

    def test_in_the_hour_that_comes_twice_is_once(self):
        # On 25 October 2026 Berlin goes from 3:00 back to 2:00.
        timing = cron("30 2 * * *", "Europe/Berlin")

        found = times(timing, at("2026-10-24 12:00"), 2)

        assert found == [at("2026-10-25 00:30"), at("2026-10-26 01:30")]

    def test_is_not_before_the_moment_in_the_second_of_two_hours(self):
        timing = cron("0-59 2 * * *", "Europe/Berlin")
        moment = at("2026-10-25 01:20")

        assert timing.after(moment) == at("2026-10-26 01:00")

    def test_of_every_hour_counts_both_hours_that_come_twice(self):
        timing = cron("0 * * * *", "Europe/Berlin")

        found = times(timing, at("2026-10-24 23:30"), 4)

        assert found == [at(f"2026-10-25 0{hour}:00") for hour in range(4)]

    def test_of_every_hour_leaves_out_the_hour_that_does_not_exist(self):
        timing = cron("0 * * * *", "Europe/Berlin")

        found = times(timing, at("2026-03-28 23:30"), 3)

        assert found == [at(f"2026-03-29 0{hour}:00") for hour in range(3)]

    def test_where_clocks_move_by_half_an_hour(self):
        # On 5 April 2026 Lord Howe goes from 2:00 back to 1:30.
        timing = cron("45 1 * * *", "Australia/Lord_Howe")

        found = times(timing, at("2026-04-04 00:00"), 2)

        assert found == [at("2026-04-04 14:45"), at("2026-04-05 15:15")]

    @pytest.mark.parametrize(
        "expression",
        [
            "",
            "* * * *",
            "* * * * * *",
            "61 * * * *",
            "a b c d e",
            "@daily",
            "0 0 30 2 *",
        ],
    )
    def test_refuses_what_is_no_cron(self, expression):
        with pytest.raises(TimingInvalid):
            cron(expression).after(START)

    @given(
        st.text("0123456789*/,-#LW mon", max_size=30),
        st.integers(0, 366 * 86_400),
        st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns"]),
    )
    @example("L/2 * * * L", 0, "UTC")
    @example("0 0 L,5-L * *", 0, "UTC")
    @example("0 0 */LW * 1#2,L", 0, "UTC")
    def test_of_any_text_is_later_or_refused(self, expression, seconds, name):
        moment = START + timedelta(seconds=seconds)
        try:
            due = cron(expression, name).after(moment)
        except TimingInvalid:
            return
        assert due is None or due > moment


class TestZone:
    @pytest.mark.parametrize(
        "name",
        [
            "Mars/Base",
            "../etc/passwd",
            "/etc/localtime",
            "",
            "Europe",
            "a" * 65,
            "x\0y",
        ],
    )
    def test_refuses_what_is_none(self, name):
        with pytest.raises(TimingInvalid):
            zone(name)


def plan(timing, due, now, catch_up="once", jitter=0.0):
    return turn(timing, due=due, now=now, catch_up=catch_up, jitter_seconds=jitter)


class TestTurn:
    HOURLY = cron("0 * * * *")
    DUE = at("2026-01-01 12:00")

    @pytest.mark.parametrize("catch_up", ["skip", "once", "all"])
    def test_fires_what_is_due(self, catch_up):
        found = plan(self.HOURLY, self.DUE, self.DUE, catch_up)

        assert found == Turn(self.DUE, at("2026-01-01 13:00"))

    def test_once_makes_up_for_the_last(self):
        found = plan(self.HOURLY, self.DUE, at("2026-01-03 08:10"), "once")

        assert found == Turn(at("2026-01-03 08:00"), at("2026-01-03 09:00"))

    def test_skip_leaves_out_what_is_late(self):
        found = plan(self.HOURLY, self.DUE, at("2026-01-03 08:10"), "skip")

        assert found == Turn(None, at("2026-01-03 09:00"))

    def test_skip_does_not_take_jitter_for_being_late(self):
        late = self.DUE + timedelta(seconds=100)

        assert plan(self.HOURLY, self.DUE, late, "skip", 60).fire == self.DUE
        assert plan(self.HOURLY, self.DUE, late, "skip", 30).fire is None

    def test_all_makes_up_for_each_one_by_one(self):
        now, due, fired = at("2026-01-01 16:30"), self.DUE, []
        while due <= now:
            found = plan(self.HOURLY, due, now, "all")
            fired.append(found.fire)
            due = found.next_due

        assert fired == [at(f"2026-01-01 {hour}:00") for hour in range(12, 17)]

    @pytest.mark.parametrize("timing", [cron("* * * * *"), every(60)])
    def test_all_is_bounded(self, timing):
        now, due, fired = at("2026-06-01 00:00"), self.DUE, []
        while due <= now:
            found = plan(timing, due, now, "all")
            fired.append(found.fire)
            due = found.next_due

        assert len(fired) == CATCH_UP_MAX
        assert fired[-1] == now
        assert fired[0] == now - timedelta(minutes=CATCH_UP_MAX - 1)

    def test_fires_nothing_for_a_time_that_is_none_any_more(self):
        due = at("2026-01-01 12:30")

        assert plan(self.HOURLY, due, due) == Turn(None, at("2026-01-01 13:00"))
