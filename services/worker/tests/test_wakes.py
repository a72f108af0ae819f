"""One message, several jobs: in turn, none forgotten, and nobody waits for a long one."""

import time
from uuid import uuid4

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy import select, text, update

from flagon_chassis import tables
from flagon_worker.domain import fairness, jobs, rescue, runs
from flagon_worker.models import Job

from .conftest import CAPPED, PATIENCE, QUEUE


@pytest.fixture
def work(begin):
    """Does what a worker does with one message and returns how the turns ended."""

    def work(kind=lambda _run: {}, *, times=1, rules=CAPPED, stopping=lambda: False):
        outcomes = runs.run_jobs(
            begin,
            uuid4(),
            kinds={"probe": kind},
            patience=PATIENCE,
            slice_seconds=20,
            stopping=stopping,
            too_long=SoftTimeLimitExceeded,
            queue=QUEUE,
            times=times,
            rules=rules,
        )
        return [outcome.name for outcome in outcomes]

    return work


@pytest.fixture
def sent(begin):
    """Returns the bodies of the messages that were sent after the jobs' own."""

    def sent(own):
        with begin() as session:
            table = tables.outbox.c
            return session.scalars(
                select(table.body)
                .where(table.name == jobs.TASK)
                .order_by(table.sequence)
                .offset(own)
            ).all()

    return sent


@pytest.fixture
def states(begin):
    """Returns the states of all jobs by start."""

    def states():
        with begin() as session:
            return session.scalars(select(Job.state).order_by(Job.started_at)).all()

    return states


class TestOneMessage:
    def test_does_short_jobs_one_after_the_other_in_turn(self, add, work, begin):
        add("many", 4)
        add("few", 2)

        assert work() == ["succeeded"] * 6

        with begin() as session:
            found = session.scalars(select(Job.owner).order_by(Job.started_at)).all()
        assert found == ["many", "few", "many", "few", "many", "many"]

    def test_tells_each_step_once_and_in_the_request_of_its_own_job(
        self, add, work, outbox
    ):
        add("a"), add("b")
        work()

        told = [
            (row.body["data"]["owner"], row.body["data"]["version"], row.headers)
            for row in outbox("event")
        ]

        for owner in "ab":
            mine = [version for whose, version, _ in told if whose == owner]
            assert mine == [1, 2, 3]
        # The first and the last are told by who runs at the time: the API and the task.
        assert [headers for _, version, headers in told if version == 2] == [
            {"request_id": "of-a"},
            {"request_id": "of-b"},
        ]

    def test_stops_with_the_worker_and_hands_the_rest_on(self, add, work, sent, states):
        add("me", 4)

        assert work(times=3, stopping=lambda: True) == ["succeeded"]

        assert states().count("queued") == 3
        assert sum(body["kwargs"].get("times", 1) for body in sent(4)) >= 2

    def test_hands_the_rest_on_when_a_job_is_not_short(self, add, work, sent):
        add("me", 3)

        def slow(run):
            end = time.monotonic() + 10
            while run.wakes.left and time.monotonic() < end:
                time.sleep(0.01)
            return {}

        work(slow, times=3)

        bodies = sent(3)
        assert len(bodies) >= 2
        # Each to a worker of its own, whoever is idle.
        assert all("fold" not in body for body in bodies[:2])

    def test_hands_the_rest_on_when_it_loses_a_job(self, add, work, sent, begin):
        add("me", 2)

        def robbed(run):
            with begin() as session:
                session.execute(
                    update(Job).where(Job.id == run.job.id).values(lease_token=uuid4())
                )
            return {}

        assert work(robbed, times=2) == ["lost"]

        assert len(sent(2)) == 1

    def test_ends_a_job_also_when_the_next_cannot_be_taken(
        self, add, work, app, states, sent
    ):
        """Somebody else chooses, for longer than anybody waits."""
        add("me", 2)
        engine = app.extensions["flagon.sessions"].kw["bind"]
        with engine.connect() as other:

            def blocked(_run):
                other.execute(text(f"select {fairness.LOCK}"), {"queue": QUEUE})
                return {}

            assert work(blocked, times=2) == ["succeeded"]

        assert states() == ["succeeded", "queued"]
        assert len(sent(2)) == 1

    def test_of_a_job_that_was_to_be_cancelled_meanwhile_is_not_lost(
        self, add, work, begin, states
    ):
        (job_id,) = add("me")

        def cancelled(_run):
            with begin() as session:
                jobs.cancel_job(session, session.get(Job, job_id, with_for_update=True))
            return {}

        # It was done before it heard of that, as ever.
        assert work(cancelled) == ["succeeded"]
        assert states() == ["succeeded"]


class TestReaper:
    def test_counts_for_how_many_a_message_may_stand(self, add, begin):
        add("me", 9)
        with begin() as session:
            session.execute(tables.outbox.delete())
            # A moment later than they became ready: they do not pause.
            session.execute(
                text("update job set wake_at = queued_at + interval '1 ms'")
            )

        def woken(depth):
            with begin() as session:
                found = rescue.reap(
                    session,
                    depths={QUEUE: depth},
                    patience=PATIENCE,
                    rules=fairness.Rules(),
                )
                session.rollback()
                return found.woken

        assert [woken(depth) for depth in (2, 1, 0)] == [0, 1, 9]

    def test_counts_what_the_outbox_holds(self, add, begin):
        (job_id, *_) = add("me", 9)
        with begin() as session:
            session.execute(tables.outbox.delete())
            job = session.get(Job, job_id)
            jobs.events.put(session, [jobs.wake_up(job, 5)])
            # A moment later than they became ready: they do not pause.
            session.execute(
                text("update job set wake_at = queued_at + interval '1 ms'")
            )
        with begin() as session:
            found = rescue.reap(
                session, depths={}, patience=PATIENCE, rules=fairness.Rules()
            )

        assert found.woken == 4
