"""Real processes, and what happens when they are killed."""

import json

import pytest


def rows(count):
    lines = [f"sku-{number},Thing {number}" for number in range(count)]
    return ("sku,name\n" + "\n".join(lines) + "\n").encode()


@pytest.fixture
def show(client, bearer):
    def show(job_id):
        path = f"/api/v1/jobs/{job_id}"
        return client.get(path, headers=bearer("jobs:read", sub="me")).json

    return show


def ended(show, job_id):
    return lambda: show(job_id)["state"] in {"succeeded", "failed", "cancelled"}


def test_carries_a_job_from_the_post_to_the_catalog(
    stack, submit, show, catalog, wait_for
):
    stack.start("relay", "relay")
    stack.start("bulk", "celery", "--queues", "bulk,maintenance")
    stack.start("beat", "beat")
    stack.start("consumer", "consumer")

    job_id = submit(rows(1000), headers={"X-Request-ID": "a-request-of-mine"}).json[
        "id"
    ]
    wait_for(ended(show, job_id))

    assert show(job_id)["result"] == {
        "created": 1000,
        "updated": 0,
        "unchanged": 0,
        "refused": 0,
    }
    assert [key for key, _ in catalog.calls] == [f"{job_id}:{n}" for n in range(10)]
    assert {h["X-Request-ID"] for _, h in catalog.calls} == {"a-request-of-mine"}
    wait_for(
        lambda: (
            'flagon_jobs_total{kind="import",outcome="succeeded"} 1.0'
            in stack.get("bulk", "/metrics")
        )
    )
    print(stack.get("bulk", "/metrics"))
    print(json.dumps(show(job_id)))
