"""Real processes, and what happens when they are killed."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
import redis

COUNTS = {"created": 0, "updated": 0, "unchanged": 0, "refused": 0}


def rows(count):
    """A file whose every tenth row is refused."""
    lines = [f"{'-' * (n % 10 == 0)}s{n},Thing {n}" for n in range(count)]
    return ("sku,name\n" + "\n".join(lines) + "\n").encode()


@pytest.fixture
def show(client, bearer):
    def show(job_id):
        path = f"/api/v1/jobs/{job_id}"
        return client.get(path, headers=bearer("jobs:read", sub="me")).json

    return show


@pytest.fixture
def ended(show, wait_for):
    def ended(job_id, seconds=40):
        wait_for(
            lambda: show(job_id)["state"] in {"succeeded", "failed", "cancelled"},
            seconds,
        )
        return show(job_id)

    return ended


BULK = ("celery", "--queues", "bulk,maintenance", "--concurrency", "1")


@pytest.fixture
def fleet(stack, settings):
    """Relay, beat and one bulk worker."""
    stack.ensure("relay", "relay")
    stack.ensure("beat", "beat")
    stack.ensure("bulk", *BULK)
    yield stack
    for name in set(stack.processes) - {"relay", "beat", "bulk"}:
        stack.kill(name)


@pytest.fixture
def halfway(submit, catalog, wait_for):
    """Hands in an import, and returns once it is in the midst of its batches."""

    def halfway(count=1500, calls=4):
        catalog.delay = 0.1
        job_id = submit(rows(count)).json["id"]
        wait_for(lambda: len(catalog.calls) >= calls)
        return job_id

    return halfway


def assert_exact(job, catalog, report, count=1500):
    assert job["state"] == "succeeded", job
    assert job["result"] == {
        **COUNTS,
        "created": count - count // 10,
        "refused": count // 10,
    }
    assert job["progress"]["done"] == job["progress"]["total"] == count
    assert len(catalog.products) == count - count // 10
    numbers = [int(row[0]) for row in report(job["id"])]
    assert numbers == list(range(2, count + 2, 10))


def children(process):
    """Pool children: what Celery forks."""
    return psutil.Process(process.pid).children()


class TestWholePath:
    def test_carries_a_job_from_the_post_to_catalog_archive_and_metrics(
        self, fleet, submit, ended, catalog, wait_for
    ):
        fleet.start("consumer", "consumer")
        parent = "00-" + "c" * 32 + "-" + "d" * 16 + "-01"

        job_id = submit(
            b"sku,name\n" + b"".join(b"s%d,N\n" % n for n in range(1000)),
            headers={"X-Request-ID": "a-request-of-mine", "traceparent": parent},
        ).json["id"]

        assert ended(job_id)["result"] == {**COUNTS, "created": 1000}
        assert [key for key, _ in catalog.calls] == [f"{job_id}:{n}" for n in range(10)]
        sent = [headers for _, headers in catalog.calls]
        assert {headers["X-Request-ID"] for headers in sent} == {"a-request-of-mine"}
        assert all("c" * 32 in headers["traceparent"] for headers in sent)
        metric = 'flagon_jobs_total{kind="import",outcome="succeeded"}'
        wait_for(lambda: metric in fleet.get("bulk", "/metrics"))
        found = wait_for(lambda: self.archived(fleet, job_id))
        assert {event["subject"] for event in found} == {job_id}
        states = [event["data"]["state"] for event in found]
        assert (states[0], states[-1]) == ("queued", "succeeded")

    @staticmethod
    def archived(fleet, job_id):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "flask",
                "--app",
                "flagon_worker.app",
                "events",
                "list",
                "--subject",
                job_id,
            ],
            env={**os.environ, **fleet.environment},
            capture_output=True,
            check=True,
            text=True,
        )
        found = [json.loads(line) for line in done.stdout.splitlines()]
        found = [event for event in found if "specversion" in event]
        return found if found and found[-1]["data"]["state"] == "succeeded" else None


class TestStart:
    def test_is_refused_where_a_task_could_run_twice_at_once(self, stack):
        refused = subprocess.run(
            [sys.executable, "-m", "flagon_worker", *BULK],
            env={**os.environ, **stack.environment, "WORKER_GRACE_SECONDS": "300"},
            capture_output=True,
            check=False,
            text=True,
            timeout=30,
        )

        assert refused.returncode == 1
        # 150 s of the hard limit and 300 s of grace; the broker waits for 420 s.
        assert "Lower task_time_limit (150 s) or the grace" in refused.stdout


class TestKilled:
    def test_a_pool_child_in_the_midst_of_an_import(
        self, fleet, halfway, ended, catalog, report
    ):
        job_id = halfway()
        (child,) = children(fleet.processes["bulk"])

        child.kill()

        job = ended(job_id)
        assert_exact(job, catalog, report)
        assert job["attempts"] == 2

    def test_a_whole_worker_in_the_midst_of_an_import(
        self, fleet, halfway, ended, catalog, report
    ):
        job_id = halfway()
        orphans = children(fleet.processes["bulk"])
        fleet.kill("bulk")
        for orphan in orphans:
            orphan.kill()
        fleet.start("bulk", *BULK)

        job = ended(job_id)

        assert_exact(job, catalog, report)
        assert job["attempts"] == 2

    def test_the_parent_alone_leaves_no_orphans(
        self, fleet, halfway, ended, catalog, report, wait_for
    ):
        job_id = halfway()
        orphans = children(fleet.processes["bulk"])
        fleet.kill("bulk")
        wait_for(lambda: not any(orphan.is_running() for orphan in orphans), 10)
        fleet.start("bulk", *BULK)

        assert_exact(ended(job_id), catalog, report)

    def test_a_frozen_worker_that_thaws_writes_no_more(
        self, fleet, halfway, ended, catalog, report, wait_for, show
    ):
        job_id = halfway()
        (child,) = children(fleet.processes["bulk"])
        child.send_signal(signal.SIGSTOP)
        fleet.start("other", *BULK)
        wait_for(lambda: show(job_id)["attempts"] == 2)
        child.send_signal(signal.SIGCONT)

        assert_exact(ended(job_id), catalog, report)
        wait_for(lambda: "lease_lost" in fleet.log("bulk"))

    def test_relay_and_beat(self, fleet, halfway, ended, catalog, report):
        job_id = halfway()
        for name in ("relay", "beat"):
            fleet.kill(name)
            fleet.start(name, name)

        assert_exact(ended(job_id), catalog, report)


class TestStopped:
    def test_hands_the_job_back_at_once(
        self, fleet, halfway, ended, catalog, report, show
    ):
        job_id = halfway()

        fleet.stop("bulk")

        assert show(job_id)["state"] == "queued"
        assert "handed_back" in fleet.log("bulk")
        fleet.start("bulk", *BULK)
        assert_exact(ended(job_id), catalog, report)


class TestMessageLost:
    def test_the_reaper_sends_it_again(
        self, fleet, submit, ended, catalog, redis_url, wait_for
    ):
        for name in ("bulk", "beat"):
            fleet.kill(name)
        job_id = submit(b"sku,name\na,A\n").json["id"]
        client = redis.Redis.from_url(redis_url)
        wait_for(lambda: client.llen("worker:bulk"))
        client.flushall()
        client.close()

        fleet.start("bulk", *BULK)
        fleet.start("beat", "beat")

        assert ended(job_id)["result"] == {**COUNTS, "created": 1}


class TestCatalogDown:
    def test_is_waited_for(
        self, fleet, halfway, ended, catalog, report, wait_for, show
    ):
        job_id = halfway()
        catalog.failures = [(503, {"title": "Down"})] * 1000
        wait_for(lambda: show(job_id)["state"] == "queued")
        assert show(job_id)["progress"]["message"].startswith("Waiting: catalog")
        catalog.failures = []

        assert_exact(ended(job_id), catalog, report)


class TestPoison:
    def test_a_job_that_kills_its_worker_ends(
        self, fleet, submit, ended, catalog, wait_for
    ):
        """The catalog's answer, of all things, ends the process."""
        poison = fleet.folder / "sitecustomize.py"
        poison.write_text(
            "import os\n"
            "from flagon_worker import clients\n"
            "clients.Catalog.upsert = lambda *_, **__: os._exit(9)\n"
        )
        environment = {
            "PYTHONPATH": str(fleet.folder),
            "WORKER_CRASHES_MAX": "2",
            "WORKER_LEASE_SECONDS": "1",
        }
        fleet.kill("bulk")
        fleet.start("poisoned", *BULK, **environment)

        job = ended(submit(b"sku,name\na,A\n").json["id"])

        assert job["state"] == "failed"
        assert "took its worker down 2 times" in job["error"]
        assert catalog.calls == []


class TestManyWorkers:
    def test_share_jobs_and_do_each_once(self, fleet, submit, ended, catalog):
        fleet.start("second", *BULK)

        ids = [submit(b"sku,name\nx%d,A\n" % number).json["id"] for number in range(12)]

        assert all(ended(job_id)["attempts"] == 1 for job_id in ids)
        assert len(catalog.calls) == 12


def test_takes_little_memory(fleet, wait_for):
    """A process of each kind, at rest; the numbers are checked against a wide limit."""
    found = {}
    for name, process in fleet.processes.items():
        parent = psutil.Process(process.pid)
        for number, each in enumerate([parent, *parent.children()]):
            found[f"{name}{number or ''}"] = each.memory_full_info().pss // 2**20
    assert all(megabytes < 130 for megabytes in found.values()), found
