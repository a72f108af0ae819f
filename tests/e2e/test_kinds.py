"""Kinds of jobs beside the main one: a profile's import, a report, a reindex."""

import io
import json

from harness.waiting import until

JOBS = "/api/v1/jobs"
PROFILES = "/api/v1/import-profiles"
ENDED = {"succeeded", "failed", "cancelled"}


def run(client, kind, params, content=None):
    """Hand a job in and return it when it has ended."""
    files = {"kind": (None, kind), "params": (None, json.dumps(params))}
    if content is not None:
        files["file"] = ("goods.csv", io.BytesIO(content))
    made = client.post(JOBS, files=files)
    assert made.status_code == 202, made.text
    path = made.headers["Location"]

    def ended():
        job = client.get(path).json()
        return job if job["state"] in ENDED else None

    job = until(ended, 120, what=f"the end of the {kind}")
    assert job["state"] == "succeeded", job
    return job


class TestKinds:
    def test_take_their_steps_with_the_real_catalog(self, operator, word):
        with operator.client() as client:
            new = {
                "name": word,
                "mapping": {"sku": "code", "name": "title", "price": "cost"},
                "delimiter": ";",
            }
            profile = client.post(PROFILES, json=new)
            assert profile.status_code == 201, profile.text
            columns = {"columns": ["code", "title", "cost"]}
            found = client.post(f"{PROFILES}/suggest", json=columns).json()["items"]
            assert profile.json()["id"] in {item["id"] for item in found}

            rows = f"code;title;cost\n{word};{word};5,00\n".encode()
            job = run(client, "import", {"profile": profile.json()["id"]}, rows)
            assert job["result"]["created"] == 1

            job = run(client, "report", {})
            assert job["result"]["products"] >= 1
            file = client.get(job["artefacts"][0]["url"])
            assert file.headers["Content-Type"] == "application/pdf"
            assert file.content.startswith(b"%PDF-1.7")

            job = run(client, "reindex", {})
            assert job["result"].keys() == {"learned", "forgotten"}

            path = profile.headers["Location"]
            gone = client.delete(path, headers={"If-Match": profile.headers["ETag"]})
            assert gone.status_code == 204
