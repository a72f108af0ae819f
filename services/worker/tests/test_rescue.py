"""Leases, the reaper, and what it finds."""

import threading
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, update

from flagon_chassis import tables
from flagon_worker import tasks
from flagon_worker.domain import fairness, jobs, leases, rescue, schedule

from .conftest import PATIENCE


@pytest.fixture
def claim(begin):
    def claim(job_id, token=None):
        with begin() as session:
            return leases.claim(
                session, UUID(job_id), token=token or uuid4(), lease_seconds=15
            )

    return claim


@pytest.fixture
def reap(begin):
    def reap(**depths):
        with begin() as session:
            return rescue.reap(
                session, depths=depths, patience=PATIENCE, rules=fairness.Rules()
            )

    return reap


@pytest.fixture
def find(begin):
    def find(job_id):
        with begin() as session:
            return jobs.find_job(session, UUID(job_id), jobs.Viewer("", manages=True))

    return find


@pytest.fixture
def lose_messages(begin):
    def lose():
        with begin() as session:
            session.execute(
                delete(tables.outbox).where(tables.outbox.c.channel == "task")
            )

    return lose


AGO = timedelta(seconds=20)


class TestClaim:
    def test_gives_a_job_to_one_of_many(self, submit, claim, find, app):
        job_id = submit().json["id"]
        got = []

        def try_it():
            with app.app_context():
                got.append(claim(job_id))

        threads = [threading.Thread(target=try_it) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sum(job is not None for job in got) == 1
        assert find(job_id).attempts == 1

    def test_finds_nothing_for_an_unknown_job(self, claim):
        assert claim(str(uuid4())) is None

    def test_finds_nothing_once_it_is_done(self, submit, claim, run):
        job_id = submit().json["id"]
        run(job_id)

        assert claim(job_id) is None


class TestFencing:
    def test_refuses_every_write_of_a_worker_that_lost_its_lease(
        self, submit, claim, begin, change
    ):
        job_id = submit().json["id"]
        old, new = uuid4(), uuid4()
        claim(job_id, old)
        change(job_id, lease_token=new)

        with pytest.raises(leases.LeaseLost), begin() as session:
            leases.hold(session, UUID(job_id), old)
        with pytest.raises(leases.LeaseLost), begin() as session:
            leases.renew(session, UUID(job_id), token=old, lease_seconds=15)
        with begin() as session:
            assert leases.hold(session, UUID(job_id), new).id == UUID(job_id)
            assert not leases.renew(session, UUID(job_id), token=new, lease_seconds=15)


class TestReap:
    def test_requeues_a_job_whose_lease_ran_out(
        self, submit, claim, change, reap, find, outbox
    ):
        job_id = submit().json["id"]
        claim(job_id)

        assert reap(bulk=1) == rescue.Reaped([], 0, 0)
        change(job_id, lease_until=datetime.now(UTC) - AGO)
        assert reap(bulk=1).ended == [("import", "crashed")]

        job = find(job_id)
        assert (job.state, job.crashes, job.lease_token) == ("queued", 1, None)
        assert len(outbox("task")) == 2
        assert claim(job_id).attempts == 2

    def test_fails_a_job_that_crashes_too_often(
        self, submit, claim, change, reap, find, outbox
    ):
        job_id = submit().json["id"]
        for _ in range(3):
            claim(job_id)
            change(job_id, lease_until=datetime.now(UTC) - AGO)
            reaped = reap()

        assert (reaped.ended, reaped.poisoned) == ([("import", "crashed")], 1)
        assert find(job_id).state == "failed"
        assert "took its worker down 3 times" in find(job_id).error
        assert outbox("event")[-1].body["data"]["state"] == "failed"

    def test_ends_a_lost_job_that_was_to_be_cancelled(
        self, submit, claim, change, reap, find
    ):
        job_id = submit().json["id"]
        claim(job_id)
        change(job_id, lease_until=datetime.now(UTC) - AGO, cancel_requested=True)
        reap()

        assert find(job_id).state == "cancelled"

    def test_sends_a_lost_message_again(
        self, submit, change, reap, outbox, lose_messages
    ):
        job_id = submit().json["id"]
        lose_messages()

        assert reap().woken == 0
        change(job_id, wake_at=datetime.now(UTC) - AGO)
        assert reap().woken == 1
        assert reap().woken == 0

        assert outbox("task")[0].body == {
            "queue": "bulk",
            "kwargs": {"job_id": job_id, "queue": "bulk"},
        }

    def test_keeps_the_trace_of_the_request(
        self, submit, change, reap, outbox, lose_messages
    ):
        parent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
        job_id = submit(
            headers={"X-Request-ID": "mine-and-mine", "traceparent": parent}
        ).json["id"]
        lose_messages()
        change(job_id, wake_at=datetime.now(UTC) - AGO)
        reap()

        headers = outbox("task")[0].headers
        assert headers["request_id"] == "mine-and-mine"
        assert "a" * 32 in headers["traceparent"]

    def test_sends_nothing_while_the_queue_holds_enough(
        self, submit, change, reap, lose_messages
    ):
        job_id = submit().json["id"]
        change(job_id, wake_at=datetime.now(UTC) - AGO)

        # Its first message is in the outbox still, and then in the broker.
        assert reap().woken == 0
        lose_messages()
        assert reap(bulk=1).woken == 0
        assert reap(bulk=0).woken == 1

    def test_wakes_a_job_that_paused_however_full_the_queue_is(
        self, submit, claim, begin, change, reap, find
    ):
        job_id = submit().json["id"]
        token = uuid4()
        claim(job_id, token)
        with begin() as session:
            job = leases.hold(session, UUID(job_id), token)
            wait = leases.pause(session, job, "catalog is away.", PATIENCE)
        assert 0.5 <= wait <= 1.0
        assert reap(bulk=9).woken == 0

        past = datetime.now(UTC) - AGO
        change(job_id, wake_at=past, queued_at=past)

        assert reap(bulk=9).woken == 1

    def test_wakes_a_job_between_two_turns(
        self, submit, claim, begin, change, reap, lose_messages
    ):
        job_id = submit().json["id"]
        token = uuid4()
        claim(job_id, token)
        with begin() as session:
            leases.take_turns(
                session, leases.hold(session, UUID(job_id), token), PATIENCE
            )
        lose_messages()
        change(job_id, wake_at=datetime.now(UTC) - AGO)

        assert reap().woken == 1
        assert claim(job_id).attempts == 1

    def test_waits_longer_after_each_trouble(self, submit, claim, begin, change):
        job_id = submit().json["id"]
        waits = []
        for _ in range(8):
            token = uuid4()
            change(job_id, queued_at=datetime.now(UTC) - AGO)
            claim(job_id, token)
            with begin() as session:
                job = leases.hold(session, UUID(job_id), token)
                waits.append(leases.pause(session, job, "away.", PATIENCE))

        for number, wait in enumerate(waits):
            longest = min(60, 2**number)
            assert longest / 2 <= wait <= longest


class TestTasks:
    def test_reap_jobs_asks_the_broker(self, submit, change, app, outbox, begin):
        job_id = submit().json["id"]
        change(job_id, wake_at=datetime.now(UTC) - AGO)
        with begin() as session:
            session.execute(update(tables.outbox).values(sent_at=datetime.now(UTC)))

        tasks.reap_jobs.apply(kwargs={"newer": 1}).get()

        assert len(outbox("task")) == 2

    def test_reap_jobs_fails_what_crashed_too_often(self, submit, change, claim, find):
        job_id = submit().json["id"]
        claim(job_id)
        change(job_id, lease_until=datetime.now(UTC) - AGO, crashes=9)

        tasks.reap_jobs.apply().get()
        tasks.reap_jobs.apply().get()

        assert find(job_id).state == "failed"

    def test_run_job_leaves_a_job_that_is_not_ready(self, submit, claim, run):
        job_id = submit().json["id"]
        claim(job_id)

        assert run(job_id)["attempts"] == 1

    def test_schedule_names_registered_tasks(self, app):
        celery = app.extensions["celery"]

        for entry in schedule.entries(3).values():
            assert entry["task"] in celery.tasks
            assert entry["options"]["queue"] == "maintenance"
        assert jobs.TASK in celery.tasks
