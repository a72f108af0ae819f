"""Every query of every rule and dashboard, asked of a Prometheus that has watched a
running platform at work: none fails, and none finds nothing.

One start of the platform in local mode with `WITH=observability`.
"""

import json
import math
import os
import re
import socket
import time
import uuid
from contextlib import ExitStack, closing

import httpx2
import pytest
from flagonctl import watching
from flagonctl.problem import Problem
from flagonctl.processes import BY_NAME
from flagonobs import dashboards
from harness import imports
from harness.events import Stream
from harness.people import Person, browser
from harness.stack import Stack as Running
from harness.waiting import until

from flagon_chassis.testing import SocketClient, lacking
from flagon_web.domain import operations

from .conftest import ROOT, all_rules, metrics_in


@pytest.fixture(scope="module", autouse=True)
def installed():
    """The exporters and Alertmanager; local mode needs them only when asked for them."""
    try:
        watching.check()
    except Problem as problem:
        lacking(str(problem), "JUDGES=1 make setup")


NEVER_HAPPENED = {
    # Counters that begin to exist with what they count, by the code that makes them. Their
    # panels draw zero until then; the alerts on them are tried in alerts.yml.
    "flagon_mails_total": "services/worker/src/flagon_worker/telemetry.py",
    "flagon_webhooks_total": "services/worker/src/flagon_worker/tasks_webhooks.py",
    "flagon_logouts_total": "services/worker/src/flagon_worker/telemetry.py",
    "flagon_errands_total": "libs/chassis/src/flagon_chassis/relay.py",
    "flagon_messages_unreadable_total": "libs/chassis/src/flagon_chassis/redis_worker.py",
    "flagon_transaction_retries_total": "libs/chassis/src/flagon_chassis/db.py",
    "flagon_attempts_refused_total": "services/auth/src/flagon_auth/clients/guesses.py",
    "flagon_sse_resumed_total": "services/realtime/src/flagon_realtime/telemetry.py",
    "flagon_sse_dropped_total": "services/realtime/src/flagon_realtime/telemetry.py",
    "flagon_sse_refused_total": "services/realtime/src/flagon_realtime/telemetry.py",
    "flagon_websocket_dropped_total": "services/realtime/src/flagon_realtime/telemetry.py",
    "flagon_websocket_refused_total": "services/realtime/src/flagon_realtime/telemetry.py",
}

OF_COPIES = {
    *("redis_connected_slave_lag_seconds", "pg_stat_replication_pg_wal_lsn_diff"),
    *("cnpg_pg_replication_streaming_replicas", "cnpg_pg_replication_lag"),
}
"""What is said where there are several servers: see test_replication.py; the last two by
CloudNativePG alone, https://cloudnative-pg.io/documentation/current/monitoring/."""

OWN = {"ALERTS"}
"""What Prometheus makes when an alert fires, so that a healthy platform has none."""


def free_base():
    """Return a port base below the range of outgoing connections that nobody uses."""
    from flagonctl.processes import ports

    wanted = os.environ.get("FLAGON_PORT_BASE")
    if wanted:
        return int(wanted)
    for base in range(21_080, 31_000, 500):
        taken = 0
        for port in ports(base).values():
            with socket.socket() as probe:
                taken += probe.connect_ex(("127.0.0.1", port)) == 0
        if not taken:
            return base
    raise AssertionError("no free ports")


@pytest.fixture(scope="module")
def stack():
    found = Running("local", free_base())
    try:
        found.make("up", seconds=600, WITH="observability")
        yield found
    finally:
        if os.environ.get("FLAGON_KEEP") != "1":
            found.reset()


def a_round(stack, people, word, number):
    """Let everybody do what they do: each signal of the platform moves."""
    customer, merchandiser, operator, account = people
    with stack.client() as anybody:
        for path in ("/", "/api/v1/products", "/api/v1/categories", "/no-such-page"):
            for _ in range(3):
                anybody.get(path)
        anybody.get("/api/v1/products", params={"slug": "none"})
        asked = anybody.post("/api/v1/graphql", json={"query": "{ __typename }"})
        assert asked.status_code == 200, asked.text
        # Refused at once, where a stream would stay open and be counted at its end.
        anybody.get("/api/v1/events", params={"topics": "nothing"})
    with closing(SocketClient(stack.url)) as visitor:
        visitor.call("join", room="products")
        assert "problem" in visitor.call("no-such-message")
    with merchandiser.client() as client:
        made = client.post(
            "/api/v1/products",
            json={
                "sku": f"{word}-{number}",
                "name": "A thing that is watched",
                "price_minor": 100 + number,
                "currency": "EUR",
                "stock": 3,
                "category": word,
            },
            headers={"Idempotency-Key": str(uuid.uuid4())},
        )
        assert made.status_code == 201, made.text
        client.get("/api/v1/products", params={"q": "watched"})
        product = made.json()["id"]
    with operator.client() as client:
        taken = client.post(
            "/api/v1/jobs",
            files={"kind": (None, "probe"), "params": (None, '{"seconds": 0.1}')},
            headers={"Idempotency-Key": str(uuid.uuid4())},
        )
        assert taken.status_code == 202, taken.text
        client.get("/api/v1/jobs")
    with customer.client() as client:
        client.get("/api/v1/users")
        review = {"author": "Ada", "rating": 5, "title": "Good", "body": "Watched."}
        for method, path, body in (
            ("POST", f"/api/v1/products/{product}/reviews", review),
            ("PUT", f"/api/v1/watches/{product}", {}),
        ):
            # A fast machine has more rounds a minute than one may write reviews.
            if number % 4:
                continue
            done = client.request(method, path, json=body)
            assert done.status_code == 201, done.text
    # Nobody's address: who guesses at a real one makes its owner wait.
    wrong = {"email": f"{word}-{number}@flagon.test", "password": "no password"}
    with Person(stack, wrong) as stranger, pytest.raises(AssertionError):
        stranger.sign_in()
    with browser(stack, account) as client:
        client.get("/")


@pytest.fixture(scope="module")
def watched(stack):
    """The platform at work for a while, and each rule evaluated after that."""
    accounts = stack.accounts()
    word = f"w{uuid.uuid4().hex[:8]}"
    with ExitStack() as entered:
        people = [
            entered.enter_context(Person(stack, accounts[role]))
            for role in ("customer", "merchandiser", "admin")
        ]
        merchandiser = people[1]
        entered.enter_context(Stream(stack, ["products"]))
        entered.enter_context(Stream(stack, ["jobs"], merchandiser))
        path = imports.accepted(
            merchandiser,
            imports.as_csv(imports.rows(word, 60)),
            imports.params(word),
        )
        # The category is there when it has ended.
        imports.ended(merchandiser, path)
        began = time.time()
        number = 0
        # Rates need two scrapes of a series, and it begins with the first of its kind.
        while time.time() < began + 15:
            number += 1
            a_round(stack, (*people, accounts["customer"]), word, number)

        def evaluated():
            groups = ask(stack, "/api/v1/rules")["groups"]
            oldest = min(group["lastEvaluation"] for group in groups)
            return oldest[:19] > time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(done))

        done = time.time() + 5
        until(evaluated, 60, pause=0.5, what="an evaluation of each group of rules")
        yield stack


def ask(stack, path, **params):
    answer = httpx2.get(f"{stack.prometheus_url}{path}", params=params, timeout=30)
    body = answer.json()
    assert body["status"] == "success", (params, body.get("error"))
    return body["data"]


class TestPlatform:
    def test_is_measured_in_all_its_parts(self, watched):
        targets = ask(watched, "/api/v1/targets")["activeTargets"]
        down = [
            (one["labels"]["instance"], one["lastError"])
            for one in targets
            if one["health"] != "up"
        ]

        assert down == []
        assert {one["labels"]["job"] for one in targets} == {
            "flagon",
            "exporters",
            "probes",
        }

    def test_says_of_each_process_which_release_it_is(self, watched):
        ours = 'service=~"auth|catalog|realtime|web|worker"'

        def processes(query):
            found = ask(watched, "/api/v1/query", query=query)["result"]
            return {one["metric"]["instance"] for one in found}

        said = processes(f'flagon_build_info{{{ours},release!="unknown"}}')
        assert said == processes(f'up{{job="flagon",{ours}}}')
        assert len(said) > 10

    def test_has_no_label_with_values_from_outside(self, watched):
        series = ask(watched, "/api/v1/series", **{"match[]": '{job="flagon"}'})

        ids = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}|@|/no-such-page")
        found = {
            (one["__name__"], name, value)
            for one in series
            for name, value in one.items()
            if ids.search(value)
        }
        assert found == set()
        assert len(series) < 10_000


class TestRules:
    def test_are_all_evaluated_without_an_error(self, watched):
        groups = ask(watched, "/api/v1/rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]

        assert {rule["name"] for rule in rules if rule.get("lastError")} == set()
        assert {rule["health"] for rule in rules} == {"ok"}
        assert len(rules) == len(list(all_rules()))

    def test_name_metrics_that_somebody_exports(self, watched):
        known = set(ask(watched, "/api/v1/label/__name__/values"))
        missing = {
            (rule.get("alert", rule.get("record")), name)
            for _file, rule in all_rules()
            for name in metrics_in(rule["expr"])
            if name not in known and name not in {*NEVER_HAPPENED, *OF_COPIES}
        }

        assert missing == set()

    def test_record_something(self, watched):
        known = set(ask(watched, "/api/v1/label/__name__/values"))
        recorded = {rule["record"] for _file, rule in all_rules() if "record" in rule}

        assert recorded - known == set()

    def test_of_every_objective_have_a_budget(self, watched):
        found = ask(watched, "/api/v1/query", query="slo:budget_remaining:ratio")

        assert {one["metric"]["slo"] for one in found["result"]} == {
            "availability",
            "read-latency",
            "event-to-screen",
            "job-start",
        }

    def test_wake_nobody_over_a_healthy_platform(self, watched):
        found = ask(
            watched,
            "/api/v1/query",
            query='ALERTS{alertstate="firing",severity="page",alertname!="DiskFull"}',
        )

        assert [one["metric"]["alertname"] for one in found["result"]] == []

    def test_that_read_what_never_happened_read_what_the_code_counts(self):
        for name, path in NEVER_HAPPENED.items():
            assert f'"{name}"' in (ROOT / path).read_text(), name


class TestDashboards:
    @pytest.mark.parametrize("board", dashboards.boards(), ids=lambda one: one.name)
    def test_have_no_empty_panel(self, watched, board):
        empty = []
        for panels in board.rows.values():
            for panel in panels:
                for query in panel.queries:
                    found = ask(watched, "/api/v1/query", query=query.expr)["result"]
                    values = [float(one["value"][1]) for one in found]
                    # Of nothing a quantile is NaN, which Grafana draws as nothing.
                    drawn = [value for value in values if not math.isnan(value)]
                    if not drawn:
                        empty.append((panel.title, query.expr))

        assert empty == []

    def test_show_who_asks_whom(self, watched):
        overview = next(one for one in dashboards.boards() if one.name == "overview")
        (panel,) = overview.rows["Who asks whom"]
        (query,) = panel.queries
        found = ask(watched, "/api/v1/query", query=query.expr)["result"]
        edges = {
            (one["metric"]["source"], one["metric"]["target"])
            for one in found
            if float(one["value"][1]) > 0
        }

        assert edges >= {
            *(("gateway", name) for name in ("auth", "catalog", "realtime", "web")),
            *(("web", "auth"), ("web", "catalog"), ("worker", "catalog")),
            *(("catalog", "events"), ("events", "worker")),
            *(("worker", "queues"), ("queues", "worker"), ("realtime", "pages")),
        }

    def test_read_metrics_that_somebody_exports(self, watched):
        known = set(ask(watched, "/api/v1/label/__name__/values"))
        missing = {
            name
            for text in dashboards.texts().values()
            for panel in json.loads(text)["panels"]
            for target in panel.get("targets", [])
            for name in metrics_in(target["expr"])
            if name not in known | OWN and name not in NEVER_HAPPENED
        }

        assert missing == set()


class TestOperationsPage:
    @pytest.mark.parametrize(
        "question", operations.questions(), ids=lambda one: one.expr
    )
    def test_asks_nothing_that_has_no_answer(self, watched, question):
        found = ask(watched, "/api/v1/query", query=question.expr)["result"]

        # Its name of a series: without it the lines of a chart would be one.
        assert found
        assert all(question.by in one["metric"] for one in found if question.by)

    def test_reads_what_rules_record_and_dashboards_and_alerts_read(self):
        recorded = {rule["record"] for _file, rule in all_rules() if "record" in rule}
        read = " ".join(
            " ".join(expr.split())
            for expr in (
                *(rule["expr"] for _file, rule in all_rules()),
                *(
                    query.expr
                    for board in dashboards.boards()
                    for panels in board.rows.values()
                    for panel in panels
                    for query in panel.queries
                ),
            )
        )
        own = {
            question.expr
            for question in operations.questions()
            if question.expr.partition("{")[0] not in recorded
            and question.expr not in read
        }

        assert own == set()

    def test_draws_what_was_measured(self, watched):
        account = watched.accounts()["operator"]

        with browser(watched, account) as client:

            def drawn():
                page = client.get("/back-office/operations?range=15m")
                assert page.status_code == 200
                # On a busy machine an answer may come too late for one page.
                return "cannot be shown" not in page.text and page.text

            text = until(drawn, what="a page with all its measurements")
        for key in operations.PLATFORM:
            chart = text.partition(f'id="chart-{key}-desc"')[2].partition("</svg>")[0]
            assert "<polyline" in chart, key
        assert text.count("<progress") == 4


class TestAlertmanager:
    def test_is_known_to_prometheus(self, watched):
        found = ask(watched, "/api/v1/alertmanagers")["activeAlertmanagers"]

        assert len(found) == 1

    def test_tells_web_which_shows_it_to_operators(self, watched):
        port = BY_NAME["alertmanager"].offset + watched.port_base
        alert = {
            "labels": {"alertname": "TooManySeries", "severity": "ticket"},
            "annotations": {
                "summary": "A trial.",
                "runbook": "docs/runbooks/too-many-series.md",
            },
        }
        httpx2.post(
            f"http://127.0.0.1:{port}/api/v2/alerts", json=[alert]
        ).raise_for_status()

        with browser(watched, watched.accounts()["operator"]) as client:

            def told():
                text = client.get("/back-office/operations").text
                notices = text.partition('id="notices-head"')[2]
                return "A trial." in notices and notices.partition("</section>")[0]

            text = until(told, what="a page with what people were told")
        assert ">tickets<" in text
        assert '/docs/runbooks/too-many-series"' in text
