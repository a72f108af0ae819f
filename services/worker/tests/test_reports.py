"""The report of refused rows."""

import csv
import io

import pytest

from flagon_worker.domain import reports


class TestDefuse:
    @pytest.mark.parametrize(
        "cell",
        ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "|x"],
    )
    def test_makes_formulas_text(self, cell):
        assert reports.defuse(cell) == "'" + cell

    @pytest.mark.parametrize("cell", ["-720.0", "+49", "-1,5", "a=b", "", "e-mail"])
    def test_leaves_the_rest_alone(self, cell):
        assert reports.defuse(cell) == cell


class TestWrite:
    def test_cuts_off_what_a_crash_left(self, tmp_path):
        path = tmp_path / reports.NAME
        first = reports.write(path, b"header\n", at=0)
        reports.write(path, b"row 1\nrow 2\nrow 3\n", at=first)

        again = reports.write(path, b"row 1\n", at=first)

        assert path.read_bytes() == b"header\nrow 1\n"
        assert again == len(b"header\nrow 1\n")

    def test_can_be_read_back(self):
        row = ["3", "a", "no", 'He said "x"', "two\nlines", "\ud800"]

        text = (reports.header(["c", "d", "e"]) + reports.encode([row])).decode()

        assert text.startswith("\ufeffrow,sku,reason,c,d,e\r\n")
        assert list(csv.reader(io.StringIO(text, newline="")))[1] == [*row[:5], "?"]
