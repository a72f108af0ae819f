"""Whose turn it is, and that every job that could start has a message under way."""

import random
import threading
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psutil
import pytest
from pydantic import ValidationError
from sqlalchemy import delete, func, select, update
from uuid_utils.compat import uuid7

from flagon_chassis import tables
from flagon_worker.domain import fairness, jobs, leases, rescue
from flagon_worker.models import Bucket, Job, Turn
from flagon_worker.settings import Settings

from .conftest import CAPPED, PATIENCE, QUEUE


@pytest.fixture
def take(begin):
    """Takes the job whose turn it is and returns it with its token."""

    def take(rules=CAPPED, queue=QUEUE):
        token = uuid4()
        with begin() as session:
            job = fairness.take(session, queue, rules, token=token, lease_seconds=15)
        return (job, token) if job else None

    return take


@pytest.fixture
def end(begin):
    """Ends a turn as a worker does."""

    def end(job, token, how=leases.succeed, rules=CAPPED):
        with begin() as session:
            held = leases.hold(session, job.id, token)
            if how is leases.succeed:
                how(session, held, {})
            elif how is leases.stop:
                how(session, held)
            elif how is leases.pause:
                how(session, held, "away.", PATIENCE)
            else:
                how(session, held, PATIENCE)
            if held.finished_at or how is leases.pause:
                fairness.release(session, held, rules)

    return end


def state_of(begin, job_id):
    with begin() as session:
        return session.get(Job, job_id).state


class TestTake:
    def test_serves_owners_in_turn_not_by_age(self, add, take, end):
        add("many", 5)
        add("few", 2)

        order = []
        while taken := take():
            order.append(taken[0].owner)
            end(*taken)

        assert order == ["many", "few", "many", "few", "many", "many", "many"]

    def test_prefers_who_has_the_fewest_running(self, add, take):
        add("many", 3)
        first, second = take(), take()
        add("few", 1)
        assert {first[0].owner, second[0].owner} == {"many"}

        assert take()[0].owner == "few"

    def test_serves_one_owners_jobs_in_order(self, add, take, end):
        ids = add("me", 4)

        found = []
        while taken := take():
            found.append(taken[0].id)
            end(*taken)

        assert found == ids

    def test_leaves_jobs_that_pause_and_other_queues(self, add, take, end):
        add("me")
        add("me", queue="bulk")
        end(*take(), leases.pause)

        assert take() is None
        assert take(queue="bulk") is not None

    def test_keeps_the_cap_also_when_many_ask_at_once(self, add, take):
        add("me", 8)
        got = []
        threads = [
            threading.Thread(target=lambda: got.append(take())) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sum(taken is not None for taken in got) == 2

    def test_waits_for_a_row_that_another_looks_at(self, add, take, begin):
        """With SKIP LOCKED the message would be used up and the job forgotten."""
        (job_id,) = add("me")
        got = []
        with begin() as session:
            session.scalar(select(Job).where(Job.id == job_id).with_for_update())
            thread = threading.Thread(target=lambda: got.append(take()))
            thread.start()
            thread.join(0.3)
            assert got == []
        thread.join()

        assert got[0][0].id == job_id

    def test_takes_another_when_the_one_it_waited_for_is_gone(self, add, take, begin):
        first, second = add("me", 2)
        got = []
        with begin() as session:
            job = session.scalar(select(Job).where(Job.id == first).with_for_update())
            thread = threading.Thread(target=lambda: got.append(take()))
            thread.start()
            thread.join(0.3)
            jobs.cancel_job(session, job)
        thread.join()

        assert got[0][0].id == second

    def test_finds_the_one_of_an_owner_behind_thousands(self, begin, add, take, end):
        with begin() as session:
            add("zoe", 1)
            template = session.scalar(select(Job).limit(1))
            values = {
                column.key: getattr(template, column.key) for column in Job.__mapper__.c
            }
            session.execute(
                Job.__table__.insert(),
                [
                    {**values, "id": uuid7(), "owner": f"many{number % 5}"}
                    for number in range(5000)
                ],
            )
        order = [take(fairness.Rules()) for _ in range(6)]

        assert "zoe" in {taken[0].owner for taken in order}


class TestRates:
    RULES = fairness.Rules(rates={"probe": fairness.Rate(2, 3600.0)})

    def test_let_no_more_jobs_start(self, add, take, begin):
        add("me", 4)

        assert take(self.RULES)
        assert take(self.RULES)
        assert take(self.RULES) is None

        with begin() as session:
            session.execute(
                update(Bucket).values(filled_at=Bucket.filled_at - timedelta(hours=1))
            )
        assert take(self.RULES)

    def test_do_not_hold_up_other_kinds(self, add, take, end):
        add("me", 4)
        while take(self.RULES):
            pass
        add("me", 1, kind="import")

        assert take(self.RULES)[0].kind == "import"

    def test_count_starts_and_not_turns(self, add, take, end):
        add("me", 1)
        for _ in range(4):
            end(*take(self.RULES), leases.take_turns)

        assert take(self.RULES)

    def test_are_dealt_out_by_the_reaper(self, add, take, begin):
        add("me", 4)
        while take(self.RULES):
            pass
        with begin() as session:
            # All four messages were used up, two of them for nothing.
            session.execute(delete(tables.outbox))
            assert reap(session, self.RULES) == 0
            session.execute(
                update(Bucket).values(
                    filled_at=Bucket.filled_at - timedelta(minutes=31)
                )
            )
            session.expire_all()
            assert reap(session, self.RULES) == 1
            assert reap(session, self.RULES) == 0

    @pytest.mark.parametrize("rate", ["5 per second", "0 per hour", "much", 7])
    def test_are_written_as_words(self, rate, settings):
        with pytest.raises(ValidationError, match="60 per minute"):
            Settings(**{**settings.model_dump(), "kind_rates": {"import": rate}})

    def test_may_be_by_the_day(self, settings):
        found = Settings(
            **{**settings.model_dump(), "kind_rates": {"import": "9 per day"}}
        )

        assert found.kind_rates == {"import": (9, 86_400.0)}


def reap(session, rules, **depths):
    return rescue.reap(session, depths=depths, patience=PATIENCE, rules=rules).woken


class TestMessages:
    def test_are_enough_for_all_that_could_start_whatever_happens(
        self, begin, add, take, end
    ):
        """A random walk: no reaper, and never fewer messages than slots."""
        chance = random.Random(27)
        running = []
        queued = []

        def messages():
            with begin() as session:
                return session.scalar(
                    select(func.count())
                    .select_from(tables.outbox)
                    .where(tables.outbox.c.name == jobs.TASK)
                )

        def use_up_one():
            with begin() as session:
                oldest = session.scalar(
                    select(tables.outbox.c.id)
                    .where(tables.outbox.c.name == jobs.TASK)
                    .order_by(tables.outbox.c.sequence)
                    .limit(1)
                )
                session.execute(
                    delete(tables.outbox).where(tables.outbox.c.id == oldest)
                )
            taken = take()
            if taken:
                running.append(taken)

        def cancel_one():
            with begin() as session:
                job = session.get(Job, chance.choice(queued), with_for_update=True)
                if job.state == "queued":
                    jobs.cancel_job(session, job)

        ends = (leases.succeed, leases.stop, leases.hand_back, leases.take_turns)
        for _ in range(400):
            step = chance.random()
            if step < 0.3:
                queued += add(chance.choice("abc"))
            elif step < 0.65 and messages():
                use_up_one()
            elif step < 0.72 and queued:
                cancel_one()
            elif running:
                taken = running.pop(chance.randrange(len(running)))
                end(*taken, chance.choice(ends))
            with begin() as session:
                found = fairness.waiting(session, CAPPED)
            slots = found[QUEUE].slots if QUEUE in found else 0
            assert messages() >= slots

        # And so everything ends, by messages alone.
        while messages() or running:
            if messages():
                use_up_one()
            if running:
                end(*running.pop())
        assert {state_of(begin, job_id) for job_id in queued} <= {
            "succeeded",
            "cancelled",
        }

    def test_used_up_by_another_job_that_paused_are_replaced(
        self, add, take, end, begin, change
    ):
        """What paused has no message of its own until the reaper sends for it."""
        (paused,) = add("me")
        end(*take(), leases.pause)
        past = datetime.now(UTC) - timedelta(seconds=1)
        change(paused, queued_at=past, wake_at=past)
        with begin() as session:
            session.execute(delete(tables.outbox))
        add("me")

        # The one message of the second job, used up for the first, which is older.
        assert take()[0].id == paused

        with begin() as session:
            names = session.scalars(select(tables.outbox.c.name)).all()
        assert names.count(jobs.TASK) == 2

    def test_are_not_sent_for_who_waits_at_the_cap(self, add, take, begin, change):
        ids = add("me", 6)
        while take():
            pass
        past = datetime.now(UTC) - timedelta(seconds=60)
        for job_id in ids:
            change(job_id, wake_at=past)
        with begin() as session:
            session.execute(delete(tables.outbox))

            assert reap(session, CAPPED) == 0
            assert reap(session, fairness.Rules(owner_max={QUEUE: 3})) == 1

    def test_of_a_crashed_worker_come_from_the_reaper(self, add, take, begin, change):
        add("me", 3)
        lost, _ = take()
        take()
        past = datetime.now(UTC) - timedelta(seconds=60)
        change(lost.id, lease_until=past, cancel_requested=True)
        with begin() as session:
            session.execute(delete(tables.outbox))
            reap(session, CAPPED)
            names = session.scalars(select(tables.outbox.c.name)).all()

        assert names.count(jobs.TASK) == 1

    def test_of_older_releases_are_for_their_job(self, add, run, begin):
        _, second = add("me", 2)

        assert run(second)["state"] == "succeeded"

    def test_old_turns_are_forgotten(self, add, take, begin):
        add("me")
        take()
        with begin() as session:
            fairness.purge_turns(session, keep=timedelta(0))
            assert session.scalar(select(func.count()).select_from(Turn)) == 0


ONE = ("celery", "--queues", "interactive", "--concurrency", "1")
HOUSE = ("celery", "--queues", "maintenance", "--concurrency", "1")


@pytest.fixture
def fleet(stack, settings):
    """Relay, beat and housekeeping; workers are the tests' own."""
    stack.ensure("relay", "relay")
    stack.ensure("beat", "beat")
    stack.ensure("house", *HOUSE)
    yield stack
    for name in set(stack.processes) - {"relay", "beat", "house"}:
        stack.kill(name)


@pytest.fixture
def all_ended(begin, wait_for):
    """Waits until no job is left and returns them by start."""

    def all_ended(seconds=60):
        def left():
            with begin() as session:
                return session.scalar(
                    select(func.count())
                    .select_from(Job)
                    .where(Job.finished_at.is_(None))
                )

        wait_for(lambda: left() == 0, seconds, 0.2)
        with begin() as session:
            return session.scalars(select(Job).order_by(Job.started_at)).all()

    return all_ended


class TestWorkers:
    def test_let_one_job_pass_the_flood_of_another_owner(self, fleet, add, all_ended):
        add("many", 300)
        add("few", 1)
        fleet.start("one", *ONE)

        owners = [job.owner for job in all_ended()]

        assert len(owners) == 301
        assert owners.index("few") < 5

    def test_start_an_interactive_job_at_once_beside_a_flood_of_bulk(
        self, fleet, add, look, wait_for, begin
    ):
        add("many", 100, queue="bulk", seconds=1)
        fleet.start("bulk", "celery", "--queues", "bulk", "--concurrency", "1")
        fleet.start("one", *ONE)
        wait_for(lambda: 'depth{queue="bulk"} ' in fleet.get("bulk", "/metrics"))

        (job_id,) = add("many")
        wait_for(lambda: state_of(begin, job_id) == "succeeded", 10)

        with begin() as session:
            job = session.get(Job, job_id)
            assert (job.started_at - job.created_at).total_seconds() < 2
            session.execute(delete(Job))

    def test_killed_again_and_again_forget_no_job(
        self, fleet, add, all_ended, begin, wait_for
    ):
        """A killed worker has used up a message for whosever job it had."""
        ids = [job for owner in "abc" for job in add(owner, 20, seconds=0.1)]
        for number in range(4):
            fleet.start(f"victim{number}", *ONE)

            def some_run():
                with begin() as session:
                    return session.scalar(
                        select(func.count())
                        .select_from(Job)
                        .where(Job.lease_token.is_not(None))
                    )

            wait_for(some_run)
            process = psutil.Process(fleet.processes[f"victim{number}"].pid)
            orphans = process.children()
            fleet.kill(f"victim{number}")
            for orphan in orphans:
                orphan.kill()
        fleet.start("one", *ONE)

        found = all_ended(90)

        assert {job.id for job in found} == set(ids)
        assert {job.state for job in found} == {"succeeded"}
        assert sum(job.attempts for job in found) <= len(ids) + 4
        assert isinstance(found[0].id, UUID)
