import os
import signal

import pytest

from flagon_chassis import shared


class TestCell:
    @pytest.fixture
    def cell(self):
        return shared.Cell(100)

    def test_has_nothing_at_first(self, cell):
        assert cell.get() is None
        assert cell.when() == 0

    def test_keeps_the_newest(self, cell):
        cell.put(b"one", 2.0)
        cell.put(b"older", 1.0)
        cell.put(b"same", 2.0)
        assert cell.get() == (b"one", 2.0)

        cell.put(b"", 3.0)
        assert cell.get() == (b"", 3.0)

    def test_leaves_what_is_too_long(self, cell):
        cell.put(b"x" * 100, 1.0)
        cell.put(b"y" * 101, 2.0)

        assert cell.get() == (b"x" * 100, 1.0)

    def test_half_a_value_counts_as_nothing(self, cell):
        cell.put(b"abc", 1.0)
        cell._memory[-98] ^= 1

        assert cell.get() is None

    def test_outlasts_the_process_that_wrote_it(self, cell):
        child = os.fork()
        if not child:
            cell.put(b"mine", 1.0)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)

        assert cell.get() == (b"mine", 1.0)

    def test_is_made_anew_for_each_server(self, monkeypatch):
        monkeypatch.setattr(shared, "jwks", None)

        shared.share()

        assert shared.jwks.get() is None
