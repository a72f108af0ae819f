"""Who did what: every route that a person can write with leaves one row for each thing."""

import json
import re
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import select

from flagon_chassis.tables import audit as log
from flagon_worker import tasks
from flagon_worker.domain import jobs
from flagon_worker.settings import Settings

AUDIT = "/api/v1/jobs/audit"
JOBS, DEAD = "/api/v1/jobs", "/api/v1/jobs/dead"
SCHEDULES, WEBHOOKS = "/api/v1/schedules", "/api/v1/webhooks"
PROFILES = "/api/v1/import-profiles"
SCOPES = ("jobs:read", "jobs:write", "jobs:manage")


@pytest.fixture
def rows(begin):
    """A function that returns the rows since it was called last, the oldest first."""
    seen = 0

    def rows():
        nonlocal seen
        with begin() as session:
            found = session.execute(
                select(log).where(log.c.sequence > seen).order_by(log.c.sequence)
            ).all()
        seen = max([seen, *(row.sequence for row in found)])
        return found

    return rows


@pytest.fixture
def changed(rows):
    """A function that returns what the rows since then say."""
    return lambda: [
        (row.entity, row.action, row.version, tuple(sorted(row.changes)))
        for row in rows()
    ]


class World:
    """Sends requests as an operator, and makes what they are about."""

    def __init__(self, client, headers, change):
        self.client, self.headers, self.change = client, headers, change

    def __call__(self, method, path, status=None, headers=None, **options):
        headers = {**self.headers, **(headers or {})}
        if method in {"PUT", "PATCH", "DELETE"}:
            headers.setdefault("If-Match", "*")
        answer = self.client.open(path, method=method, headers=headers, **options)
        if status is not None:
            assert answer.status_code == status, answer.text
        return answer

    def job(self, **values):
        made = self("POST", JOBS, 202, **probe()).json["id"]
        if values:
            self.change(made, **values)
        return made


@pytest.fixture
def world(client, bearer, change):
    return World(client, bearer(*SCOPES, sub="op"), change)


def probe():
    return {
        "data": {"kind": "probe", "params": json.dumps({"seconds": 1})},
        "content_type": "multipart/form-data",
    }


def new_schedule():
    cron = {"kind": "probe", "params": {"seconds": 0}, "cron": "30 2 * * *"}
    return {"json": {"name": f"s{uuid4().hex[:8]}", **cron}}


def new_webhook():
    url = "https://hooks.example/services/T0/secret?key=1"
    return {"json": {"url": url, "event_types": ["*"]}}


def new_profile():
    mapping = {"sku": "code", "name": "title"}
    return {"json": {"name": f"p{uuid4().hex[:8]}", "mapping": mapping}}


def a_job(send):
    return f"{JOBS}/{send.job()}"


def an_ended_job(send):
    return f"{JOBS}/{send.job(state='cancelled', finished_at=datetime.now(UTC))}"


def a_dead_letter(send):
    ended = {"state": "failed", "finished_at": datetime.now(UTC)}
    return f"{DEAD}/{send.job(**ended, dead='poison', error='No.')}"


def dead_letters(send):
    for _ in range(2):
        a_dead_letter(send)
    return f"{DEAD}/replay"


def a_schedule(send):
    return f"{SCHEDULES}/{send('POST', SCHEDULES, 201, **new_schedule()).json['id']}"


def a_resting_schedule(send):
    address = a_schedule(send)
    send("POST", f"{address}/pause", 200)
    return address


def a_webhook(send):
    return f"{WEBHOOKS}/{send('POST', WEBHOOKS, 201, **new_webhook()).json['id']}"


def a_delivery(send):
    address = a_webhook(send)
    made = send("POST", f"{address}/test", 202).json["id"]
    return f"{address}/deliveries/{made}"


def a_profile(send):
    return f"{PROFILES}/{send('POST', PROFILES, 201, **new_profile()).json['id']}"


JOB = ("kind", "owner", "params", "state")
SCHEDULE = (
    *("catch_up", "cron", "enabled", "jitter_seconds", "kind", "name", "owner"),
    *("params", "time_zone"),
)
WEBHOOK = ("enabled", "event_types", "owner", "url")
PROFILE = ("decimals", "mapping", "name")
RETRIED = ("job", "retried", 2, ("dead", "state"))

# For each way to write: what must be there first, the request, and the rows then: entity,
# action, version and the names of the members.
WRITES = [
    ("POST", lambda _: JOBS, probe, [("job", "created", 1, JOB)]),
    (
        *("POST", lambda send: f"{a_job(send)}/cancel", dict),
        [("job", "cancelled", 2, ("state",))],
    ),
    (
        *("POST", lambda send: f"{an_ended_job(send)}/retry", dict),
        [("job", "retried", 2, ("state",))],
    ),
    ("DELETE", an_ended_job, dict, [("job", "deleted", 1, JOB)]),
    ("POST", lambda send: f"{a_dead_letter(send)}/replay", dict, [RETRIED]),
    ("POST", dead_letters, lambda: {"json": {}}, [RETRIED, RETRIED]),
    ("DELETE", a_dead_letter, dict, [("job", "deleted", 1, ("dead", *JOB))]),
    (
        *("POST", lambda _: SCHEDULES, new_schedule),
        [("schedule", "created", 1, SCHEDULE)],
    ),
    (
        *("PATCH", a_schedule, lambda: {"json": {"cron": "0 3 * * *"}}),
        [("schedule", "updated", 2, ("cron",))],
    ),
    (
        *("POST", lambda send: f"{a_schedule(send)}/pause", dict),
        [("schedule", "updated", 2, ("enabled",))],
    ),
    (
        *("POST", lambda send: f"{a_resting_schedule(send)}/resume", dict),
        [("schedule", "updated", 3, ("enabled",))],
    ),
    (
        *("POST", lambda send: f"{a_schedule(send)}/run", dict),
        [("schedule", "run", 1, ("job_id",))],
    ),
    ("DELETE", a_schedule, dict, [("schedule", "deleted", 1, SCHEDULE)]),
    ("POST", lambda _: WEBHOOKS, new_webhook, [("webhook", "created", 1, WEBHOOK)]),
    (
        *("PATCH", a_webhook, lambda: {"json": {"url": "https://other.example/x"}}),
        [("webhook", "updated", 2, ("url",))],
    ),
    (
        *("POST", lambda send: f"{a_webhook(send)}/rotate", dict),
        [("webhook", "updated", 2, ("secret",))],
    ),
    (
        *("POST", lambda send: f"{a_webhook(send)}/test", dict),
        [("webhook", "tested", 1, ("delivery_id",))],
    ),
    (
        *("POST", lambda send: f"{a_delivery(send)}/resend", dict),
        [("webhook", "resent", 1, ("delivery_id",))],
    ),
    ("DELETE", a_webhook, dict, [("webhook", "deleted", 1, WEBHOOK)]),
    (
        *("POST", lambda _: PROFILES, new_profile),
        [("import_profile", "created", 1, PROFILE)],
    ),
    (
        *("PUT", a_profile, new_profile),
        [("import_profile", "updated", 2, ("name",))],
    ),
    ("DELETE", a_profile, dict, [("import_profile", "deleted", 1, PROFILE)]),
]
# A question that has a body; and what customers follow for themselves.
NOTHING = {
    ("POST", "/api/v1/import-profiles/suggest"),
    ("PUT", "/api/v1/watches/<id>"),
    ("DELETE", "/api/v1/watches/<id>"),
}


def rule(path):
    return re.sub(r"<[^>]+>|[0-9a-f]{8}-[0-9a-f-]{27}", "<id>", path)


class TestEveryWayToWrite:
    def test_is_in_the_table(self, app, world):
        routes = {
            (method, rule(str(route)))
            for route in app.url_map.iter_rules()
            for method in route.methods & {"POST", "PUT", "PATCH", "DELETE"}
        }

        tried = {(method, rule(path(world))) for method, path, _, _ in WRITES}

        assert routes == tried | NOTHING

    @pytest.mark.parametrize(("method", "path", "options", "expected"), WRITES)
    def test_leaves_a_row_for_each_change(
        self, world, changed, method, path, options, expected
    ):
        address = path(world)
        changed()

        answer = world(method, address, **options())

        assert answer.status_code < 300, answer.text
        assert changed() == expected

    @pytest.mark.parametrize(("method", "path", "options", "_expected"), WRITES)
    def test_leaves_none_when_refused(
        self, world, changed, bearer, method, path, options, _expected
    ):
        address = path(world)
        gone = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", str(uuid4()), address)
        stale = {"If-Match": '"v9"'}
        curious = {**stale, **bearer("jobs:read", sub="op")}
        changed()

        refused = [world(method, address, headers=curious, **options())]
        if gone != address:
            refused.append(world(method, gone, headers=stale, **options()))
        if method in {"PUT", "PATCH", "DELETE"}:
            refused.append(world(method, address, headers=stale, **options()))

        assert {answer.status_code for answer in refused} <= {403, 404, 412}
        assert changed() == []

    @pytest.mark.parametrize(
        ("method", "path", "options"),
        [
            ("PATCH", a_schedule, {"json": {"cron": "30 2 * * *"}}),
            ("PATCH", a_webhook, {"json": {"enabled": True}}),
            ("POST", lambda send: f"{a_schedule(send)}/resume", {}),
        ],
    )
    def test_leaves_none_when_nothing_differs(
        self, world, changed, method, path, options
    ):
        address = path(world)
        changed()

        world(method, address, 200, **options)

        assert changed() == []

    def test_leaves_none_when_a_profile_stays_as_it_is(self, world, changed):
        new = new_profile()
        made = world("POST", PROFILES, 201, **new).json
        changed()

        world("PUT", f"{PROFILES}/{made['id']}", 200, **new)

        assert changed() == []

    @pytest.mark.parametrize(
        ("path", "new"),
        [(SCHEDULES, new_schedule), (WEBHOOKS, new_webhook), (PROFILES, new_profile)],
    )
    def test_leaves_one_when_it_is_repeated(self, world, changed, path, new):
        body, key = new(), {"Idempotency-Key": uuid4().hex}

        for _ in range(2):
            world("POST", path, 201, headers=key, **body)

        assert len(changed()) == 1

    def test_leaves_one_when_a_running_job_is_cancelled_twice(self, world, changed):
        later = datetime.now(UTC) + timedelta(minutes=1)
        job = world.job(state="running", lease_token=uuid4(), lease_until=later)
        changed()

        for _ in range(2):
            world("POST", f"{JOBS}/{job}/cancel", 202)

        assert changed() == [("job", "cancelled", 2, ())]

    def test_leaves_none_when_the_transaction_is_lost(self, world, changed):
        """The row, the change and the event are one."""
        new = new_schedule()
        world("POST", SCHEDULES, 201, **new)
        changed()

        world("POST", SCHEDULES, 409, **new)

        assert changed() == []

    def test_of_machines_leaves_none_for_what_they_hand_in(
        self, world, rows, client, bearer
    ):
        machine = bearer(*SCOPES, sub="robot", client_id="robot", sid=None)

        made = client.post(JOBS, headers=machine, **probe()).json
        assert rows() == []
        client.post(f"{JOBS}/{made['id']}/cancel", headers=machine)

        (row,) = rows()
        assert (row.action, row.actor, row.client) == ("cancelled", "robot", "robot")


class TestTime:
    def test_is_nobody(self, world, rows, begin, run):
        run(world.job())
        rows()

        with begin() as session:
            assert jobs.purge_jobs(session, keep=timedelta(0))

        assert rows() == []


class TestRow:
    def test_says_who_and_when_and_in_which_request(self, world, rows):
        headers = {"X-Request-ID": "my-request-1"}

        made = world("POST", WEBHOOKS, 201, headers=headers, **new_webhook()).json

        (row,) = rows()
        assert (row.actor, row.client) == ("op", "tests")
        assert row.request_id == "my-request-1"
        assert str(row.entity_id) == made["id"]
        assert row.at is not None

    def test_says_what_was_and_what_became(self, world, rows):
        address = a_dead_letter(world)
        rows()

        world("POST", f"{address}/replay", 202)

        assert rows()[0].changes == {
            "state": {"from": "failed", "to": "queued"},
            "dead": {"from": "poison", "to": None},
        }

    def test_names_what_came_of_it(self, world, rows):
        address = a_schedule(world)
        rows()

        firing = world("POST", f"{address}/run", 202).json["last_firing"]

        assert rows()[0].changes == {"job_id": {"to": firing["job_id"]}}

    def test_says_where_webhooks_go_but_no_way_in(self, world, begin):
        address = a_webhook(world)
        changes = {"url": "https://other.example:444/services/secret"}
        world("PATCH", address, 200, json=changes)
        secret = world("POST", f"{address}/rotate", 200).json["secret"]

        with begin() as session:
            told = [*session.scalars(select(log.c.changes).order_by(log.c.sequence))]

        hooks, other = "https://hooks.example/", "https://other.example:444/"
        assert told[0]["url"] == {"to": hooks, "cut": True}
        assert told[1] == {"url": {"from": hooks, "to": other, "cut": True}}
        assert told[2] == {"secret": {}}
        written = json.dumps(told)
        assert "services" not in written
        assert secret not in written


class TestListAudit:
    @pytest.fixture
    def ask(self, client, bearer):
        operator = bearer("ops:read")

        def ask(status=200, **query):
            answer = client.get(AUDIT, query_string=query, headers=operator)
            assert answer.status_code == status, answer.text
            return answer.json

        return ask

    def test_shows_the_newest_first(self, world, ask):
        job = world.job()
        world("POST", f"{JOBS}/{job}/cancel", 202)

        items = ask(id=job)["items"]

        assert [item["action"] for item in items] == ["cancelled", "created"]
        first = items[0]
        assert first["changes"]["state"]["to"] == "cancelled"
        assert (first["entity"], first["id"], first["version"]) == ("job", job, 2)
        assert datetime.fromisoformat(first["at"]).tzinfo

    def test_filters(self, world, ask):
        job = world.job()
        a_schedule(world)
        now = datetime.now(UTC)

        def found(**query):
            return [row["entity"] for row in ask(**query)["items"]]

        assert found() == found(actor="op") == ["schedule", "job"]
        assert found(entity="job") == found(id=job) == ["job"]
        assert found(actor="nobody") == []
        hour = timedelta(hours=1)
        assert found(since=(now - hour).isoformat()) == ["schedule", "job"]
        assert found(since=(now + hour).isoformat()) == []
        assert found(until=(now - hour).isoformat()) == []

    def test_pages_neither_repeat_nor_hide(self, world, ask):
        for _ in range(5):
            world.job()
        seen, cursor = [], {}
        while True:
            page = ask(entity="job", limit=2, **cursor)
            seen += [item["sequence"] for item in page["items"]]
            world.job()
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}

        assert len(seen) == 5
        assert seen == sorted(set(seen), reverse=True)

    def test_a_cursor_is_of_its_filters(self, world, ask):
        for _ in range(2):
            world.job()
        cursor = ask(entity="job", limit=1)["next_cursor"]

        ask(422, cursor=cursor, limit=1)

    @pytest.mark.parametrize(
        "query",
        [{"entity": "product"}, {"id": "7"}, {"actor": ""}, {"since": "yesterday"}],
    )
    def test_refuses_what_it_does_not_know(self, ask, query):
        ask(422, **query)

    def test_needs_the_scope(self, client, world):
        assert client.get(AUDIT).status_code == 401
        assert world("GET", AUDIT, 403).json["type"].endswith("#scope-missing")


class TestRetention:
    def test_removes_what_was_kept_long_enough(self, app, database_url):
        with psycopg.connect(
            database_url.replace("+psycopg", ""), autocommit=True
        ) as connection:
            connection.execute(
                "insert into audit"
                " (at, actor, action, entity, entity_id, version, changes)"
                " select now() - make_interval(days => age), 'a', 'created', 'job',"
                " gen_random_uuid(), age, '{}'"
                " from generate_series(1, 6000), unnest(array[399, 401]) age"
            )
            with app.app_context():
                tasks.purge.apply().get()

            kept = connection.execute("select distinct version from audit").fetchall()
            assert kept == [(399,)]

    @pytest.mark.parametrize("days", [29, 0, -1])
    def test_is_a_month_at_least(self, settings, days):
        with pytest.raises(ValueError, match="audit_days"):
            Settings(**{**settings.model_dump(), "audit_days": days})

    def test_is_a_year_and_a_bit_if_nothing_is_said(self):
        assert Settings.model_fields["audit_days"].default == 400
