"""Whoever follows has what the log has, in its order, or is told that something is missing.

Followers are cut off and stop reading, realtime, the gateway, the relay and Redis are
killed and paused, and events go on. `make followers` does it with 200 and 10,000.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import psutil
import pytest
from harness import events
from harness.stack import BUS
from harness.waiting import until

from flagon_chassis import sse

FOLLOWERS = int(os.environ.get("FLAGON_FOLLOWERS", "20"))
EVENTS = int(os.environ.get("FLAGON_FOLLOWED_EVENTS", "1000"))
BATCHES = max(10, EVENTS // 500)
CHANGED = "market.flagon.product.changed.v1"
GAP = "gap"
TOLD_SECONDS = 180
"""No batch is longer on its way: that many seconds its token has to be good for."""
MISHAPS = (
    ("kill", "realtime"),
    ("pause", "realtime"),
    ("kill", "gateway"),
    ("pause", BUS),
    ("kill", BUS),
    ("kill", "catalog-relay"),
    ("pause", "gateway"),
)


class Feed:
    """Products that are made and changed in batches; each item is one event."""

    def __init__(self, person, word):
        self.person = person
        self.word = word
        self.batch = 0
        self.told = threading.Condition()
        self.disturbed = threading.Event()
        self.troubles = Counter()

    def tell(self, count):
        """Make or change so many products, however often it has to be asked for."""
        items = [
            {
                "sku": f"{self.word}-{number}",
                "name": f"Thing {number} of {self.word}",
                "price_minor": self.batch + 1,
            }
            for number in range(count)
        ]
        key = {"Idempotency-Key": f"{self.word}-{self.batch}"}

        def told():
            try:
                with self.person.client() as client:
                    answer = client.post(
                        "/api/v1/products/bulk",
                        json={"items": items},
                        headers=key,
                        timeout=10,
                    )
            except httpx2.TransportError as error:
                self.troubles[type(error).__name__] += 1
                self.disturbed.set()
                return None
            # 409: the one before it, of which nobody has heard, is still at work.
            if answer.status_code >= 500 or answer.status_code in {409, 429}:
                self.troubles[answer.status_code] += 1
                self.disturbed.set()
                return None
            return answer

        answer = until(told, what="a batch of changes")
        assert answer.status_code == 200, answer.text
        assert answer.json()["summary"]["refused"] == 0, answer.text
        self.go_on()

    def go_on(self):
        """Let who waits for a batch wait no longer."""
        with self.told:
            self.batch += 1
            self.told.notify_all()

    def wait_for(self, batch, over):
        """Wait until so many batches were told, or the event `over` is set."""
        with self.told:
            assert self.told.wait_for(lambda: self.batch >= batch or over.is_set(), 600)

    def wake(self):
        """Let those who wait see whether it is over."""
        with self.told:
            self.told.notify_all()


class Follower:
    """Somebody who writes down what comes, is cut off often and at times stops reading."""

    def __init__(self, stack, feed, since, number):
        self.url = stack.url
        self.feed = feed
        self.last = since
        self.dice = random.Random(number)
        self.lazy = number % 5 == 0
        self.record = []
        self.connections = 0
        self.over = threading.Event()
        self.stream = None

    def run(self):
        """Follow until there is no more to come."""
        while not self.over.is_set():
            self.follow(self.dice.randint(20, 200))

    def follow(self, count):
        """Take so many events, and break the connection without a word."""
        with sse.Stream(
            self.url,
            ["products/*"],
            types=[CHANGED],
            last_id=self.last,
            told=self.count,
            first_pause_seconds=0.2,
            longest_pause_seconds=2.0,
        ) as stream:
            self.stream = stream
            for found in stream:
                if self.over.is_set():
                    return
                if isinstance(found, sse.Gap):
                    self.record.append(GAP)
                elif isinstance(found, sse.Event):
                    self.record.append(found.id)
                    count -= 1
                self.last = stream.last_id
                if self.lazy and count == 10:
                    # The socket stays open, and nothing is read.
                    self.feed.wait_for(min(self.feed.batch + 2, BATCHES), self.over)
                if count <= 0:
                    return

    def end(self):
        """Follow no more; whoever waits for an event is woken by the next heartbeat."""
        self.over.set()
        self.feed.wake()
        if self.stream:
            self.stream.close()

    def count(self, word):
        """Note that a connection was opened."""
        self.connections += word == "open"


def place(position):
    """Return what positions of the stream are ordered by."""
    return tuple(map(int, position.split("-")))


def check(record, log):
    """See that a record is the log, but for what a gap stands for; return the gaps.

    :raises AssertionError: something is missing without a gap, or came twice, or in
        another order.
    """
    where = {position: number for number, position in enumerate(log)}
    wanted, gaps, excused = 0, 0, False
    for one in record:
        if one == GAP:
            gaps, excused = gaps + 1, True
            continue
        number = where[one]
        assert number >= wanted, f"{one} came again or too late"
        assert number == wanted or excused, (
            f"{number - wanted} before {one} are missing"
        )
        wanted, excused = number + 1, False
    assert wanted == len(log) or excused, f"the last {len(log) - wanted} are missing"
    return gaps


class TestCheck:
    @pytest.mark.parametrize("record", ["abcd", "a-cd", "ab-", "-d", "ab-cd"])
    def test_takes_what_is_whole_or_excused(self, record):
        check([GAP if one == "-" else one for one in record], "abcd")

    @pytest.mark.parametrize("record", ["acd", "abbcd", "abdc", "abc", "a-bd", ""])
    def test_finds_what_is_missing_doubled_or_in_disorder(self, record):
        with pytest.raises(AssertionError):
            check([GAP if one == "-" else one for one in record], "abcd")


@contextmanager
def following(followers):
    """Let all follow at once; give what became of each, and see that all went right."""
    with ThreadPoolExecutor(len(followers)) as pool:
        runs = [pool.submit(one.run) for one in followers]
        try:
            yield runs
        finally:
            for one in followers:
                one.end()
    for run in runs:
        run.result()


@contextmanager
def disturbed(stack, feed, what, name):
    """Kill a process, or let it stand still while a batch is told."""
    victim = stack.pid(name)
    feed.disturbed.clear()
    if what == "kill":
        stack.kill(name, pid=victim)
        yield
        stack.back(name, victim)
        return
    whole = [psutil.Process(victim), *psutil.Process(victim).children(recursive=True)]
    for process in whole:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in whole:
            process.send_signal(signal.SIGCONT)


class TestFollowers:
    def test_have_all_that_the_log_has(self, stack, merchandiser, word):
        feed = Feed(merchandiser, word)
        feed.tell(1)
        begin = until(lambda: events.log(stack, CHANGED), what="the first event")[-1]
        followers = [
            Follower(stack, feed, begin, number) for number in range(FOLLOWERS)
        ]
        with following(followers) as runs:
            until(lambda: all(one.connections for one in followers), what="connections")
            began = time.monotonic()
            self.go_wrong(stack, feed, merchandiser)
            log = self.whole_log(stack, begin, (BATCHES - 1) * (EVENTS // BATCHES))

            def all_there():
                assert not any(run.done() for run in runs), "somebody gave up"
                return all(place(one.last) >= place(log[-1]) for one in followers)

            until(all_there, 300, what="the last event at every follower")
            seconds = time.monotonic() - began
        gaps = [check(self.up_to(one.record, log[-1]), log) for one in followers]
        connections = sum(one.connections for one in followers)
        print(
            f"{len(log)} events to {FOLLOWERS} followers in {seconds:.0f} s over "
            f"{connections} connections; {sum(gaps)} gaps; "
            f"writes were refused or cut off: {dict(feed.troubles)}"
        )
        assert connections > FOLLOWERS

    def go_wrong(self, stack, feed, person):
        """Tell one batch after the other, and let something happen during each."""
        with ThreadPoolExecutor(1) as pool:
            for number in range(BATCHES - 1):
                what, name = MISHAPS[number % len(MISHAPS)]
                # Nobody could renew it while Redis or the gateway stands still.
                assert person.token_for(TOLD_SECONDS)
                with disturbed(stack, feed, what, name):
                    told = pool.submit(feed.tell, EVENTS // BATCHES)
                    # What stands still may be what the batch has to go through.
                    until(lambda t=told: t.done() or feed.disturbed.is_set())
                told.result(600)
        # Nobody stands still any more.
        feed.go_on()

    def whole_log(self, stack, begin, count):
        """Return the positions after the beginning, once all are there."""

        def whole():
            log = events.log(stack, CHANGED)
            since = log[log.index(begin) + 1 :]
            return since if len(since) >= count else None

        return until(whole, 300, what=f"{count} events on the stream")

    def up_to(self, record, last):
        """Leave out what was told after the end."""

        def beyond(position):
            return place(position) > place(last)

        later = (n for n, one in enumerate(record) if one != GAP and beyond(one))
        return record[: next(later, len(record))]
