"""A schedule becomes jobs, through the gateway and all processes."""

from harness.waiting import until

SCHEDULES = "/api/v1/schedules"


class TestSchedule:
    def test_starts_jobs_by_itself_until_it_is_deleted(self, operator, word):
        with operator.client() as client:
            made = client.post(
                SCHEDULES,
                json={
                    "name": word,
                    "kind": "probe",
                    "params": {"seconds": 0},
                    "interval_seconds": 10,
                },
            )
            assert made.status_code == 201, made.text
            path = f"{SCHEDULES}/{made.json()['id']}"

            def ended():
                last = client.get(path).json()["last_firing"]
                return last and last["outcome"] == "succeeded" and last

            fired = until(ended, 60)

            assert fired["cause"] == "time"
            job = client.get(f"/api/v1/jobs/{fired['job_id']}").json()
            assert (job["kind"], job["state"]) == ("probe", "succeeded")
            tag = client.get(path).headers["ETag"]
            assert client.delete(path, headers={"If-Match": tag}).status_code == 204

    def test_is_the_operators(self, merchandiser):
        with merchandiser.client() as client:
            assert client.get(SCHEDULES).status_code == 403

    def test_of_the_platform_runs_all_the_time(self, operator):
        with operator.client() as client:
            items = client.get(SCHEDULES).json()["items"]
            reap = next(item for item in items if item["name"] == "reap")
            path = f"{SCHEDULES}/{reap['id']}"
            before = client.get(path).json()["last_run_at"]

            until(lambda: client.get(path).json()["last_run_at"] != before, 30)
