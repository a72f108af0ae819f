"""What a client sees: one suite over sockets handed over and over generators."""

import json
import time

import pytest

from flagon_realtime.settings import Settings

SMALL = {"ring_events": 10, "replay_events": 1700, "heartbeat_seconds": 0.2}
"""Settings under which the ring is soon too short and heartbeats come often."""
NARROW = {
    "connections_max": 3,
    "connections_per_address": 2,
    "connections_per_account": 1,
}


class TestFollowEvents:
    def test_sends_headers_and_retry_before_the_first_event(self, start_server):
        stream = start_server().open("products")

        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-store"
        assert stream.headers["x-accel-buffering"] == "no"
        stream.read_until(lambda: stream.retries)
        assert 1500 <= stream.retries[0] <= 2500
        assert stream.next(0.2) is None

    def test_sends_an_event_as_it_was_published(self, start_server, publish, helpers):
        stream = start_server().open("products")

        published = publish("products", "products/1", data={"id": "1"})

        assert stream.next() == (published, helpers.TYPE, '{"id": "1"}')

    def test_sends_an_event_of_two_followed_topics_once(self, start_server, publish):
        stream = start_server().open("products", "products/1", "categories")

        publish("products", "products/1", data={"n": 1})
        publish("categories", data={"n": 2})

        assert [json.loads(event.data)["n"] for event in stream.take(2)] == [1, 2]
        assert stream.next(0.2) is None

    def test_keeps_other_topics_to_itself(self, start_server, publish):
        stream = start_server().open("products/1")

        publish("products", "products/2", data={"n": 1})
        publish("users/ada", data={"n": 2})
        publish("products", "products/1", data={"n": 3})

        assert json.loads(stream.next().data)["n"] == 3

    def test_sends_text_of_several_lines_whole(self, start_server, publish):
        stream = start_server().open("products")

        publish("products", event='{\n "n": 1,\r\n "m": 2\n}')

        assert json.loads(stream.next().data) == {"n": 1, "m": 2}

    def test_skips_entries_that_lack_a_field(self, start_server, publish):
        stream = start_server().open("products")

        publish.redis.xadd("events", {"id": "x", "topics": "products"})
        publish("products", type="two words")
        published = publish("products")

        assert stream.next().id == published

    def test_sends_a_heartbeat_with_the_resume_point(self, start_server, publish):
        stream = start_server(**SMALL).open("products")
        elsewhere = publish("categories")

        stream.read_until(lambda: stream.last_id == elsewhere)

        assert "" in stream.comments

    def test_answers_head_without_a_stream(self, start_server):
        stream = start_server().open("products", method="HEAD")

        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream"

    def test_keeps_the_events_of_many_clients_apart(self, start_server, publish):
        server = start_server()
        streams = {name: server.open(name) for name in ("products", "categories")}
        both = server.open("products", "categories")

        for number in range(20):
            publish("products" if number % 2 else "categories", data={"n": number})

        odd = [json.loads(e.data)["n"] for e in streams["products"].take(10)]
        even = [json.loads(e.data)["n"] for e in streams["categories"].take(10)]
        assert odd == list(range(1, 20, 2))
        assert even == list(range(0, 20, 2))
        assert len(both.take(20)) == 20


class TestResume:
    def test_goes_on_after_the_header(self, start_server, publish, helpers):
        server = start_server()
        ids = publish.many(5, "products")

        stream = server.open("products", after=ids[1])

        assert helpers.numbers(stream.take(3)) == [2, 3, 4]

    def test_goes_on_after_the_query(self, start_server, publish, helpers):
        server = start_server()
        ids = publish.many(5, "products")

        stream = server.open("products&last_event_id=" + ids[2])

        assert helpers.numbers(stream.take(2)) == [3, 4]

    def test_believes_the_header_where_both_are_given(
        self, start_server, publish, helpers
    ):
        server = start_server()
        ids = publish.many(5, "products")

        stream = server.open("products&last_event_id=" + ids[0], after=ids[3])

        assert helpers.numbers(stream.take(1)) == [4]

    def test_goes_on_with_new_events_after_old_ones(
        self, start_server, publish, helpers
    ):
        server = start_server()
        ids = publish.many(5, "products")
        stream = server.open("products", after=ids[1])
        stream.take(3)

        publish.many(3, "products", first=5)

        assert helpers.numbers(stream.take(3)) == [5, 6, 7]

    def test_misses_nothing_without_having_seen_an_event(
        self, start_server, publish, helpers
    ):
        server = start_server()
        publish("categories")
        stream = server.open("products")
        stream.read_until(lambda: stream.last_id)
        stream.close()

        publish.many(2, "products")

        again = server.open("products", after=stream.last_id)
        assert helpers.numbers(again.take(2)) == [0, 1]

    def test_reads_what_the_ring_dropped_from_redis(
        self, start_server, publish, helpers
    ):
        server = start_server(**SMALL)
        ids = publish.many(1500, "products")

        stream = server.open("products", after=ids[0])

        assert helpers.story(stream.take(1499)) == "1-1499"
        publish.many(1, "products", first=1500)
        assert helpers.story(stream.take(1)) == "1500"

    def test_tells_of_a_gap_when_the_log_was_trimmed(
        self, start_server, publish, helpers
    ):
        server = start_server(**SMALL)
        ids = publish.many(100, "products")
        publish.redis.xtrim("events", maxlen=50, approximate=False)

        stream = server.open("products", after=ids[9])

        assert helpers.story(stream.take(51)) == "gap 50-99"

    def test_tells_of_no_gap_where_nothing_is_missing(
        self, start_server, publish, helpers
    ):
        server = start_server(**SMALL)
        publish.many(30, "products")

        stream = server.open("products", after="0-1")

        assert helpers.story(stream.take(30)) == "0-29"

    def test_tells_of_a_gap_when_the_log_is_empty_now(
        self, start_fresh_server, publish
    ):
        ids = publish.many(3, "products")
        publish.redis.xtrim("events", maxlen=0)
        server = start_fresh_server()

        stream = server.open("products", after=ids[0])

        assert stream.next().kind == "gap"
        publish("products", data={"n": 9})
        assert json.loads(stream.next().data) == {"n": 9}

    def test_gives_up_on_a_position_too_far_back(self, start_server, publish, helpers):
        server = start_server(**SMALL)
        ids = publish.many(3000, "products")
        # Else the client would not be too far behind what the server knows.
        helpers.wait_for_reader(server, ids[-1])

        stream = server.open("products", after=ids[0])

        found = stream.take(1)
        while found[-1].kind != "gap":
            found += stream.take(1) or pytest.fail(helpers.story(found))
        assert helpers.story(stream.take(10)) == "2990-2999"

    def test_repeats_nothing_to_a_client_that_is_ahead(
        self, start_fresh_server, publish, helpers
    ):
        # Another process has read further than this one, which catches up later.
        server = start_fresh_server()
        # In the past: the servers of other tests take these for known, and would not see
        # what is published before an id of the future.
        now = int(time.time() * 1000) - 3_600_000
        stream = server.open("products", after=f"{now + 500}-0")

        for offset in (100, 500, 600, 700):
            body = json.dumps({"n": offset})
            publish.redis.xadd(
                "events",
                {"type": helpers.TYPE, "topics": "products", "event": body},
                id=f"{now + offset}-0",
            )
            time.sleep(0.05)

        assert helpers.numbers(stream.take(2)) == [600, 700]


class TestRefuse:
    @pytest.mark.parametrize(
        ("topics", "slug"),
        [
            (["nope"], "topic-unknown"),
            (["products/../x"], "topic-unknown"),
            (["users/ada"], "topic-unknown"),
            (["products"] * 21, "too-many-topics"),
            ([], "topic-missing"),
        ],
    )
    def test_answers_bad_topics_with_422(self, start_server, topics, slug):
        stream = start_server().open(*topics)

        assert stream.status == 422
        assert stream.problem()["type"].endswith("#" + slug)

    def test_names_the_unknown_topic(self, start_server):
        stream = start_server().open("products", "nope")

        assert stream.problem()["topic"] == "nope"

    def test_answers_a_foreign_event_id_with_422(self, start_server):
        stream = start_server().open("products", after="yesterday")

        assert stream.status == 422
        assert stream.problem()["type"].endswith("#position-malformed")

    @pytest.mark.parametrize("topic", ["jobs", "jobs/1", "me"])
    def test_answers_a_stranger_with_401(self, start_server, topic):
        stream = start_server().open(topic)

        assert stream.status == 401
        assert stream.headers["www-authenticate"].startswith("Bearer realm=")

    def test_answers_a_bad_token_with_401_on_an_open_topic(self, start_server):
        stream = start_server().open(
            "products", headers={"Authorization": "Bearer a.b.c"}
        )

        assert stream.status == 401

    def test_answers_503_when_the_process_is_full(self, start_fresh_server, bearer):
        server = start_fresh_server(**NARROW)
        held = [server.open("products") for _ in range(2)]
        held.append(server.open("me", headers=bearer()))

        refused = server.open("me", headers=bearer())

        assert refused.status == 503
        assert refused.headers["retry-after"] == "2"
        assert refused.problem()["type"].endswith("#process-full")
        assert [stream.status for stream in held] == [200] * 3

    def test_answers_429_when_an_address_has_too_many(self, start_fresh_server):
        server = start_fresh_server(**NARROW)
        held = [server.open("products") for _ in range(2)]

        refused = server.open("products")

        assert refused.status == 429
        assert refused.headers["retry-after"] == "10"
        assert refused.problem()["type"].endswith("#too-many-streams")
        assert [stream.status for stream in held] == [200] * 2

    def test_answers_429_when_an_account_has_too_many(self, start_fresh_server, bearer):
        server = start_fresh_server(**NARROW)
        mine = bearer(sub="ada")
        assert server.open("me", headers=mine).status == 200

        assert server.open("me", headers=mine).status == 429
        assert server.open("me", headers=bearer(sub="bob")).status == 200


class TestAccounts:
    def test_sees_its_own_jobs_alone(self, start_server, publish, bearer, helpers):
        stream = start_server().open("jobs", headers=bearer("jobs:read", sub="ada"))

        publish("jobs", "users/bob", "users/bob/jobs", data={"n": 1})
        publish("jobs", "users/ada", "users/ada/jobs", data={"n": 2})

        assert helpers.numbers(stream.take(1)) == [2]

    def test_does_not_see_another_accounts_job(
        self, start_server, publish, bearer, helpers
    ):
        stream = start_server().open("jobs/7", headers=bearer(sub="ada"))

        publish("jobs", "jobs/7", "users/bob/jobs/7", data={"n": 1})
        publish("jobs", "jobs/7", "users/ada/jobs/7", data={"n": 2})

        assert helpers.numbers(stream.take(1)) == [2]

    def test_sees_everybodys_jobs_as_an_operator(
        self, start_server, publish, bearer, helpers
    ):
        stream = start_server().open("jobs", headers=bearer("jobs:manage", sub="op"))

        publish("jobs", "jobs/7", "users/bob/jobs/7", data={"n": 1})

        assert helpers.numbers(stream.take(1)) == [1]

    def test_sees_what_concerns_it(self, start_server, publish, bearer, helpers):
        stream = start_server().open("me", headers=bearer(sub="ada"))

        publish("users/bob", data={"n": 1})
        publish("users/ada", data={"n": 2})

        assert helpers.numbers(stream.take(1)) == [2]


class TestEnd:
    def test_ends_when_the_token_expires(self, start_server, bearer):
        server = start_server()
        soon = int(time.time()) + 1

        stream = server.open("me", headers=bearer(exp=soon))

        # The library grants five seconds at the door, the open stream none.
        *_others, last = stream.wait_for_end()
        assert (last.kind, last.data) == ("close", '{"reason": "token-expired"}')

    @pytest.mark.parametrize("claim", ["sid", "jti", "gid", "sub"])
    def test_ends_when_the_token_is_revoked(self, start_server, publish, bearer, claim):
        server = start_server()
        stream = server.open("me", headers=bearer(**{claim: "it"}))
        other = server.open("me", headers=bearer())

        mark = int(time.time()) if claim == "sub" else 1
        publish.redis.set(f"denylist:{claim}:it", mark, ex=60)

        *_others, last = stream.wait_for_end()
        assert (last.kind, last.data) == ("close", '{"reason": "token-revoked"}')
        assert other.next(0.2) is None
        assert not other.ended

    def test_ends_within_a_second_of_the_revocation(
        self, start_server, publish, bearer
    ):
        # As in production, where the tests' servers look more often.
        pause = Settings.model_fields["check_seconds"].default
        server = start_server(check_seconds=pause)
        streams = [server.open("me", headers=bearer(jti=f"j{n}")) for n in range(3)]
        took = []

        # Each right after the end of the one before it, so right after a look: the time
        # until the next one is as long as it may be.
        for number, stream in enumerate(streams):
            publish.redis.set(f"denylist:jti:j{number}", 1, ex=60)
            revoked_at = time.monotonic()
            *_others, last = stream.wait_for_end()
            took.append(time.monotonic() - revoked_at)
            assert last.data == '{"reason": "token-revoked"}'

        assert max(took) < 1.0

    def test_outlives_a_revocation_of_older_tokens(self, start_server, publish, bearer):
        publish.redis.set("denylist:sub:ada", int(time.time()) - 60, ex=60)
        server = start_server()

        stream = server.open("me", headers=bearer(sub="ada"))

        assert stream.next(0.4) is None
        assert not stream.ended

    def test_ends_by_age_and_resumes(self, start_server, publish, helpers):
        server = start_server(rotate_seconds=0.5)
        stream = server.open("products")
        publish.many(1, "products")

        *seen, last = stream.wait_for_end()
        publish.many(1, "products", first=1)
        again = server.open("products", after=stream.last_id)

        assert json.loads(last.data) == {"reason": "age"}
        # How many of them came before the end is a matter of time.
        missing = again.take(2 - len(seen))
        assert helpers.story(seen + missing) == "0-1"
