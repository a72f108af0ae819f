import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flagon_realtime.ring import Entry, FellBehind, Interest, Ring

TOPICS = [b"a", b"b", b"c"]


def ids(found):
    return [entry.id for _position, entry in found]


class TestExtend:
    def test_keeps_the_newest_within_the_capacity(self, helpers):
        ring = Ring(3, 10_000)

        ring.extend([helpers.entry(n, "a") for n in range(1, 6)], (5, 0))

        assert (ring.first, ring.end) == (2, 5)
        assert ids(ring.read(2, Interest(frozenset([b"a"])))[0]) == [
            (3, 0),
            (4, 0),
            (5, 0),
        ]

    def test_keeps_within_the_bytes(self, helpers):
        ring = Ring(100, 1000)

        for number in range(1, 11):
            ring.extend([helpers.entry(number, "a", size=300)], (number, 0))

        assert ring.bytes <= 1000
        assert ring.end - ring.first == 2

    def test_keeps_the_newest_entry_however_large(self, helpers):
        ring = Ring(100, 10)

        ring.extend([helpers.entry(1, "a", size=300)], (1, 0))

        assert ring.end - ring.first == 1


class TestSeek:
    def test_knows_nothing_before_its_start(self, helpers):
        ring = Ring(10, 10_000)
        ring.start_at((5, 0))
        ring.extend([helpers.entry(6, "a")], (6, 0))

        assert ring.seek((4, 9)) is None
        assert ring.seek((5, 0)) == 0
        assert ring.seek((6, 0)) == 1

    def test_puts_an_id_from_the_future_before_the_next_entry(self, helpers):
        ring = Ring(10, 10_000)
        ring.extend([helpers.entry(6, "a")], (6, 0))

        assert ring.seek((99, 0)) == ring.end


class TestRead:
    def test_stops_at_the_bytes_but_returns_one_entry(self, helpers):
        ring = Ring(10, 100_000)
        ring.extend([helpers.entry(n, "a", size=500) for n in range(1, 5)], (4, 0))

        found, cursor = ring.read(0, Interest(frozenset([b"a"])), max_bytes=10)

        assert (len(found), cursor) == (1, 1)

    def test_stops_at_the_number_of_events(self, helpers):
        ring = Ring(10, 100_000)
        ring.extend([helpers.entry(n, "a") for n in range(1, 9)], (8, 0))

        found, cursor = ring.read(0, Interest(frozenset([b"a"])), max_events=3)

        assert (len(found), cursor) == (3, 3)

    def test_refuses_a_position_that_is_gone(self, helpers):
        ring = Ring(2, 100_000)
        ring.extend([helpers.entry(n, "a") for n in range(1, 9)], (8, 0))

        with pytest.raises(FellBehind):
            ring.read(0, Interest(frozenset([b"a"])))


class ReplayAgainstModel(RuleBasedStateMachine):
    """A client that resumes from any id gets what a plain list says, or is sent away."""

    def __init__(self):
        super().__init__()
        self.ring = Ring(8, 2000)
        self.everything = []
        self.clock = 10
        self.ring.start_at((self.clock, 0))

    @rule(
        batch=st.lists(
            st.tuples(st.sets(st.sampled_from("abc"), min_size=1), st.integers(0, 400)),
            max_size=12,
        )
    )
    def publish(self, batch):
        new = []
        for topics, size in batch:
            self.clock += 1
            new.append(self.make(self.clock, topics, size))
        self.everything += new
        self.ring.extend(new, (self.clock, 0))

    @staticmethod
    def make(number, topics, size):
        names = tuple(sorted(topic.encode() for topic in topics))
        return Entry((number, 0), names, b"x" * (size + 1))

    @precondition(lambda self: self.clock > 10)
    @rule(
        data=st.data(),
        topics=st.frozensets(st.sampled_from(TOPICS), min_size=1),
        step=st.integers(1, 5),
        max_bytes=st.integers(1, 600),
    )
    def resume(self, data, topics, step, max_bytes):
        after = (data.draw(st.integers(8, self.clock + 2)), 0)
        expected = [
            entry.id
            for entry in self.everything
            if entry.id > after and topics & set(entry.topics)
        ]
        missing = [e.id for e in self.everything if e.id > after][
            : -(self.ring.end - self.ring.first) or None
        ]

        cursor = self.ring.seek(after)

        if cursor is None:
            assert missing or after < (10, 0)
            return
        assert not missing
        got = []
        while cursor < self.ring.end:
            found, cursor = self.ring.read(
                cursor,
                Interest(topics),
                after=after,
                max_bytes=max_bytes,
                max_events=step,
            )
            got += ids(found)
        assert got == expected

    @invariant()
    def stays_within_its_bounds(self):
        kept = self.ring.end - self.ring.first
        assert kept <= 8
        assert self.ring.bytes <= 2000 or kept == 1
        newest = self.everything[len(self.everything) - kept :]
        assert self.ring.bytes == sum(len(entry.payload) for entry in newest)


TestReplayAgainstModel = ReplayAgainstModel.TestCase
TestReplayAgainstModel.settings = settings(
    max_examples=40, stateful_step_count=20, deadline=None
)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30, unique=True))
def test_seek_agrees_with_a_list(numbers):
    ring = Ring(100, 100_000)
    ordered = sorted(numbers)
    ring.extend([Entry((n, 0), (b"a",), b"x") for n in ordered], (max(numbers), 0))

    for number in range(52):
        before = sum(1 for n in ordered if n <= number)
        assert ring.seek((number, 0)) == before
