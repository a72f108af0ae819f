import pytest

BUTTONS = {
    "queued": {"Cancel the job"},
    "running": {"Cancel the job"},
    "succeeded": {"Delete for good"},
    "failed": {"Try again", "Delete for good"},
    "cancelled": {"Try again", "Delete for good"},
}
"""By state of a job: what may be done with it."""


def an_attempt(number, **members):
    return {
        "number": number,
        "started_at": "2026-01-02T03:04:06Z",
        "ended_at": "2026-01-02T03:04:07Z",
        "worker": f"worker-{number}",
        "outcome": "crashed",
        "error": None,
        **members,
    }


def a_line(number, **members):
    return {
        "number": number,
        "at": "2026-01-02T03:04:06Z",
        "level": "info",
        "text": f"line {number}",
        **members,
    }


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

    def test_says_so_when_the_jobs_api_is_down(self, signed_in, platform, a_job):
        platform.down.add("worker")

        for path in ("/jobs", f"/jobs/{a_job()['id']}"):
            answer = signed_in.get(path)
            assert answer.status_code == 503
            assert "Jobs cannot be shown right now" in answer.text
            assert 'aria-label="Back office"' in answer.text
            assert "Retry-After" in answer.headers
            assert f'href="{path}">Try again' in answer.text

    def test_are_filtered_by_state_and_kind(self, signed_in, platform, a_job):
        failed = platform.add_job(a_job("failed"))
        export = platform.add_job(a_job("failed", kind="export", upload=None))
        other = platform.add_job(a_job("succeeded"))

        text = signed_in.get("/jobs?state=failed").text
        assert failed["id"] in text
        assert other["id"] not in text
        assert '<option value="failed" selected>' in text
        text = signed_in.get("/jobs?state=failed&kind=export").text
        assert export["id"] in text
        assert failed["id"] not in text
        assert "No such jobs" in signed_in.get("/jobs?state=queued").text

    def test_keep_the_filter_from_page_to_page(self, signed_in, platform, a_job):
        for _ in range(21):
            platform.add_job(a_job("failed"))

        text = signed_in.get("/jobs?state=failed&kind=import").text

        assert "/jobs?state=failed&amp;kind=import&amp;after=20" in text

    def test_take_no_state_that_is_none(self, signed_in, platform):
        assert signed_in.get("/jobs?state=%22%3E%3Cscript%3E").status_code == 200
        assert not any("state" in path for _, path in platform.calls if "jobs" in path)

    def test_are_shown_without_the_names_of_kinds(self, signed_in, platform, a_job):
        job = platform.add_job(a_job())
        platform.silent.add("/kinds")

        assert job["id"] in signed_in.get("/jobs").text


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


class TestHistory:
    def test_shows_attempts_and_log(self, signed_in, platform, a_job):
        job = platform.add_job(a_job("failed", attempts=12))
        platform.attempts = [an_attempt(12 - n) for n in range(12)]
        platform.lines = [a_line(n) for n in range(1, 121)]
        page = f"/jobs/{job['id']}"

        first = signed_in.get(page).text
        later = signed_in.get(f"{page}?lines=100&attempts=10").text

        assert "worker-12<" in first
        assert "worker-2<" not in first
        assert "Crashed" in first
        assert "line 100<" in first
        assert "line 101<" not in first
        assert "lines=100" in first
        assert "line 101<" in later
        assert "line 100<" not in later
        assert "worker-2<" in later
        assert "Newest attempts" in later
        assert "First lines" in later

    def test_says_when_there_is_none(self, signed_in, platform, a_job):
        text = signed_in.get(f"/jobs/{platform.add_job(a_job())['id']}").text

        assert "Nobody has worked on it yet." in text
        assert "It has said nothing yet." in text

    def test_does_not_keep_the_job_from_being_shown(self, signed_in, platform, a_job):
        job = platform.add_job(a_job())
        platform.silent |= {"/attempts", "/log"}

        answer = signed_in.get(f"/jobs/{job['id']}")

        assert answer.status_code == 200
        assert "The log cannot be shown right now" in answer.text
        assert "The attempts cannot be shown right now" in answer.text

    def test_runs_no_script_of_a_log_line(self, signed_in, platform, a_job):
        evil = "</li><script>alert(1)</script><img src=x onerror=alert(1)>"
        job = platform.add_job(a_job("failed", kind=evil, owner=evil))
        platform.lines = [a_line(1, text=evil, level="error")]
        platform.attempts = [an_attempt(1, worker=evil, error=evil, outcome=evil)]

        text = signed_in.get(f"/jobs/{job['id']}").text

        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert text.count("&lt;script&gt;") >= 4


class TestButtons:
    def shown(self, browser, job):
        text = browser.get(f"/jobs/{job['id']}").text
        return {
            words for words in set().union(*BUTTONS.values()) if f">{words}<" in text
        }

    @pytest.mark.parametrize("state", BUTTONS)
    def test_are_those_that_the_api_allows(self, signed_in, platform, a_job, state):
        job = platform.add_job(a_job(state))

        assert self.shown(signed_in, job) == BUTTONS[state]

    @pytest.mark.parametrize("state", BUTTONS)
    def test_are_not_for_those_who_only_read(self, browser, platform, a_job, state):
        platform.role = "customer"
        browser.sign_in(platform)
        job = platform.add_job(a_job(state))

        assert self.shown(browser, job) == set()
        for step in ("cancel", "retry", "delete"):
            answer = browser.submit(f"/jobs/{job['id']}/{step}", etag='"v3"')
            assert answer.status_code == 403
        assert job["state"] == state

    def test_leave_poison_to_operators(self, signed_in, platform, a_job):
        job = platform.add_job(a_job("failed", dead="poison", error="It crashed."))

        assert "Try again" not in self.shown(signed_in, job)
        assert "Tell an operator" in signed_in.get(f"/jobs/{job['id']}").text

    def test_show_poison_to_operators(self, operator, platform, a_job):
        job = platform.add_job(a_job("failed", dead="poison"))

        assert "Try again" in self.shown(operator, job)


class TestRetryJob:
    def test_queues_it_again(self, signed_in, platform, a_job):
        job = platform.add_job(a_job("failed"))

        answer = signed_in.submit(f"/jobs/{job['id']}/retry")

        assert answer.location == f"/jobs/{job['id']}"
        assert job["state"] == "queued"

    def test_says_when_somebody_was_faster(self, signed_in, platform, a_job):
        job = platform.add_job(a_job("running"))

        answer = signed_in.submit(f"/jobs/{job['id']}/retry")

        assert "The job is on its way." in signed_in.get(answer.location).text

    def test_does_not_pretend_when_the_jobs_api_is_down(
        self, signed_in, platform, a_job
    ):
        job = platform.add_job(a_job("failed"))
        platform.down.add("worker")

        answer = signed_in.submit(f"/jobs/{job['id']}/retry")

        assert answer.status_code == 503
        assert "Look before you repeat it" in answer.text


class TestDeleteJob:
    def test_forgets_what_the_person_saw(self, signed_in, platform, a_job):
        job = platform.add_job(a_job("succeeded"))
        page = signed_in.get(f"/jobs/{job['id']}").text
        assert 'name="etag" value="&#34;v3&#34;"' in page

        answer = signed_in.submit(f"/jobs/{job['id']}/delete", etag='"v3"')

        assert answer.location == "/jobs"
        assert job["id"] not in platform.jobs
        assert "are deleted" in signed_in.get("/jobs").text

    def test_leaves_what_changed_meanwhile(self, signed_in, platform, a_job):
        job = platform.add_job(a_job("failed", version=4))

        answer = signed_in.submit(f"/jobs/{job['id']}/delete", etag='"v3"')

        assert answer.location == f"/jobs/{job['id']}"
        assert job["id"] in platform.jobs
        assert "It changed since you looked" in signed_in.get(answer.location).text

    @pytest.mark.parametrize("etag", ["", "*", 'W/"v3"', '"v3", "v4"', '"a"\r\nX: y'])
    def test_takes_one_tag_of_ours(self, signed_in, platform, a_job, etag):
        job = platform.add_job(a_job("failed"))

        answer = signed_in.submit(f"/jobs/{job['id']}/delete", etag=etag)

        assert answer.status_code == 400
        assert job["id"] in platform.jobs


class TestOffice:
    def test_is_for_those_who_may_start_jobs(self, browser, platform):
        assert browser.get("/back-office").location == "/sign-in?next=/back-office"
        platform.role = "customer"
        browser.sign_in(platform)
        assert browser.get("/back-office").status_code == 403
        assert "Back office" not in browser.get("/").text

    def test_has_an_entry_in_the_menu(self, signed_in):
        assert 'href="/back-office"' in signed_in.get("/").text
        assert signed_in.get("/back-office").status_code == 200


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

        assert "has finished already" in signed_in.get(answer.location).text

    def test_of_somebody_else_is_refused(self, signed_in, platform, a_job):
        csrf = signed_in.csrf()
        platform.refuse["worker"] = (404, "")

        answer = signed_in.post(f"/jobs/{a_job()['id']}/cancel", {"csrf_token": csrf})

        assert answer.status_code == 404


class TestPaging:
    def test_passes_the_cursor_on(self, signed_in, platform):
        signed_in.get("/jobs?after=abc")

        assert any("cursor=abc" in path for _, path in platform.calls)
