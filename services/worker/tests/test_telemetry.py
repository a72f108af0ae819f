"""What a scrape shows, of queues and of processes that come and go."""

import re

import pytest
from pydantic import SecretStr

from flagon_chassis import queue
from flagon_chassis.queue import publisher
from flagon_worker import telemetry
from flagon_worker.domain import fairness

NOWHERE = "redis://127.0.0.1:1/0"

ONE = ("celery", "--queues", "interactive,maintenance", "--concurrency", "1")


@pytest.fixture
def alone(stack):
    """The test's processes, gone after it: the next one counts what waits."""
    yield stack
    for name in list(stack.processes):
        stack.kill(name)


def value(text, name, **labels):
    wanted = ",".join(f'{key}="{labels[key]}"' for key in labels)
    found = re.search(rf"^{name}\{{{re.escape(wanted)}\}} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else None


class TestQueues:
    @pytest.mark.parametrize("messages", [0, 3])
    def test_show_what_waits_though_no_worker_runs(
        self, client, submit_probe, settings, app, messages, change
    ):
        for _ in range(2):
            change(submit_probe()["id"], queued_at="2026-01-01T00:00:00Z")
        celery = app.extensions["celery"]
        for number in range(messages):
            queue.publish(
                celery,
                "worker.run_job",
                queue="interactive",
                kwargs={},
                headers={},
                task_id=str(number),
            )

        text = client.get("/metrics").get_data(as_text=True)

        depth = value(text, "flagon_queue_depth", queue="interactive")
        assert depth == max(2, messages)
        oldest = value(text, "flagon_queue_oldest_seconds", queue="interactive")
        assert oldest > 86_400
        assert value(text, "flagon_queue_depth", queue="mail") == 0

    def test_do_not_keep_the_rest_from_being_shown(self, app, settings, capsys):
        away = publisher(
            settings.model_copy(update={"redis_store_url": SecretStr(NOWHERE)}),
            "worker",
        )

        with app.app_context():
            telemetry.measure_queues(away, fairness.Rules())

        assert "queues_not_measured" in capsys.readouterr().out

    def test_are_right_whichever_process_of_the_server_is_asked(
        self, alone, settings, submit_probe, jwks_url
    ):
        alone.start(
            "serve",
            "serve",
            WORKER_JWKS_URL=jwks_url,
            WORKER_PUBLIC_URL=settings.public_url,
            WORKER_WORKERS="2",
        )
        found = []
        for _ in range(3):
            submit_probe()
            found += [
                value(
                    alone.get("serve", "/metrics"),
                    "flagon_queue_depth",
                    queue="interactive",
                )
                for _ in range(4)
            ]

        assert found == [1.0] * 4 + [2.0] * 4 + [3.0] * 4

    def test_show_what_a_worker_has_in_hand(
        self, alone, submit_probe, finished, wait_for
    ):
        def in_hand():
            text = alone.get("one", "/metrics")
            return value(text, "flagon_queue_in_flight", queue="interactive")

        alone.start("relay", "relay")
        alone.start("one", *ONE)
        assert in_hand() == 0

        job = submit_probe(seconds=2)["id"]
        wait_for(lambda: in_hand() == 1)
        finished(job)

        wait_for(lambda: in_hand() == 0)


class TestRecycledProcesses:
    def test_keep_what_they_counted(
        self, alone, settings, submit_probe, finished, client, bearer
    ):
        alone.start("relay", "relay")
        alone.start("one", *ONE, WORKER_TASKS_PER_PROCESS="2")

        # One after the other: those that wait together are one task.
        ids = [finished(submit_probe()["id"])["id"] for _ in range(9)]

        text = alone.get("one", "/metrics")
        counted = value(text, "flagon_jobs_total", kind="probe", outcome="succeeded")
        assert counted == 9
        processes = {
            client.get(
                f"/api/v1/jobs/{job_id}/attempts",
                headers=bearer("jobs:read", "jobs:manage", sub="operator"),
            ).json["items"][0]["worker"]
            for job_id in ids
        }
        assert len(processes) >= 4
