class TestJobs:
    def test_lists_them(self, signed_in, platform, a_job):
        done = a_job("succeeded", result={"created": 9988, "refused": 12})
        platform.add_job(done)
        platform.add_job(a_job("running", kind="tidy_up", upload=None))
        platform.add_job(a_job("running", params={"dry_run": True}))

        text = signed_in.get("/jobs").text

        assert "9,988 created" in text
        assert "12 refused" in text
        assert "0 updated" not in text
        assert "Import of books.csv" in text
        assert "Check of books.csv" in text
        assert "Tidy up" in text
        assert f'href="/jobs/{done["id"]}"' in text

    def test_says_when_there_are_none(self, signed_in, browser, platform):
        assert "No jobs yet" in signed_in.get("/jobs").text

    def test_are_for_people_who_are_signed_in(self, browser):
        assert browser.get("/jobs").location == "/sign-in?next=/jobs"

    def test_says_so_when_the_jobs_api_is_down(self, signed_in, platform):
        platform.down.add("worker")

        assert signed_in.get("/jobs").status_code == 503


class TestJob:
    def test_shows_its_progress_and_refreshes_without_scripts(
        self, signed_in, platform, a_job
    ):
        job = platform.add_job(a_job("running"))

        text = signed_in.get(f"/jobs/{job['id']}").text

        assert 'max="100" value="50"' in text
        assert "500 of 1,000 rows" in text
        assert '<noscript><meta http-equiv="refresh"' in text
        assert "Cancel the job" in text

    def test_shows_its_result_and_report(self, signed_in, platform, a_job):
        url = "/api/v1/jobs/1/artefacts/refused.csv"
        job = platform.add_job(
            a_job(
                "succeeded",
                result={"created": 9988, "refused": 12},
                artefacts=[{"name": "refused.csv", "url": url}],
            )
        )

        text = signed_in.get(f"/jobs/{job['id']}").text

        assert "9,988" in text
        assert f'href="{url}"' in text
        assert "(10.0 s)" in text
        assert "http-equiv" not in text

    def test_shows_why_it_failed(self, signed_in, platform, a_job):
        plain = platform.add_job(a_job("failed", error="It is no table."))
        rich = platform.add_job(a_job("failed", error={"title": "It is broken."}))
        silent = platform.add_job(a_job("failed"))

        assert "It is no table." in signed_in.get(f"/jobs/{plain['id']}").text
        assert "It is broken." in signed_in.get(f"/jobs/{rich['id']}").text
        assert "could not be completed" in signed_in.get(f"/jobs/{silent['id']}").text

    def test_of_somebody_else_is_a_404(self, signed_in, a_job):
        answer = signed_in.get(f"/jobs/{a_job()['id']}")

        assert answer.status_code == 404
        assert "There is no such page" in answer.text

    def test_links_to_nothing_but_the_jobs_api(self, signed_in, platform, a_job):
        evil = [{"name": "x", "url": "javascript:alert(1)"}]
        job = platform.add_job(a_job("succeeded", artefacts=evil))

        answer = signed_in.get(f"/jobs/{job['id']}")

        assert "javascript:" not in answer.text


class TestCancelJob:
    def test_asks_it_to_stop(self, signed_in, platform, a_job):
        job = platform.add_job(a_job("running"))

        answer = signed_in.submit(f"/jobs/{job['id']}/cancel")

        assert answer.location == f"/jobs/{job['id']}"
        assert job["state"] == "cancelled"

    def test_is_not_offered_twice(self, signed_in, platform, a_job):
        job = platform.add_job(a_job("running", cancel_requested=True))

        text = signed_in.get(f"/jobs/{job['id']}").text

        assert "Stopping…" in text
        assert "Cancel the job" not in text

    def test_says_when_it_was_too_late(self, signed_in, platform, a_job):
        job = platform.add_job(a_job("succeeded"))

        answer = signed_in.submit(f"/jobs/{job['id']}/cancel")

        assert "had finished already" in signed_in.get(answer.location).text

    def test_of_somebody_else_is_refused(self, signed_in, platform, a_job):
        csrf = signed_in.csrf()
        platform.refuse["worker"] = (404, "")

        answer = signed_in.post(f"/jobs/{a_job()['id']}/cancel", {"csrf_token": csrf})

        assert answer.status_code == 404


class TestPaging:
    def test_passes_the_cursor_on(self, signed_in, platform):
        signed_in.get("/jobs?after=abc")

        assert any("cursor=abc" in path for _, path in platform.calls)
