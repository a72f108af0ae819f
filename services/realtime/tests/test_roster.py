import pytest

from flagon_realtime.roster import ProcessFull, Roster, Subscriber, TooManyStreams


@pytest.fixture
def subscriber(helpers):
    return lambda **options: Subscriber(helpers.ticket("products", **options), 600.0)


class TestCheck:
    def test_refuses_more_than_the_capacity(self, helpers, subscriber):
        roster = Roster(1)
        roster.enter(subscriber())

        with pytest.raises(ProcessFull):
            roster.check(helpers.ticket("products", holder="other"))

        assert roster.full

    def test_refuses_more_than_a_holder_may_have(self, helpers, subscriber):
        roster = Roster(10)
        roster.enter(subscriber(holder="ada"))

        with pytest.raises(TooManyStreams):
            roster.check(helpers.ticket("products", holder="ada", limit=1))

        roster.check(helpers.ticket("products", holder="bob", limit=1))


class TestLeave:
    def test_makes_room(self, helpers, subscriber):
        roster = Roster(1)
        one = subscriber(holder="ada", limit=1)
        roster.enter(one)

        roster.leave(one)
        roster.leave(one)

        roster.check(helpers.ticket("products", holder="ada", limit=1))
        assert len(roster) == 0

    def test_forgets_holders_without_streams(self, subscriber):
        roster = Roster(10)
        for number in range(5):
            one = subscriber(holder=f"address {number}")
            roster.enter(one)
            roster.leave(one)

        assert not roster._held

    def test_keeps_counting_the_other_streams(self, helpers, subscriber):
        roster = Roster(10)
        one, two = subscriber(holder="ada"), subscriber(holder="ada")
        roster.enter(one)
        roster.enter(two)

        roster.leave(one)

        assert roster.everyone() == [two]
        with pytest.raises(TooManyStreams):
            roster.check(helpers.ticket("products", holder="ada", limit=1))


class TestRotateAt:
    def test_spreads_streams_that_came_together(self, subscriber):
        ages = [
            one.rotate_at - one.opened_at for one in (subscriber() for _ in "x" * 50)
        ]

        assert all(480 <= age <= 720 for age in ages)
        assert max(ages) - min(ages) > 50


class TestSubscriber:
    def test_leaves_the_way_of_its_bytes_to_others(self, subscriber):
        with pytest.raises(NotImplementedError):
            subscriber().tell("x")
        with pytest.raises(NotImplementedError):
            subscriber().end("age")
        assert subscriber().check_stall(0) is None
