"""Jobs that do not hear and jobs that kill, on real processes."""

import signal
import time
from datetime import datetime

import psutil
import pytest

ALL = ("celery", "--queues", "interactive,bulk,maintenance", "--concurrency", "1")
MANAGE = ("jobs:read", "jobs:write", "jobs:manage")


@pytest.fixture
def fleet(stack, settings):
    """Relay, beat and one worker of all queues that cuts off after a second."""
    stack.environment["WORKER_CANCEL_GRACE_SECONDS"] = "1"
    stack.ensure("relay", "relay")
    stack.ensure("beat", "beat")
    stack.ensure("all", *ALL)
    return stack


@pytest.fixture
def child(fleet):
    """Returns the one process of the pool."""

    def child():
        parent = psutil.Process(fleet.processes["all"].pid)
        return next(iter(parent.children()))

    return child


@pytest.fixture
def running(look, wait_for):
    def running(job_id):
        wait_for(lambda: look(job_id)["state"] == "running")
        return job_id

    return running


@pytest.fixture
def cancel(client, bearer):
    """Cancels a job and returns the seconds from the answer to its end."""

    def cancel(job_id, finished):
        response = client.post(
            f"/api/v1/jobs/{job_id}/cancel", headers=bearer(*MANAGE, sub="me")
        )
        assert response.status_code == 202
        asked = time.time()
        job = finished(job_id)
        return job, datetime.fromisoformat(job["finished_at"]).timestamp() - asked

    return cancel


class TestCancel:
    def test_of_a_running_import_takes_two_seconds_at_most(
        self, fleet, submit, catalog, cancel, finished, wait_for
    ):
        catalog.delay = 0.2
        rows = b"".join(b"s%d,N\n" % number for number in range(10_000))
        job_id = submit(b"sku,name\n" + rows).json["id"]
        wait_for(lambda: len(catalog.calls) > 2)

        job, seconds = cancel(job_id, finished)

        assert job["state"] == "cancelled"
        assert seconds < 2
        assert job["result"]["created"] == len(catalog.products)

    def test_of_a_job_that_waits_in_one_long_step(
        self, fleet, submit_probe, cancel, finished, running
    ):
        """It writes nothing for a minute, so only the heartbeat can hear of it."""
        job_id = running(submit_probe(seconds=60)["id"])

        job, seconds = cancel(job_id, finished)

        assert job["state"] == "cancelled"
        assert seconds < 2

    def test_of_a_job_that_does_not_hear_ends_its_process(
        self, fleet, submit_probe, cancel, finished, running, child, wait_for
    ):
        job_id = running(submit_probe(seconds=60, stubborn=True)["id"])
        doomed = child()

        job, seconds = cancel(job_id, finished)

        assert (job["state"], job["dead"]) == ("cancelled", None)
        assert 0.5 < seconds < 5
        wait_for(lambda: not doomed.is_running())
        # The next one is served, by another process, and the cancelled one stays so.
        assert finished(submit_probe()["id"])["state"] == "succeeded"
        assert finished(job_id) == job
        assert 'outcome="cancelled"' in fleet.get("all", "/metrics")

    def test_of_a_job_whose_process_is_frozen(
        self, fleet, submit_probe, cancel, finished, running, child
    ):
        """Nobody is left to hear of it: the reaper ends it with its lease."""
        job_id = running(submit_probe(seconds=60)["id"])
        fleet.start("other", *ALL)
        frozen = child()
        frozen.send_signal(signal.SIGSTOP)

        job, _ = cancel(job_id, finished)

        assert job["state"] == "cancelled"
        frozen.kill()
        fleet.kill("other")


class TestPoison:
    def test_is_dead_after_three_workers_and_can_be_replayed(
        self, fleet, submit_probe, finished, client, bearer, wait_for
    ):
        job_id = submit_probe(crash=True)["id"]

        job = finished(job_id, 60)

        assert (job["state"], job["dead"], job["attempts"]) == ("failed", "poison", 3)
        # Who died at them counts nothing; the reaper does.
        counted = 'flagon_jobs_total{kind="probe",outcome="crashed"} 3.0'
        wait_for(lambda: counted in fleet.get("all", "/metrics"))
        # Others are served as before.
        assert finished(submit_probe()["id"])["state"] == "succeeded"
        headers = bearer(*MANAGE, sub="operator")
        path = f"/api/v1/jobs/{job_id}/attempts"
        attempts = client.get(path, headers=headers).json["items"]
        assert [attempt["outcome"] for attempt in attempts] == ["crashed"] * 3
        client.post(f"/api/v1/jobs/dead/{job_id}/replay", headers=headers)
        assert finished(job_id, 60)["attempts"] == 6
