"""The schedules API, and what becomes of firings."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from flagon_worker import tasks_schedules
from flagon_worker.domain import firing, jobs, schedule, schedules
from flagon_worker.models import Job, Schedule, ScheduleFiring

PATH = "/api/v1/schedules"
NIGHTLY = {
    "name": "nightly",
    "kind": "probe",
    "params": {"seconds": 0},
    "cron": "30 2 * * *",
    "time_zone": "Europe/Berlin",
}


@pytest.fixture
def connection(database_url):
    """What beat has of the database, with the platform's schedules as they are at first."""
    with psycopg.connect(
        database_url.replace("+psycopg", ""), autocommit=True
    ) as connection:
        connection.execute("delete from schedule")
        firing.seed(connection, schedule.entries(3.0), datetime.now(UTC))
        yield connection
        connection.execute("delete from schedule")


@pytest.fixture
def operator(bearer):
    return bearer("jobs:read", "jobs:write", "jobs:manage", sub="op")


@pytest.fixture
def ask(client, operator, connection):
    """Sends a request as an operator."""

    def ask(method, path="", match=None, **options):
        headers = {**operator, **({"If-Match": match} if match else {})}
        headers |= options.pop("headers", {})
        return client.open(PATH + path, method=method, headers=headers, **options)

    return ask


@pytest.fixture
def create(ask):
    def create(**fields):
        response = ask("POST", json={**NIGHTLY, **fields})
        assert response.status_code == 201, response.json
        return response.json

    return create


@pytest.fixture
def change(ask):
    def change(view, **fields):
        tag = ask("GET", f"/{view['id']}").headers["ETag"]
        return ask("PATCH", f"/{view['id']}", tag, json=fields)

    return change


@pytest.fixture
def platform(ask):
    """Returns one of the platform's own schedules."""

    def platform(name="purge"):
        items = ask("GET").json["items"]
        return next(item for item in items if item["name"] == name)

    return platform


class TestCreateSchedule:
    def test_answers_with_the_schedule_and_its_next_run(self, ask):
        response = ask("POST", json=NIGHTLY)

        assert response.status_code == 201
        view = response.json
        assert response.headers["Location"] == f"{PATH}/{view['id']}"
        assert view["owner"] == "op"
        assert view["catch_up"] == "once"
        assert (view["enabled"], view["version"]) == (True, 1)
        assert datetime.fromisoformat(view["next_run_at"]) > datetime.now(UTC)
        assert (view["last_run_at"], view["last_firing"]) == (None, None)

    def test_has_one_effect_for_one_key(self, ask):
        headers = {"Idempotency-Key": str(uuid4())}

        first = ask("POST", json=NIGHTLY, headers=headers)
        second = ask("POST", json=NIGHTLY, headers=headers)

        assert first.json == second.json
        assert second.headers["Idempotent-Replayed"] == "true"

    def test_refuses_a_taken_name(self, create, ask):
        create()

        response = ask("POST", json=NIGHTLY)

        assert response.status_code == 409
        assert response.json["type"].endswith("#schedule-name-taken")

    def test_waits_up_to_the_jitter_longer(self, create):
        view = create(cron=None, interval_seconds=86_400, jitter_seconds=3600)

        wait = datetime.fromisoformat(view["next_run_at"]) - datetime.now(UTC)
        assert timedelta(hours=23.9) < wait <= timedelta(hours=25)

    @pytest.mark.parametrize(
        ("fields", "pointer"),
        [
            ({"cron": "61 * * * *"}, "#/cron"),
            ({"cron": "0 0 30 2 *"}, "#/cron"),
            ({"cron": None}, "#"),
            ({"interval_seconds": 60}, "#"),
            ({"cron": None, "interval_seconds": 9}, "#/interval_seconds"),
            ({"cron": None, "interval_seconds": 60, "jitter_seconds": 60}, "#"),
            ({"time_zone": "Mars/Base"}, "#/time_zone"),
            ({"time_zone": "../../etc/passwd"}, "#/time_zone"),
            ({"jitter_seconds": 3601}, "#/jitter_seconds"),
            ({"catch_up": "later"}, "#/catch_up"),
            ({"name": "Ä"}, "#/name"),
            ({"params": {"seconds": 61}}, "#/params/seconds"),
            ({"params": {"oops": 1}}, "#/params/oops"),
            ({"task": "worker.purge"}, "#/task"),
        ],
    )
    def test_refuses_what_is_not_right(self, ask, fields, pointer):
        response = ask("POST", json={**NIGHTLY, **fields})

        assert response.status_code == 422
        assert pointer in {error["pointer"] for error in response.json["errors"]}

    @pytest.mark.parametrize(
        ("kind", "slug"),
        [("dance", "kind-unknown"), ("import", "kind-not-schedulable")],
    )
    def test_refuses_kinds_that_cannot_start_by_themselves(self, ask, kind, slug):
        response = ask("POST", json={**NIGHTLY, "kind": kind})

        assert response.status_code == 422
        assert response.json["type"].endswith(f"#{slug}")

    def test_needs_the_scope_of_the_kind(self, client, bearer):
        headers = bearer("jobs:manage")

        response = client.post(
            PATH, json={**NIGHTLY, "kind": "import"}, headers=headers
        )

        assert response.status_code == 403

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_is_for_operators(self, client, bearer, method):
        headers = bearer("jobs:read", "jobs:write")

        response = client.open(PATH, method=method, json=NIGHTLY, headers=headers)

        assert response.status_code == 403


class TestListSchedules:
    def test_goes_by_name_in_pages(self, ask, create):
        for name in ("b", "a", "zz"):
            create(name=name)

        first = ask("GET", query_string={"limit": 3}).json
        second = ask("GET", query_string={"cursor": first["next_cursor"]}).json

        names = [item["name"] for page in (first, second) for item in page["items"]]
        assert names == ["a", "b", "purge", "reap", "webhooks", "zz"]
        assert second["next_cursor"] is None


class TestFindSchedule:
    def test_is_not_sent_twice(self, ask, create):
        path = f"/{create()['id']}"
        tag = ask("GET", path).headers["ETag"]

        response = ask("GET", path, headers={"If-None-Match": tag})

        assert response.status_code == 304

    def test_is_sent_again_after_a_run(self, ask, create):
        path = f"/{create()['id']}"
        tag = ask("GET", path).headers["ETag"]
        ask("POST", path + "/run")

        response = ask("GET", path, headers={"If-None-Match": tag})

        assert response.status_code == 200
        assert response.json["version"] == 1

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", ""),
            ("PATCH", ""),
            ("DELETE", ""),
            ("POST", "/run"),
            ("POST", "/pause"),
            ("POST", "/resume"),
        ],
    )
    def test_that_is_not_there_is_a_404(self, ask, method, path):
        options = {"json": {}} if method == "PATCH" else {}

        response = ask(method, f"/{uuid4()}{path}", '"v1"', **options)

        assert response.status_code == 404
        assert response.json["type"].endswith("#schedule-not-found")


class TestChangeSchedule:
    def test_changes_what_is_given(self, create, change):
        view = create()

        changed = change(view, cron=None, interval_seconds=600).json

        assert changed["version"] == 2
        assert (changed["cron"], changed["interval_seconds"]) == (None, 600)
        wait = datetime.fromisoformat(changed["next_run_at"]) - datetime.now(UTC)
        assert timedelta(seconds=590) < wait <= timedelta(seconds=600)

    def test_takes_another_name_and_other_params(self, create, change):
        changed = change(create(), name="other", params={"seconds": 2}).json

        assert (changed["name"], changed["params"]["seconds"]) == ("other", 2.0)

    def test_that_changes_nothing_is_no_version(self, create, change):
        changed = change(create(), cron="30 2 * * *").json

        assert changed["version"] == 1

    @pytest.mark.parametrize(
        ("fields", "status"),
        [
            ({"interval_seconds": 600}, 422),
            ({"cron": None}, 422),
            ({"cron": None, "interval_seconds": 1}, 422),
            ({"params": {"seconds": -1}}, 422),
            ({"kind": "import"}, 422),
            ({"name": None}, 422),
            ({"owner": "me"}, 422),
            ({"name": "purge"}, 409),
        ],
    )
    def test_refuses_what_is_not_right(self, create, change, fields, status):
        assert change(create(), **fields).status_code == status

    def test_needs_the_version_that_was_read(self, ask, create, change):
        view = create()
        tag = ask("GET", f"/{view['id']}").headers["ETag"]
        change(view, enabled=False)

        missing = ask("PATCH", f"/{view['id']}", json={"enabled": True})
        stale = ask("PATCH", f"/{view['id']}", tag, json={"enabled": True})

        assert (missing.status_code, stale.status_code) == (428, 412)

    def test_is_not_in_the_way_of_a_firing(self, ask, create):
        view = create()
        tag = ask("GET", f"/{view['id']}").headers["ETag"]
        ask("POST", f"/{view['id']}/run")

        response = ask("PATCH", f"/{view['id']}", tag, json={"catch_up": "all"})

        assert response.status_code == 200

    def test_takes_no_other_type(self, ask, create):
        view = create()

        response = ask("PATCH", f"/{view['id']}", '"v1"', data="x")

        assert response.status_code == 415


class TestPauseSchedule:
    def test_waits_for_nothing_until_it_is_resumed(self, ask, create):
        path = f"/{create()['id']}"

        paused = ask("POST", path + "/pause").json
        again = ask("POST", path + "/pause").json
        resumed = ask("POST", path + "/resume").json

        assert (paused["enabled"], paused["next_run_at"]) == (False, None)
        assert again["version"] == paused["version"] == 2
        assert resumed["enabled"]
        assert resumed["next_run_at"] is not None


class TestDeleteSchedule:
    def test_forgets_it_and_its_firings(self, ask, create, begin):
        view = create()
        ask("POST", f"/{view['id']}/run")
        tag = ask("GET", f"/{view['id']}").headers["ETag"]

        response = ask("DELETE", f"/{view['id']}", tag)

        assert response.status_code == 204
        assert ask("GET", f"/{view['id']}").status_code == 404
        with begin() as session:
            assert session.query(ScheduleFiring).count() == 0
            assert session.query(Job).count() == 1

    def test_needs_the_version_that_was_read(self, ask, create):
        assert ask("DELETE", f"/{create()['id']}").status_code == 428


class TestThePlatformsOwn:
    def test_are_there_and_say_what_they_bear(self, platform):
        view = platform("reap")

        assert view["task"] == "worker.reap_jobs"
        assert (view["kind"], view["owner"]) == (None, None)
        assert view["interval_seconds"] == 3.0
        assert view["bounds"] == {"least_seconds": 0.6, "most_seconds": 60.0}

    def test_can_be_changed_within_bounds_and_paused(self, platform, change, ask):
        view = platform()

        changed = change(view, interval_seconds=7200, jitter_seconds=5)
        paused = ask("POST", f"/{view['id']}/pause")

        assert changed.json["interval_seconds"] == 7200
        assert not paused.json["enabled"]

    @pytest.mark.parametrize("seconds", [10, 719, 72_001, None])
    def test_refuse_other_intervals(self, platform, change, seconds):
        response = change(platform(), interval_seconds=seconds)

        assert response.status_code == 422
        assert response.json["type"].endswith("#interval-out-of-bounds")

    @pytest.mark.parametrize(
        "fields",
        [
            {"name": "other"},
            {"kind": "probe"},
            {"cron": "* * * * *"},
            {"catch_up": "all"},
            {"params": {"a": 1}},
        ],
    )
    def test_refuse_other_changes(self, platform, change, fields):
        response = change(platform(), **fields)

        assert response.status_code == 409
        assert response.json["type"].endswith("#schedule-fixed")

    def test_cannot_be_deleted(self, platform, ask):
        path = f"/{platform()['id']}"
        tag = ask("GET", path).headers["ETag"]

        assert ask("DELETE", path, tag).status_code == 409

    def test_run_at_once(self, platform, ask, outbox):
        response = ask("POST", f"/{platform()['id']}/run")

        assert response.json["last_firing"]["outcome"] == "sent"
        (task,) = outbox("task")
        assert (task.name, task.body["queue"]) == ("worker.purge", "maintenance")

    def test_keep_what_was_edited_when_beat_comes_back(
        self, platform, change, connection
    ):
        change(platform(), interval_seconds=7200)

        firing.seed(connection, schedule.entries(5.0), datetime.now(UTC))

        assert platform()["interval_seconds"] == 7200
        # Nobody edited this one: it follows the setting.
        assert platform("reap")["interval_seconds"] == 5.0


class TestRunSchedule:
    def test_hands_in_a_job_at_once(self, ask, create, outbox):
        view = create(enabled=False)

        response = ask("POST", f"/{view['id']}/run")

        assert response.status_code == 202
        last = response.json["last_firing"]
        assert (last["cause"], last["outcome"]) == ("person", "queued")
        (task,) = outbox("task")
        assert task.name == jobs.TASK
        assert task.subject == last["job_id"]

    def test_says_what_came_of_it(self, ask, create, run):
        view = create()
        job_id = ask("POST", f"/{view['id']}/run").json["last_firing"]["job_id"]

        assert run(job_id)["state"] == "succeeded"

        last = ask("GET", f"/{view['id']}").json["last_firing"]
        assert last["outcome"] == "succeeded"

    def test_has_one_effect_for_one_key(self, ask, create, outbox):
        path = f"/{create()['id']}/run"
        headers = {"Idempotency-Key": "once"}

        ask("POST", path, headers=headers)
        ask("POST", path, headers=headers)

        assert len(outbox("task")) == 1


@pytest.fixture
def fired(create, connection):
    """A schedule that beat has fired: its view, and the firing's id."""
    view = create()
    connection.execute(
        "update schedule set next_due_at = now(), next_run_at = now() where id = %s",
        [view["id"]],
    )
    connection.execute("update schedule set enabled = false where task is not null")
    fired = firing.fire_next(connection, datetime.now(UTC) + timedelta(seconds=1))
    assert fired.schedule == "nightly"
    (row,) = connection.execute("select id from schedule_firing").fetchall()
    return view, row[0]


def start(firing_id):
    tasks_schedules.start_scheduled.apply(kwargs={"firing_id": str(firing_id)}).get()


class TestStartScheduled:
    @pytest.fixture(autouse=True)
    def _due_now(self, connection, monkeypatch):
        # The due time is what the test says, whatever the expression.
        monkeypatch.setattr(
            "flagon_worker.domain.times.Timing.missed",
            lambda _self, since, _until, _most: [since],
        )

    def test_makes_one_job_however_often_it_is_told(self, fired, ask, begin):
        view, firing_id = fired
        assert ask("GET", f"/{view['id']}").json["last_firing"]["outcome"] == "sent"

        start(firing_id)
        start(firing_id)

        last = ask("GET", f"/{view['id']}").json["last_firing"]
        assert (last["cause"], last["outcome"]) == ("time", "queued")
        with begin() as session:
            (job,) = session.query(Job)
        assert (str(job.id), job.owner) == (last["job_id"], "op")
        assert job.params["seconds"] == 0.0

    def test_of_a_kind_that_is_gone_says_so(self, fired, ask, connection):
        view, firing_id = fired
        connection.execute("update schedule set kind = 'gone' where task is null")

        start(firing_id)

        last = ask("GET", f"/{view['id']}").json["last_firing"]
        assert last["outcome"] == "refused"
        assert "gone" in last["error"]

    def test_of_a_schedule_that_was_deleted_does_nothing(
        self, fired, begin, connection
    ):
        connection.execute("delete from schedule")

        start(fired[1])

        with begin() as session:
            assert session.query(Job).count() == 0

    def test_is_asked_for_again_while_nobody_does_it(self, fired, connection, outbox):
        _, firing_id = fired
        now = datetime.now(UTC)
        late = now + timedelta(seconds=30)
        assert firing.ask_again(connection, now) == 0
        # The relay still has the message.
        assert firing.ask_again(connection, late) == 0
        connection.execute("update outbox set sent_at = now()")

        assert firing.ask_again(connection, late) == 1
        assert firing.ask_again(connection, late) == 0

        last = outbox("task")[-1]
        assert last.body["kwargs"] == {"firing_id": str(firing_id)}
        start(firing_id)
        connection.execute("update outbox set sent_at = now()")
        assert firing.ask_again(connection, late + timedelta(days=1)) == 0


class TestPurgeFirings:
    def test_keeps_what_is_young_or_undone(self, connection, create, ask, begin):
        path = f"/{create()['id']}"
        for _ in range(3):
            ask("POST", path + "/run")
        connection.execute(
            "update schedule_firing set fired_at = now() - interval '31 days'"
            " where id in (select id from schedule_firing order by id limit 2)"
        )
        connection.execute(
            "update schedule_firing set ask_at = now()"
            " where id = (select min(id::text)::uuid from schedule_firing)"
        )

        with begin() as session:
            gone = schedules.purge_firings(session, keep=timedelta(days=30))

        assert gone == 1
        assert ask("GET", path).json["last_firing"] is not None

    def test_forgets_those_of_the_platform_after_an_hour(
        self, platform, ask, connection, begin
    ):
        ask("POST", f"/{platform()['id']}/run")
        connection.execute(
            "update schedule_firing set fired_at = now() - interval '61 minutes'"
        )

        with begin() as session:
            gone = schedules.purge_firings(session, keep=timedelta(days=30))

        assert gone == 1
        assert platform()["last_firing"] is None


def test_view_has_the_times_of_the_row(begin, create):
    view = create()
    with begin() as session:
        row = session.get_one(Schedule, UUID(view["id"]))
    assert row.next_due_at == datetime.fromisoformat(view["next_run_at"])
