"""Patterns, types and snapshots: which events a stream is about, and where it begins."""

import json
import socket
import threading

import pytest

from flagon_realtime import wire
from flagon_realtime.hub import Hub
from flagon_realtime.ring import Interest, Ring

OTHER = "market.flagon.product.deleted.v1"
JOB = "market.flagon.job.changed.v1"


def told(events):
    return [json.loads(event.data)["n"] for event in events if event.kind != "snapshot"]


class TestPatterns:
    def test_follow_all_that_is_below_a_topic(self, start_server, publish):
        stream = start_server().open("products/*")

        publish("products", data={"n": 1})
        publish("categories/1", data={"n": 2})
        publish("products", "products/1", data={"n": 3})
        publish("products/2", "products/3", data={"n": 4})

        assert told(stream.take(2)) == [3, 4]
        assert stream.next(0.2) is None

    def test_send_an_event_once_that_is_followed_twice(self, start_server, publish):
        stream = start_server().open("products/*", "products/1", "products")

        publish("products", "products/1", data={"n": 1})
        publish("products", data={"n": 2})

        assert told(stream.take(2)) == [1, 2]

    def test_resume_as_topics_do(self, start_fresh_server, publish):
        server = start_fresh_server(ring_events=10)
        ids = publish.many(40, "products", "products/1")

        stream = server.open("products/*", after=ids[0])

        assert told(stream.take(39)) == list(range(1, 40))

    def test_show_an_account_its_own_jobs_alone(self, start_server, publish, bearer):
        stream = start_server().open("jobs/*", headers=bearer(sub="ada"))

        publish("jobs", "jobs/7", "users/bob/jobs", "users/bob/jobs/7", data={"n": 1})
        publish("jobs", "jobs/8", "users/ada/jobs", "users/ada/jobs/8", data={"n": 2})

        assert told(stream.take(1)) == [2]

    def test_show_an_operator_everybodys_jobs(self, start_server, publish, bearer):
        stream = start_server().open("jobs/*", headers=bearer("jobs:manage", sub="op"))

        publish("jobs", "jobs/7", "users/bob/jobs/7", data={"n": 1})

        assert told(stream.take(1)) == [1]

    @pytest.mark.parametrize("topic", ["jobs/*", "custom/*", "custom/robot/*"])
    def test_need_an_account_where_their_parts_do(self, start_server, topic):
        assert start_server().open(topic).status == 401

    @pytest.mark.parametrize(
        "topic",
        ["*", "users/*", "users/ada/*", "me/*", "products/*/x", "products/1*", "*/1"],
    )
    def test_refuse_to_reach_further(self, start_server, bearer, topic):
        stream = start_server().open(topic, headers=bearer("jobs:manage"))

        assert stream.status == 422
        assert stream.problem()["type"].endswith("#topic-unknown")


class TestTypes:
    def test_send_the_chosen_ones_alone(self, start_server, publish):
        server = start_server()
        one = server.open(f"products&type={OTHER}")
        two = server.open(f"products&type={OTHER}&type={JOB}")
        begun = server.open("products&type=market.flagon.job.*")
        every = server.open("products&type=*")

        publish("products", data={"n": 1})
        publish("products", type=OTHER, data={"n": 2})
        publish("products", type=JOB, data={"n": 3})

        assert told(every.take(3)) == [1, 2, 3]
        assert told(two.take(2)) == [2, 3]
        assert told(one.take(1)) == [2]
        assert told(begun.take(1)) == [3]

    def test_hold_for_what_is_replayed_from_redis(self, start_fresh_server, publish):
        server = start_fresh_server(ring_events=10)
        first = publish("products", data={"n": 0})
        publish("products", type=OTHER, data={"n": 1})
        publish.many(40, "products")
        publish("products", type=OTHER, data={"n": 2})

        stream = server.open(f"products&type={OTHER}", after=first)

        assert told(stream.take(2)) == [1, 2]

    def test_move_the_resume_point_past_what_was_left_out(self, start_server, publish):
        stream = start_server(heartbeat_seconds=0.2).open(f"products&type={OTHER}")

        last = publish("products")

        stream.read_until(lambda: stream.last_id == last)

    @pytest.mark.parametrize("name", ["", "a b", "a*b", "**", "*a", "a" * 129])
    def test_refuse_what_is_none(self, start_server, name):
        stream = start_server().open(f"products&type={name.replace(' ', '%20')}")

        assert stream.status == 422

    def test_refuse_too_many(self, start_server):
        stream = start_server().open("products" + "&type=a" * 21)

        assert stream.problem()["type"].endswith("#type-malformed")


class TestLatest:
    def test_spares_who_is_behind_what_is_old(self, start_server, publish, helpers):
        server = start_server()
        first = publish("products", subject="a", data={"n": -1})
        for n in range(30):
            publish("products", subject="abc"[n % 3], data={"n": n})
        last = publish("products", data={"n": 30})
        # Else it is behind by less than that.
        helpers.wait_for_reader(server, last)

        stream = server.open("products&latest=1", after=first)

        *newest, skipped = stream.take(5)
        assert told(newest) == [27, 28, 29, 30]
        assert (skipped.kind, skipped.data) == ("skipped", '{"count": 27}')
        publish("products", subject="a", data={"n": 31})
        assert told(stream.take(1)) == [31]

    def test_resumes_in_the_middle_without_a_loss(self, start_server, publish, helpers):
        server = start_server()
        first = publish("products", subject="a", data={"n": -1})
        for n in range(30):
            last = publish("products", subject="abc"[n % 3], data={"n": n})
        helpers.wait_for_reader(server, last)
        stream = server.open("products&latest=1", after=first)
        [seen] = stream.take(1)
        stream.close()
        helpers.wait_for_reader(
            server, publish("products", subject="b", data={"n": 30})
        )

        again = server.open("products&latest=1", after=seen.id)

        # 28 was about `b` as well.
        *newest, skipped = again.take(3)
        assert told([seen, *newest]) == [27, 29, 30]
        assert skipped.data == '{"count": 1}'

    def test_leaves_nothing_out_unasked(self, start_server, publish):
        server = start_server()
        first = publish("products", subject="a", data={"n": -1})
        publish.many(10, "products", subject="a")

        stream = server.open("products&latest=0", after=first)

        assert told(stream.take(10)) == list(range(10))
        assert stream.next(0.2) is None

    def test_refuses_what_is_no_answer(self, start_server):
        stream = start_server().open("products&latest=yes")

        assert stream.status == 422
        assert stream.problem()["type"].endswith("#latest-malformed")


class TestSnapshot:
    def test_begins_with_the_newest_about_each(self, start_fresh_server, publish):
        server = start_fresh_server()
        for n, subject in enumerate(["a", "b", "a", "c", "a"]):
            publish("products", f"products/{subject}", subject=subject, data={"n": n})
        last = publish("products", type=OTHER, subject="a", data={"n": 5})
        publish("categories", subject="a", data={"n": 6})

        stream = server.open("products&snapshot=1")

        *newest, marker = stream.take(5)
        assert told(newest) == [1, 3, 4, 5]
        assert marker.kind == "snapshot"
        assert marker.id >= last
        publish("products", subject="b", data={"n": 7})
        assert told(stream.take(1)) == [7]

    def test_of_nothing_is_the_end_of_it_alone(self, start_fresh_server):
        stream = start_fresh_server().open("products/nothing&snapshot=1")

        assert stream.next().kind == "snapshot"

    def test_leaves_nothing_out_that_nobody_can_compare(
        self, start_fresh_server, publish
    ):
        server = start_fresh_server()
        publish.many(3, "products")

        stream = server.open("products&snapshot=1")

        assert told(stream.take(3)) == [0, 1, 2]

    def test_is_what_was_missed_for_who_comes_back(self, start_fresh_server, publish):
        # An EventSource asks for its first address again, with the id it has got to.
        server = start_fresh_server()
        ids = publish.many(5, "products", subject="a")

        stream = server.open("products&snapshot=1", after=ids[1])

        *missed, marker = stream.take(4)
        assert told(missed) == [2, 3, 4]
        assert marker.kind == "snapshot"

    def test_says_from_where_on_it_is_whole(self, start_fresh_server, publish):
        ids = publish.many(30, "products", subject="a")
        server = start_fresh_server(ring_events=10)

        stream = server.open("products&snapshot=1")

        [newest, marker] = stream.take(2)
        assert told([newest]) == [29]
        assert json.loads(marker.data) == {"from": ids[19]}

    def test_has_no_hole_while_others_write(
        self, start_fresh_server, publish, redis_url
    ):
        server = start_fresh_server(ring_events=100_000)
        enough, stop = threading.Event(), threading.Event()

        def write():
            mine, n = type(publish)(redis_url), 0
            while not stop.is_set():
                for _ in range(20):
                    mine("products", subject=str(n * 7 % 40), data={"n": n})
                    n += 1
                if n >= 200:
                    enough.set()
            mine.redis.close()

        writer = threading.Thread(target=write)
        writer.start()
        assert enough.wait(30)
        streams = [server.open("products&snapshot=1") for _ in range(25)]
        stop.set()
        writer.join()
        last = publish("products", subject="end", data={"n": -1})

        log = [
            (identity.decode(), fields[b"subject"], json.loads(fields[b"event"])["n"])
            for identity, fields in publish.redis.xrange("events")
        ]
        for stream in streams:
            found = []
            while not found or found[-1].id != last or found[-1].kind == "snapshot":
                found += stream.take(1)
            places = [e.kind for e in found].index("snapshot")
            at = _order(found[places].id)
            newest = {s: n for i, s, n in log if _order(i) <= at}
            assert sorted(told(found[:places])) == sorted(newest.values())
            after = [n for i, _s, n in log if _order(i) > at]
            assert told(found[places + 1 :]) == after

    def test_refuses_another_word(self, start_server):
        stream = start_server().open("products&snapshot=yes")

        assert stream.status == 422
        assert stream.problem()["type"].endswith("#snapshot-malformed")


def _order(identity):
    return tuple(map(int, identity.split("-")))


class TestSlowSnapshot:
    def test_ends_an_event_that_became_old_halfway(self, make_source, helpers):
        source = make_source()
        hub = Hub(source)
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        source.ring.start_at((0, 0))
        size = 200_000
        old = [
            helpers.entry(1, "a", size=size, about=5),
            helpers.entry(2, "a", about=6),
        ]
        source.ring.extend(old, (2, 0))

        hub.add(theirs, helpers.ticket("a", snapshot=True), b"head\n\n")
        newer = [helpers.entry(3, "a", about=5), helpers.entry(4, "a", about=6)]
        start = source.ring.extend(newer, (4, 0))
        hub.publish(start, newer)
        found = b""
        while b"event: snapshot" not in found:
            found += ours.recv(1 << 16)
            hub.poll()

        ours.close()
        assert old[0].payload in found
        assert found.count(b'data: {"n": ') == 3
        ends = [found.index(entry.payload) for entry in (old[0], *newer)]
        assert ends == sorted(ends)
        hub._epoll.close()

    def test_writes_the_rest_of_its_end_before_what_comes(
        self, make_source, helpers, monkeypatch
    ):
        # A marker is short: a socket that takes half of one is hard to find.
        marker = b"event: snapshot\n:" + b"x" * 2_000_000 + b"\ndata: {}\n\n"
        monkeypatch.setattr(wire, "snapshot", lambda _floor, _last: marker)
        source = make_source()
        hub = Hub(source)
        ours, theirs = socket.socketpair()
        source.ring.extend([helpers.entry(1, "a", about=5)], (1, 0))

        hub.add(theirs, helpers.ticket("a", snapshot=True), b"head\n\n")
        newer = [helpers.entry(2, "a", about=5)]
        hub.publish(source.ring.extend(newer, (2, 0)), newer)
        found = b""
        while not found.endswith(newer[0].payload):
            found += ours.recv(1 << 16)
            hub.poll()

        ours.close()
        assert found == b"head\n\n" + (
            helpers.entry(1, "a").payload + marker + newer[0].payload
        )
        hub._epoll.close()


class TestRing:
    def test_forgets_what_is_newest_with_its_entry(self, helpers):
        ring = Ring(2, 1 << 20)
        ring.extend([helpers.entry(n, "a", about=n) for n in range(1, 6)], (5, 0))

        found, _ = ring.read(3, Interest(frozenset([b"a"])), newest_from=3)

        assert [entry.id for _position, entry in found] == [(4, 0), (5, 0)]
        assert len(ring._newest) == 2

    def test_keeps_the_newest_though_an_older_one_leaves(self, helpers):
        ring = Ring(2, 1 << 20)
        ring.extend([helpers.entry(n, "a", about=7) for n in range(1, 4)], (3, 0))

        found, _ = ring.read(1, Interest(frozenset([b"a"])), newest_from=1)

        assert [entry.id for _position, entry in found] == [(3, 0)]
