import pytest

PAGE = "/back-office/schedules"
WRITTEN = {
    "key": "0" * 32,
    "name": "nightly",
    "kind": "export",
    "params": '{"format": "csv"}',
    "timing": "cron",
    "cron": "30 2 * * *",
    "interval_seconds": "",
    "time_zone": "Europe/Berlin",
    "jitter_seconds": "0",
    "catch_up": "once",
}


class TestSchedules:
    def test_lists_them_with_next_and_last_run(self, operator, a_schedule):
        one = a_schedule(
            last_run_at="2026-01-02T01:30:00Z",
            last_firing={"fired_at": "2026-01-02T01:30:00Z", "outcome": "succeeded"},
        )
        a_schedule(name="reap", task="x", cron=None, interval_seconds=7200)
        a_schedule(name="resting", enabled=False)

        text = operator.get(PAGE).text

        assert f'href="{PAGE}/{one["id"]}"' in text
        assert "30 2 * * * (Europe/Berlin)" in text
        assert 'datetime="2026-01-03T01:30:00+00:00"' in text
        assert 'datetime="2026-01-02T01:30:00+00:00"' in text
        assert "Succeeded" in text
        assert "every 2 hours" in text
        assert "Paused" in text

    def test_go_on_page_by_page(self, operator, a_schedule):
        for number in range(51):
            a_schedule(name=f"s{number}")

        assert f"{PAGE}?after=50" in operator.get(PAGE).text
        assert ">s50<" in operator.get(f"{PAGE}?after=50").text

    def test_says_when_there_are_none(self, operator):
        assert "No schedules yet" in operator.get(PAGE).text


class TestPermissions:
    @pytest.mark.parametrize("role", ["customer", "merchandiser"])
    def test_are_the_operators(self, browser, platform, a_schedule, role):
        found = a_schedule()
        platform.role = role
        browser.sign_in(platform)

        for path in (PAGE, f"{PAGE}/new", f"{PAGE}/{found['id']}"):
            assert browser.get(path).status_code == 403
        for path in ("/new", *(f"/{found['id']}{s}" for s in ("", "/run", "/pause"))):
            assert browser.submit(PAGE + path, **WRITTEN).status_code == 403
        gone = browser.submit(f"{PAGE}/{found['id']}/delete", etag='"v1"')
        assert gone.status_code == 403
        assert list(platform.schedules.values()) == [found]
        assert platform.keys == []
        assert found["version"] == 1


class TestCreateSchedule:
    def test_offers_kinds_that_need_no_file(self, operator):
        text = operator.get(f"{PAGE}/new").text

        assert '<option value="export">' in text
        assert '<option value="import">' not in text

    def test_makes_it(self, operator, platform):
        answer = operator.submit(f"{PAGE}/new", **WRITTEN)

        made = next(iter(platform.schedules.values()))
        assert answer.location == f"{PAGE}/{made['id']}"
        assert made["params"] == {"format": "csv"}
        assert (made["cron"], made["interval_seconds"]) == ("30 2 * * *", None)
        assert "nightly is made" in operator.get(answer.location).text

    def test_takes_an_interval(self, operator, platform):
        sent = {**WRITTEN, "timing": "interval", "interval_seconds": "90.5"}

        operator.submit(f"{PAGE}/new", **sent)

        made = next(iter(platform.schedules.values()))
        assert (made["cron"], made["interval_seconds"]) == (None, 90.5)

    def test_sent_twice_has_one_key(self, operator, platform):
        for _ in range(2):
            operator.submit(f"{PAGE}/new", **WRITTEN)
        operator.submit(f"{PAGE}/new", **{**WRITTEN, "name": "other"})

        assert platform.keys[0] == platform.keys[1] != platform.keys[2]

    @pytest.mark.parametrize(
        ("change", "place", "words"),
        [
            ({"cron": "never"}, "cron", "no such time"),
            ({"params": '{"format": "pdf"}'}, "params", "format: Not known"),
            ({"params": "[]"}, "params", "Write an object"),
            ({"params": "{"}, "params", "This is no JSON."),
            ({"params": "[" * 20_000}, "params", "This is no JSON."),
            ({"name": ""}, "name", "This field is required."),
            ({"name": "taken"}, "name", "Another schedule is called taken."),
            ({"jitter_seconds": "4000"}, "jitter_seconds", "between 0 and 3600"),
            ({"jitter_seconds": "nan"}, "jitter_seconds", "between 0 and 3600"),
            ({"interval_seconds": "1e400"}, "interval_seconds", "between"),
        ],
    )
    def test_says_at_the_field_what_is_wrong(
        self, operator, platform, a_schedule, change, place, words
    ):
        a_schedule(name="taken")

        answer = operator.submit(f"{PAGE}/new", **{**WRITTEN, **change})

        assert answer.status_code in {409, 422}
        _, mark, after = answer.text.partition(f'id="{place}-error"')
        assert mark
        assert words in after.partition("</p>")[0]
        assert f'aria-describedby="{place}' in answer.text
        assert "Europe/Berlin" in answer.text
        assert len(platform.schedules) == 1

    def test_says_on_top_what_is_about_no_field(self, operator):
        sent = {**WRITTEN, "time_zone": "Mars/Olympus"}

        answer = operator.submit(f"{PAGE}/new", **sent)

        assert answer.status_code == 422
        assert "nobody lives there" in answer.text

    def test_keeps_what_was_written_while_the_jobs_api_is_down(
        self, operator, platform
    ):
        platform.down.add("worker")

        answer = operator.submit(f"{PAGE}/new", **{**WRITTEN, "name": "precious"})

        assert answer.status_code == 503
        assert "What you wrote is still here" in answer.text
        assert 'value="precious"' in answer.text
        assert '<option selected value="export">' in answer.text


class TestChangeSchedule:
    def test_fills_the_form_in(self, operator, a_schedule):
        found = a_schedule(params={"format": "xlsx"}, jitter_seconds=30.0)

        text = operator.get(f"{PAGE}/{found['id']}").text

        assert 'value="30 2 * * *"' in text
        assert "&#34;format&#34;: &#34;xlsx&#34;" in text
        assert 'value="30"' in text
        assert 'name="etag" value="&#34;v1&#34;"' in text

    def test_saves_it(self, operator, a_schedule):
        found = a_schedule()

        answer = operator.submit(
            f"{PAGE}/{found['id']}", **{**WRITTEN, "cron": "0 4 * * *"}, etag='"v1"'
        )

        assert answer.status_code == 303
        assert found["cron"] == "0 4 * * *"

    def test_shows_what_somebody_else_wrote_meanwhile(self, operator, a_schedule):
        found = a_schedule(version=2, cron="15 5 * * *", jitter_seconds=7)
        sent = {**WRITTEN, "cron": "0 4 * * *"}

        answer = operator.submit(f"{PAGE}/{found['id']}", **sent, etag='"v1"')

        assert answer.status_code == 409
        assert found["cron"] == "15 5 * * *"
        assert "Somebody changed this schedule" in answer.text
        assert "is now <bdi>15 5 * * *</bdi>" in answer.text
        assert "is now <bdi>7</bdi>" in answer.text
        assert "is now <bdi>Europe/Berlin" not in answer.text
        assert 'value="0 4 * * *"' in answer.text
        assert 'name="etag" value="&#34;v2&#34;"' in answer.text

    def test_needs_the_tag(self, operator, a_schedule):
        found = a_schedule()

        answer = operator.submit(f"{PAGE}/{found['id']}", **WRITTEN)

        assert answer.status_code == 400
        assert found["version"] == 1

    def test_changes_only_the_pace_of_the_platforms_own(self, operator, a_schedule):
        bounds = {"least_seconds": 1, "most_seconds": 60}
        found = a_schedule(
            name="reap",
            kind=None,
            task="worker.reap_jobs",
            cron=None,
            interval_seconds=3,
            bounds=bounds,
        )
        page = f"{PAGE}/{found['id']}"
        text = operator.get(page).text
        assert "1 to 60 seconds." in text
        assert 'name="cron"' not in text
        assert "Delete for good" not in text

        sent = {"interval_seconds": "5", "jitter_seconds": "1", "name": "mine"}
        assert operator.submit(page, **sent, etag='"v1"').status_code == 303

        assert (found["interval_seconds"], found["jitter_seconds"]) == (5, 1)
        assert (found["name"], found["kind"]) == ("reap", None)

    def test_of_one_that_is_gone_is_a_404(self, operator, a_schedule, platform):
        found = a_schedule()
        platform.schedules.clear()

        assert operator.submit(f"{PAGE}/{found['id']}", **WRITTEN).status_code == 404


class TestSwitchSchedule:
    def test_pauses_and_resumes(self, operator, a_schedule):
        found = a_schedule()
        page = f"{PAGE}/{found['id']}"
        assert ">Pause<" in operator.get(page).text

        operator.submit(f"{page}/pause")

        assert not found["enabled"]
        text = operator.get(page).text
        assert ">Resume<" in text
        assert "not while it is paused" in text
        operator.submit(f"{page}/resume")
        assert found["enabled"]

    def test_knows_no_other_step(self, operator, a_schedule):
        assert operator.submit(f"{PAGE}/{a_schedule()['id']}/drop").status_code == 404


class TestRunSchedule:
    def test_runs_it_once_however_often_it_is_pressed(
        self, operator, a_schedule, platform
    ):
        found = a_schedule()

        for _ in range(2):
            answer = operator.submit(f"{PAGE}/{found['id']}/run", key="a" * 32)

        assert answer.location == f"{PAGE}/{found['id']}"
        assert platform.keys == ["a" * 32] * 2

    def test_sends_no_key_of_another_form(self, operator, a_schedule, platform):
        operator.submit(f"{PAGE}/{a_schedule()['id']}/run", key="x\r\nHost: y")

        assert len(platform.keys[0]) == 32


class TestDeleteSchedule:
    def test_forgets_it(self, operator, a_schedule, platform):
        found = a_schedule()

        answer = operator.submit(f"{PAGE}/{found['id']}/delete", etag='"v1"')

        assert answer.location == PAGE
        assert platform.schedules == {}

    def test_leaves_what_changed_meanwhile(self, operator, a_schedule, platform):
        found = a_schedule(version=2)

        answer = operator.submit(f"{PAGE}/{found['id']}/delete", etag='"v1"')

        assert "It changed since you looked" in operator.get(answer.location).text
        assert platform.schedules
