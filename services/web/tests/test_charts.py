import math

import pytest

from flagon_web.domain.charts import BOTTOM, LEFT, RIGHT, TOP, Window, draw, in_words

HOUR = Window(start=7200, end=10_800, step=30, mark=900)
NAN = math.nan


def line(points, unit="count", **more):
    chart = draw({"one": points}, HOUR, unit=unit, **more)
    return chart, chart.lines[0]


class TestDraw:
    def test_puts_times_across_and_values_up(self):
        chart, one = line([(7200, 0), (7230, 30), (7260, 15)])

        assert one.runs == [f"{LEFT}.0,{BOTTOM}.0 48.6,{TOP}.0 51.1,76.0"]
        assert [words for _y, words in chart.rows] == ["0", "10", "20", "30"]
        assert chart.columns[0] == (LEFT, "02:00")
        assert chart.columns[-1] == (RIGHT, "03:00")

    def test_leaves_gaps_where_nothing_was_measured(self):
        _chart, one = line([(7200, 1), (7230, 1), (7260, NAN), (7290, 1), (9000, 1)])

        assert len(one.runs) == 3
        # A single point is a dot: a line from a place to itself.
        first, last = one.runs[-1].split()
        assert first == last

    def test_says_what_it_draws(self):
        _chart, one = line([(10_740, 0.25), (10_770, 0.5), (10_800, 0.3)], "seconds")

        said = one.now, one.least, one.mean, one.most
        assert [text.replace("\N{NO-BREAK SPACE}", " ") for text in said] == [
            "300 ms",
            "250 ms",
            "350 ms",
            "500 ms",
        ]
        assert f"{one.most_at:%H:%M:%S}" == "02:59:30"

    def test_knows_no_present_value_of_what_has_ended(self):
        _chart, one = line([(7200, 5), (7230, 5)])

        assert (one.now, one.most) == ("–", "5")

    @pytest.mark.parametrize("points", [[], [(7200, NAN), (7230, math.inf)]])
    def test_bears_a_series_without_values(self, points):
        chart, one = line(points, "seconds")

        assert one.runs == []
        assert {one.now, one.least, one.mean, one.most} == {"–"}
        assert one.most_at is None
        assert [words[0] for _y, words in chart.rows] == ["0", "0", "1"]

    def test_draws_the_limit_only_where_it_can_be_seen(self):
        low, _line = line([(7200, 0.01)], "seconds", limit=0.1)
        high, _line = line([(7200, 0.4)], "seconds", limit=0.1)

        assert low.limit is None
        assert high.limit[1].replace("\N{NO-BREAK SPACE}", " ") == "100 ms"
        assert TOP < high.limit[0] < BOTTOM

    def test_gives_who_is_known_the_same_line_always(self):
        order = ("auth", "catalog", "web")
        series = {"web": [(7200, 1)], "auth": [(7200, 1)], "new": [(7200, 1)]}

        found = draw(series, HOUR, unit="rate", order=order).lines

        assert [(one.name, one.style) for one in found] == [
            ("auth", 1),
            ("web", 3),
            ("new", 4),
        ]

    def test_stays_inside_its_frame(self):
        _chart, one = line([(7200, -3), (10_800, 5)])

        for run in one.runs:
            for place in run.split():
                x, y = map(float, place.split(","))
                assert LEFT <= x <= RIGHT
                assert TOP <= y <= BOTTOM

    @pytest.mark.parametrize(
        ("unit", "most", "words"),
        [
            ("count", 0, ["0", "1"]),
            ("count", 2, ["0", "1", "2"]),
            ("count", 7, ["0", "5", "10"]),
            ("rate", 0.25, ["0/s", "0.1/s", "0.2/s", "0.3/s"]),
            ("rate", 1234, ["0/s", "500/s", "1,000/s", "1,500/s"]),
            ("ratio", 0.003, ["0 %", "0.1 %", "0.2 %", "0.3 %"]),
            ("seconds", 0.0042, ["0 ms", "2 ms", "4 ms", "6 ms"]),
            ("seconds", 90, ["0 s", "50 s", "100 s"]),
            ("seconds", 1800, ["0 min", "10 min", "20 min", "30 min"]),
            ("seconds", 9000, ["0 h", "1 h", "2 h", "3 h"]),
        ],
    )
    def test_marks_round_values(self, unit, most, words):
        chart, _line = line([(7200, most)], unit)

        said = [text.replace("\N{NO-BREAK SPACE}", " ") for _y, text in chart.rows]
        assert said == words
        assert chart.rows[0][0] == BOTTOM
        assert chart.rows[-1][0] == TOP


class TestWords:
    @pytest.mark.parametrize(
        ("value", "unit", "words"),
        [
            (0, "rate", "0/s"),
            (0.126, "rate", "0.13/s"),
            (12.34, "rate", "12.3/s"),
            (1234.5, "rate", "1,234/s"),
            (0.0012, "ratio", "0.12 %"),
            (-0.5, "ratio", "-50.0 %"),
            (0.0042, "seconds", "4.2 ms"),
            (1.26, "seconds", "1.3 s"),
            (119, "seconds", "119 s"),
            (600, "seconds", "10.0 min"),
            (86_400, "seconds", "24.0 h"),
            (7, "count", "7"),
            (NAN, "seconds", "–"),
            (math.inf, "count", "–"),
        ],
    )
    def test_are_those_of_people(self, value, unit, words):
        assert in_words(value, unit).replace("\N{NO-BREAK SPACE}", " ") == words
