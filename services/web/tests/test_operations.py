"""The operations page before a Prometheus that answers over a real socket."""

import re
import threading
import time
from urllib.parse import parse_qs, urlsplit

import pytest

from flagon_chassis.http import Unreachable
from flagon_chassis.testing import Peer
from flagon_web.domain import operations as domain
from flagon_web.domain import releases, waterfall
from flagon_web.domain.charts import Window

PAGE = "/back-office/operations"
ALERT = {
    "labels": {"alertname": "OutboxOld", "severity": "page", "service": "catalog"},
    "annotations": {
        "summary": "An event of catalog <has> waited.",
        "runbook": "docs/runbooks/outbox-old.md",
    },
    "state": "firing",
    "activeAt": "2026-01-02T03:04:05.123456789Z",
    "value": "6.1e+01",
}


class Measuring(Peer):
    """Prometheus, with the same values for each question unless told otherwise."""

    def __init__(self):
        super().__init__()
        self.asked = []
        self.alerts = []
        self.series = {}
        """By expression: the labels of each series and its value, as text."""
        self.refused = {}
        """By a part of the query: the status of its answer."""
        self.open = threading.Event()
        """Nobody gets an answer before it is set."""
        self.open.set()
        self.came = threading.Event()
        self.said = None
        """Said to everything, when it is set."""

    def answer(self, method, path, headers, body):
        parts = urlsplit(path)
        params = {name: each[0] for name, each in parse_qs(parts.query).items()}
        self.asked.append((method, parts.path, params))
        self.came.set()
        assert self.open.wait(60)
        query = params.get("query", parts.path)
        for part, status in self.refused.items():
            if part in query:
                return status, {"status": "error", "errorType": "bad_data"}
        if self.said is not None:
            return 200, self.said
        if parts.path == "/api/v1/alerts":
            return 200, {"status": "success", "data": {"alerts": self.alerts}}
        found = self.series.get(query, self.usual(query))
        if parts.path == "/api/v1/query":
            now = time.time()
            result = [{"metric": one, "value": [now, value]} for one, value in found]
            return 200, answered("vector", result)
        end, step = float(params["end"]), float(params["step"])
        times = [end - 2 * step, end - step, end]
        # One value for all times, or one for each: None where there is none.
        result = [
            {
                "metric": one,
                "values": [[at, v] for at, v in zip(times, each, strict=True) if v],
            }
            for one, value in found
            for each in (value if isinstance(value, tuple) else (value,) * 3,)
        ]
        return 200, answered("matrix", result)

    def usual(self, query):
        if "queue" in query:
            return [({"queue": "bulk"}, "7")]
        if "budget" in query:
            return [({"slo": "availability"}, "0.42"), ({"slo": "job-start"}, "-0.1")]
        if "slo:errors" in query:
            return [({"slo": "availability"}, "2.5"), ({"slo": "job-start"}, "NaN")]
        if query.startswith("up"):
            return [({"process": "catalog"}, "1"), ({"process": "web-relay"}, "0")]
        if "build_info" in query:
            return [({"service": "catalog", "release": "1.4.0"}, "2")]
        if query.startswith("service_rule"):
            return [({"service": "catalog", "url_rule": "/api/v1/products"}, "0.25")]
        return [({"service": "catalog", "consumer": "worker"}, "0.25")]


def answered(kind, result):
    return {"status": "success", "data": {"resultType": kind, "result": result}}


@pytest.fixture
def prometheus():
    peer = Measuring()
    yield peer
    peer.close()


@pytest.fixture
def desk(fit_app, make_browser, platform, prometheus):
    """A browser in which an operator is signed in, before a measured platform."""

    def make(role="operator", **settings):
        platform.role = role
        values = {"prometheus_url": prometheus.url, **settings}
        platform.issuer = settings.get("public_url", platform.issuer)
        browser = make_browser(app=fit_app(**values))
        assert browser.sign_in(platform).status_code == 303
        return browser

    return make


def plain(text):
    """Return a page as one reads it."""
    text = re.sub(r"<[^>]+>", " ", text).replace("\N{NO-BREAK SPACE}", " ")
    return re.sub(r"\s+", " ", text)


class TestOperations:
    def test_draws_every_measure(self, desk):
        answer = desk().get(PAGE)

        assert answer.status_code == 200
        for key, measure in domain.PLATFORM.items():
            assert f'aria-labelledby="chart-{key}-title"' in answer.text
            assert str(measure.title) in answer.text
        assert answer.text.count("<polyline") == len(domain.PLATFORM)
        assert "cannot be shown" not in answer.text

    def test_draws_each_service_alike_and_the_first_queue_first(self, desk):
        text = desk().get(PAGE).text

        drawn = re.findall(
            r'id="chart-(\w+)-title".*?<polyline class="line line--(\d)"',
            text,
            re.DOTALL,
        )
        styles = dict(drawn)
        catalog = str(domain.SERVICES.index("catalog") + 1)
        assert {styles[key] for key in ("rate", "errors", "latency")} == {catalog}
        assert {styles["depth"], styles["age"], styles["streams"]} == {"1"}

    def test_says_in_words_what_the_charts_show(self, desk):
        text = plain(desk().get(PAGE).text)

        assert "catalog: now 0.25/s, at most 0.25/s." in text
        assert "catalog 25.0 % 25.0 % 25.0 % 25.0 %" in text
        assert "bulk: now 7, at most 7." in text

    def test_has_no_style_and_no_script_that_the_policy_refuses(self, desk):
        answer = desk().get(PAGE)

        assert " style=" not in answer.text
        assert "<style" not in answer.text
        assert not re.search(r"\son[a-z]+=", answer.text)
        assert "style-src 'self' 'nonce-" in answer.headers["Content-Security-Policy"]

    def test_shows_what_is_left_of_each_promise(self, desk):
        text = plain(desk().get(PAGE).text)

        assert "fault of ours 42.0 %" in text
        assert "it was spent 2.5 times as fast as allowed." in text
        assert "within 2 s -10.0 %" in text
        assert text.count("times as fast") == 1

    def test_shows_services_with_their_health_and_their_work(self, desk, platform):
        browser = desk(gateway_url=f"{platform.url}/gateway")

        text = browser.get(PAGE).text

        assert 'class="node node--ready"' in text
        assert f'href="{PAGE}/catalog?range=1h"' in text
        assert "catalog Ready 0.25/s 25.0 % 250 ms 250 ms 250 ms" in plain(text)
        assert "web-relay: down" in plain(text)

    def test_shows_what_is_down_on_the_map(self, desk):
        text = desk(worker_url="http://127.0.0.1:1").get(PAGE).text

        assert 'class="node node--down"' in text
        assert "edge--down" in text
        assert "! worker" in plain(text)

    def test_leads_from_alerts_to_runbooks(self, desk, prometheus):
        soon = {**ALERT, "state": "pending", "labels": {"alertname": "QueueOld"}}
        prometheus.alerts = [soon, ALERT]

        text = desk().get(PAGE).text

        assert 'href="http://localhost/docs/runbooks/outbox-old"' in text
        assert "An event of catalog &lt;has&gt; waited." in text
        assert text.index("OutboxOld") < text.index("QueueOld")
        assert "fires · page" in plain(text)
        assert "may fire soon" in text

    def test_links_to_runbooks_alone(self, desk, prometheus):
        wrong = (
            "javascript:alert(1)",
            "https://evil.example/docs/runbooks/x.md",
            "docs/runbooks/../../secrets.md",
            'docs/runbooks/x".md',
            "docs/runbooks/x.md\n",
        )
        prometheus.alerts = [
            {**ALERT, "annotations": {"runbook": runbook}} for runbook in wrong
        ]

        text = desk().get(PAGE).text

        assert text.count(">OutboxOld<") == len(wrong)
        assert "/runbooks/" not in text
        assert "evil" not in text

    def test_shows_the_first_of_very_many_alerts(self, desk, prometheus):
        prometheus.alerts = [ALERT] * 53

        assert "3 more." in desk().get(PAGE).text

    def test_says_that_all_is_quiet(self, desk, prometheus):
        prometheus.series["slo:budget_remaining:ratio"] = []
        prometheus.series["sum(flagon_sse_connections)"] = []

        text = desk().get(PAGE).text

        assert "No alert is active" in text
        assert "Nothing has happened yet that could be judged." in text
        assert "Nothing was measured in this time." in text

    def test_bears_what_is_no_number(self, desk, prometheus):
        for measure in domain.PLATFORM.values():
            for question in measure.ask.values():
                prometheus.series[question.expr] = [
                    ({"service": "catalog"}, "NaN"),
                    ({"service": "web"}, "+Inf"),
                ]

        answer = desk().get(PAGE)

        assert answer.status_code == 200
        assert "nan" not in plain(answer.text).lower().replace("finance", "")
        assert "<polyline" not in answer.text

    def test_draws_few_of_very_many_series(self, desk, prometheus):
        expr = "max by (queue) (flagon_queue_depth)"
        prometheus.series[expr] = [({"queue": f"q{n}"}, str(n)) for n in range(300)]

        text = desk().get(PAGE).text

        assert "<bdi>q299</bdi>" in text
        assert "<bdi>q0</bdi>" not in text

    def test_speaks_german(self, desk):
        text = desk().get(PAGE, headers={"Accept-Language": "de"}).text

        assert "Betrieb" in text
        assert "0,25/s" in text


class TestReleases:
    WINDOW = Window(10_000, 13_600, 30, 900)

    def found(self, *tracks):
        """Return what is said of releases that were counted at these steps."""
        start, step = self.WINDOW.start, self.WINDOW.step
        return [
            (
                one.service,
                one.before,
                one.name,
                None if one.at is None else (one.at - start) / step,
                (one.processes, one.among),
            )
            for one in releases.releases(
                [
                    domain.Track(
                        metric={"service": service, "release": release},
                        values=[(start + at * step, count) for at in steps],
                    )
                    for service, release, count, steps in tracks
                ]
            )
        ]

    def test_came_when_they_were_first_seen_the_newest_first(self):
        found = self.found(
            ("auth", "7", 1, range(121)),
            ("catalog", "1.4.0", 2, range(100)),
            ("catalog", "1.5.0", 2, range(97, 121)),
            ("web", "a", 1, range(40)),
            ("web", "b", 3, range(41, 121)),
        )

        assert found == [
            ("catalog", ("1.4.0",), "1.5.0", 97, (2, 2)),
            ("web", ("a",), "b", 41, (3, 3)),
            ("auth", (), "7", None, (1, 1)),
        ]

    def test_stand_side_by_side_during_a_roll(self):
        found = self.found(
            ("catalog", "1.4.0", 1, range(121)), ("catalog", "1.5.0", 3, [119, 120])
        )

        assert found == [
            ("catalog", ("1.4.0",), "1.5.0", 119, (3, 4)),
            ("catalog", (), "1.4.0", None, (1, 4)),
        ]

    def test_come_back_when_they_are_rolled_back(self):
        found = self.found(
            ("catalog", "1.4.0", 2, [*range(50), *range(80, 121)]),
            ("catalog", "1.5.0", 2, range(50, 80)),
        )

        assert found == [
            ("catalog", ("1.5.0",), "1.4.0", 80, (2, 2)),
            ("catalog", ("1.4.0",), "1.5.0", 50, (0, 2)),
        ]

    def test_are_not_new_after_an_outage_or_when_nothing_is_known_before(self):
        found = self.found(
            ("auth", "7", 1, [*range(50), *range(80, 121)]),
            ("web", "a", 1, range(60, 121)),
        )

        assert [(name, at) for name, _b, _r, at, _n in found] == [
            ("auth", None),
            ("web", None),
        ]

    def test_leave_out_what_ended_without_a_successor(self):
        still = ("web", "a", 1, range(121))

        (found,) = self.found(("auth", "7", 1, range(50)), still)

        assert found[0] == "web"

    def test_are_on_the_page_with_marks_in_the_charts(self, desk, prometheus):
        prometheus.series[domain.RUNNING.expr] = [
            ({"service": "auth", "release": "7"}, "1"),
            ({"service": "catalog", "release": "1.4.0"}, ("2", "1", None)),
            ({"service": "catalog", "release": "<b>"}, (None, "1", "2")),
            ({"service": "web", "release": "1"}, ("2", "2", "1")),
            ({"service": "web", "release": "2"}, (None, None, "1")),
        ]

        text = desk().get(f"{PAGE}?range=24h").text

        words = plain(text)
        assert "catalog 1.4.0 → &lt;b&gt; 2 of 2 6 minutes ago" in words
        assert "web 1 → 2 1 of 2 0 minutes ago" in words
        assert "web 1 1 of 2 No other one in this time" in words
        assert "auth 7 1 of 1 No other one in this time" in words
        assert text.count('<line class="release" x1="352.7"') == len(domain.PLATFORM)
        assert "another release" in words

    def test_say_in_hours_what_is_long_ago(self, desk, prometheus, monkeypatch):
        prometheus.series[domain.RUNNING.expr] = [
            ({"service": "web", "release": "1"}, ("2", None, "2")),
            ({"service": "web", "release": "2"}, (None, "2", None)),
        ]
        # A day in three points.
        monkeypatch.setitem(domain.RANGES, "24h", domain.Range("-", 86_400, 20_000, 1))

        words = plain(desk().get(f"{PAGE}?range=24h").text)

        assert "web 2 → 1 2 of 2 0 minutes ago" in words
        assert "web 1 → 2 none any more 5 hours ago" in words

    def test_go_away_with_prometheus_alone(self, desk, prometheus):
        prometheus.refused["build_info"] = 503

        text = desk().get(PAGE).text

        assert text.count("This cannot be shown right now.") == 1
        assert "<polyline" in text

    def test_say_that_nothing_was_measured(self, desk, prometheus):
        prometheus.series[domain.RUNNING.expr] = []

        assert "Nothing was measured in this time." in desk().get(PAGE).text

    def test_are_few_on_the_page(self, desk, prometheus):
        prometheus.series[domain.RUNNING.expr] = [
            ({"service": f"s{number}", "release": "1"}, "1") for number in range(23)
        ]

        assert "3 more." in desk().get(PAGE).text


class TestRange:
    @pytest.mark.parametrize(
        ("name", "seconds"),
        [("15m", 900), ("1h", 3600), ("6h", 21_600), ("24h", 86_400)],
    )
    def test_is_chosen_by_name(self, desk, prometheus, name, seconds):
        text = desk().get(f"{PAGE}?range={name}").text

        asked = [params for _m, path, params in prometheus.asked if "range" in path]
        assert {round(float(p["end"]) - float(p["start"])) for p in asked} == {seconds}
        # Prometheus refuses more than 11,000 points; people see some hundred.
        assert all(seconds / float(p["step"]) <= 240 for p in asked)
        assert f'range={name}" aria-current="true"' in text

    def test_is_the_usual_one_for_anything_else(self, desk, prometheus):
        browser = desk()

        for wanted in ("", "99y", "1h&range=24h'", "1h}", "__name__", "15m%0a"):
            assert browser.get(f"{PAGE}?range={wanted}").status_code == 200

        asked = [params for _m, path, params in prometheus.asked if "range" in path]
        assert {round(float(p["end"]) - float(p["start"])) for p in asked} == {3600}


class TestAttacks:
    """Nobody outside puts a question of their own to Prometheus."""

    def test_is_asked_its_fixed_questions_alone(self, desk, prometheus):
        browser = desk()

        for path in (
            f"{PAGE}?query=up&range=15m&start=0&end=1&step=1&timeout=9h",
            f"{PAGE}/catalog?range=15m&query=up&service=web",
            f"{PAGE}?expr=up&match[]=up&url=http://evil.example&prometheus_url=x",
        ):
            assert browser.get(path).status_code == 200

        known = {question.expr for question in domain.questions()}
        assert prometheus.asked
        for method, asked, params in prometheus.asked:
            assert method == "GET"
            assert asked in {"/api/v1/query", "/api/v1/query_range", "/api/v1/alerts"}
            assert asked == "/api/v1/alerts" or params["query"] in known
            assert params.get("timeout", "2s") == "2s"

    def test_has_no_page_for_a_service_that_is_none(self, desk, prometheus):
        browser = desk()

        found = {
            name: browser.get(f"{PAGE}/{name}").status_code
            for name in (
                "gateway",
                "catalog%22%7D%20or%20up",
                "catalog'",
                "..",
                ".*",
                "Catalog",
                "catalog%0a",
                "catalog/api/v1/query",
            )
        }

        assert set(found.values()) == {404}, found
        assert prometheus.asked == []

    def test_only_reads(self, desk, prometheus):
        browser = desk()

        for method in ("post", "put", "patch", "delete"):
            answer = getattr(browser.client, method)(PAGE, base_url=browser.base)
            assert answer.status_code in {400, 405}
        assert prometheus.asked == []

    @pytest.mark.parametrize("path", [PAGE, f"{PAGE}/catalog", f"{PAGE}/request"])
    def test_strangers_are_sent_to_the_sign_in(self, browser, path):
        answer = browser.get(path)

        assert answer.status_code == 303
        assert answer.location.startswith("/sign-in")

    @pytest.mark.parametrize("role", ["customer", "merchandiser"])
    def test_others_are_refused(self, desk, prometheus, role):
        browser = desk(role)

        for path in (PAGE, f"{PAGE}/catalog", f"{PAGE}/request?id=a"):
            assert browser.get(path).status_code == 403
        assert prometheus.asked == []

    def test_others_are_not_led_there(self, desk):
        assert PAGE not in desk("merchandiser").get("/back-office").text
        assert f'href="{PAGE}"' in desk("operator").get("/back-office").text


class TestService:
    @pytest.mark.parametrize("service", domain.SERVICES)
    def test_draws_one_service(self, desk, prometheus, service):
        answer = desk().get(f"{PAGE}/{service}")

        assert answer.status_code == 200
        assert answer.text.count("<polyline") == 5
        queries = [params["query"] for _m, _path, params in prometheus.asked]
        assert all(f'{{service="{service}"}}' in query for query in queries)

    def test_lists_its_routes_the_busiest_first(self, desk, prometheus):
        busy = [({"url_rule": "/a"}, "1"), ({"url_rule": "/<b>"}, "3.5")]
        rate = domain.ROUTES["catalog"]["rate"].expr
        prometheus.series[rate] = busy

        text = plain(desk().get(f"{PAGE}/catalog").text)

        assert "/&lt;b&gt; 3.5/s" in text
        assert text.index("/&lt;b&gt;") < text.index("/a 1.0/s")

    def test_says_when_nothing_happened(self, desk, prometheus):
        for question in domain.ROUTES["auth"].values():
            prometheus.series[question.expr] = []

        assert "Nothing was measured" in desk().get(f"{PAGE}/auth").text

    def test_goes_without_its_routes(self, desk, prometheus):
        prometheus.refused["service_rule"] = 503

        answer = desk().get(f"{PAGE}/auth")

        assert answer.status_code == 200
        assert "This cannot be shown right now." in answer.text
        assert "<polyline" in answer.text


class TestDegraded:
    """Without Prometheus there is a page, and it names the next command."""

    @pytest.mark.parametrize("path", [PAGE, f"{PAGE}/catalog"])
    def test_names_the_next_command_when_it_is_away(self, desk, path):
        answer = desk(prometheus_url="http://127.0.0.1:1").get(path)

        assert answer.status_code == 200
        assert "Prometheus does not answer." in answer.text
        assert "<code>make restart P=prometheus</code>" in answer.text
        assert "<polyline" not in answer.text

    def test_still_says_how_everything_is(self, desk):
        text = desk(prometheus_url="http://127.0.0.1:1").get(PAGE).text

        assert "catalog Ready" in plain(text)
        assert 'name="id"' in text

    def test_does_not_wait_for_it_again_and_again(self, desk, prometheus):
        browser = desk()
        prometheus.refused[""] = 503
        browser.get(PAGE)
        first = len(prometheus.asked)

        browser.get(PAGE)

        # The circuit is open: at most one call tries whether it may close.
        assert len(prometheus.asked) - first <= 1

    def test_leaves_the_shop_alone_while_it_is_slow(
        self, desk, make_browser, platform, prometheus, a_product
    ):
        platform.add(a_product)
        browser = desk(threads=1, call_seconds=60)
        visitor = make_browser(app=browser.client.application)
        prometheus.open.clear()
        pages = []
        looking = threading.Thread(target=lambda: pages.append(browser.get(PAGE)))
        looking.start()
        try:
            assert prometheus.came.wait(60)

            assert a_product["name"] in visitor.get("/").text
            assert pages == []
        finally:
            prometheus.open.set()
            looking.join(60)
        assert pages[0].status_code == 200

    @pytest.mark.parametrize("status", [401, 404, 422, 503])
    def test_goes_without_what_is_refused(self, desk, prometheus, status):
        prometheus.refused["flagon_sse_connections"] = status

        answer = desk().get(PAGE)

        assert answer.status_code == 200
        assert answer.text.count("This cannot be shown right now.") == 1
        assert "Prometheus does not answer." not in answer.text
        assert "<polyline" in answer.text

    @pytest.mark.parametrize(
        "said",
        [
            [],
            {"status": "success"},
            {"data": {"result": [{"metric": {}}]}},
            {"data": {"result": [{"metric": {"a": 1}, "value": [1, "x"]}]}},
            "<html>",
        ],
    )
    def test_bears_what_makes_no_sense(self, desk, prometheus, said):
        prometheus.said = said

        answer = desk().get(PAGE)

        assert answer.status_code == 200
        assert "Prometheus does not answer." in answer.text

    def test_says_when_there_is_none(self, desk):
        for path in (PAGE, f"{PAGE}/web"):
            text = desk(prometheus_url="").get(path).text

            assert "There is no Prometheus to ask." in text
            assert "<code>WEB_PROMETHEUS_URL</code>" in text

    def test_is_never_asked_where_there_is_none(self, fit_app):
        from flagon_chassis.http import Unreachable

        prometheus = fit_app().extensions["flagon.web"].prometheus

        assert prometheus.known is False
        with pytest.raises(Unreachable):
            prometheus.alerts()


class TestFindRequest:
    ID = "0123456789abcdef0123456789abcdef"

    def ask(self, browser, wanted=ID):
        return browser.get(f"{PAGE}/request", query_string={"id": wanted})

    @pytest.mark.parametrize("wanted", [ID, f"urn:request:{ID}", f"  {ID} "])
    def test_names_the_commands(self, desk, wanted):
        text = self.ask(desk(traces="log"), wanted).text

        assert f"<code>make logs REQUEST={self.ID}</code>" in text
        assert f"<code>make trace ID={self.ID}</code>" in text

    def test_names_the_platform_that_is_meant(self, desk):
        browser = desk(public_url="http://localhost:9090", traces="log")

        assert f"make logs PORT_BASE=9090 REQUEST={self.ID}" in self.ask(browser).text

    def test_leads_to_the_trace_where_traces_are(self, desk):
        page = "http://localhost:8116/trace/{id}"
        browser = desk(traces="otlp", traces_page=page)

        assert f'href="http://localhost:8116/trace/{self.ID}"' in self.ask(browser).text
        # An id of a caller's own is none of a trace.
        assert ":8116" not in self.ask(browser, "order-66-x").text

    def test_says_when_no_trace_is_kept(self, desk):
        assert "No traces are kept" in self.ask(desk()).text

    def test_names_the_command_of_a_cluster_in_production(self, desk):
        assert "kubectl" not in self.ask(desk()).text
        browser = desk(environment="production")

        assert f"grep -F {self.ID}" in self.ask(browser).text

    def test_takes_nothing_that_is_no_id(self, desk):
        browser = desk()

        for wanted in (
            "short",
            "x" * 65,
            "$(reboot)reboot",
            "a; rm -rf ~ #",
            "a b c d e f g",
            "`reboot`````",
            "'<script>'",
            "../../etc/passwd",
            "urn:request:",
        ):
            answer = self.ask(browser, wanted)
            assert answer.status_code == 422, wanted
            assert "An id has 8 to 64" in answer.text
            assert "make logs" not in answer.text
            assert "<script>'" not in answer.text

    def test_asks_for_an_id_first(self, desk):
        answer = self.ask(desk(), " ")

        assert answer.status_code == 200
        assert "make logs" not in answer.text
        assert "field__error" not in answer.text


class TestDomain:
    def test_has_no_question_twice(self):
        asked = domain.questions()

        assert len({one.expr for one in asked}) >= 40
        assert all(one.expr == " ".join(one.expr.split()) for one in asked)

    def test_of_copies_of_a_process_the_worst_counts(self, fit_app, prometheus):
        prometheus.series['up{job="flagon"}'] = [
            ({"process": "web"}, value) for value in ("1", "0", "1")
        ]
        api = fit_app(prometheus_url=prometheus.url).extensions["flagon.web"]

        found = api.prometheus.values(domain.PRESENT["processes"])

        assert found == {"web": 0.0}

    def test_sends_times_that_prometheus_reads(self, fit_app, prometheus):
        api = fit_app(prometheus_url=prometheus.url).extensions["flagon.web"]
        window = Window(1_700_000_000.5, 1_700_003_600.5, 30, 900)

        api.prometheus.tracks(domain.PRESENT["p50"], window)

        ((_method, _path, params),) = prometheus.asked
        assert (params["start"], params["step"]) == ("1700000000.500", "30")

    @pytest.mark.parametrize(
        ("left", "looks", "shown"),
        [(1.0, "ready", 1.0), (0.05, "degraded", 0.05), (-2.0, "down", 0.0)],
    )
    def test_tells_how_a_budget_looks(self, left, looks, shown):
        (found,) = domain.budgets({"own": left}, {})

        assert (found.title, found.looks, found.shown) == ("own", looks, shown)
        assert found.burn_words == ""

    def test_leaves_out_budgets_of_what_never_happened(self):
        assert domain.budgets({"availability": float("nan")}, {}) == []

    @pytest.mark.parametrize(
        ("said", "looks"),
        [([True, True], "ready"), ([True, False], "degraded"), ([False], "down")],
    )
    def test_a_store_is_as_those_say_who_use_it(self, said, looks):
        checks = {
            name: {"postgres": {"ok": ok}}
            for name, ok in zip(("auth", "catalog"), said, strict=False)
        }

        found = {one.name: one.looks for one in domain.service_map({}, checks).nodes}

        assert found["postgres"] == looks
        assert found["redis_cache"] == "unknown"
        assert found["gateway"] == "unknown"


class Sink(Peer):
    """The sink of traces, which knows one request."""

    def __init__(self):
        super().__init__()
        self.asked = []
        self.said = (200, {"traces": [{"trace_id": TRACE, "complete": True}]})
        self.spans = [
            span(1, service="gateway", name="GET /", ms=(0, 100)),
            span(
                2, 1, service="catalog", name="<script>alert(1)</script>", ms=(10, 60)
            ),
            span(3, 2, name="SELECT", ms=(20, 30), failed=True, error="Boom: no"),
            span(4, 9, name="orphan", ms=(50, 51), links=[f"{OTHER}-{'5' * 16}"]),
        ]

    def answer(self, method, path, headers, body):
        self.asked.append(path)
        status, said = self.said
        if status == 200 and said:
            said["traces"][0].setdefault("spans", self.spans)
        return status, said


TRACE, OTHER = "0123456789abcdef0123456789abcdef", "f" * 32


def span(number, parent=None, *, service="catalog", ms=(0, 1), **members):
    return {
        "trace_id": TRACE,
        "span_id": f"{number:016x}",
        "parent_id": parent and f"{parent:016x}",
        "service": service,
        "name": "work",
        "kind": "server",
        "started_us": 1_000_000 + ms[0] * 1000,
        "ended_us": 1_000_000 + ms[1] * 1000,
        "failed": False,
        **members,
    }


@pytest.fixture
def sink():
    peer = Sink()
    yield peer
    peer.close()


class TestWaterfall:
    def ask(self, desk, sink, wanted=TRACE, **settings):
        browser = desk(traces="otlp", traces_url=sink.url, **settings)
        return browser.get(f"{PAGE}/request", query_string={"id": wanted})

    def test_draws_what_every_process_did(self, desk, sink):
        answer = self.ask(desk, sink)

        assert answer.status_code == 200
        assert sink.asked == [f"/traces/{TRACE}"]
        words = plain(answer.text)
        assert f"4 steps in 100 ms {TRACE}" in words
        assert "catalog : SELECT failed Boom: no" in words
        assert answer.text.count("<rect") == 4
        assert 'x="100.0" y="1" width="500.0"' in answer.text

    def test_stands_in_the_order_of_causes(self, desk, sink):
        text = self.ask(desk, sink).text

        steps = re.findall(r"fall__step--(\d+)", text)
        assert steps == ["0", "1", "2", "0"]

    def test_says_it_in_german(self, desk, sink):
        browser = desk(traces="otlp", traces_url=sink.url)
        text = browser.get(
            f"{PAGE}/request",
            query_string={"id": TRACE},
            headers={"Accept-Language": "de"},
        ).text

        assert "4 Schritte in" in text

    def test_takes_nothing_for_markup_and_no_style_of_its_own(self, desk, sink):
        text = self.ask(desk, sink).text

        assert "<script>alert(1)" not in text
        assert " style=" not in text

    def test_leads_to_what_was_done_beside_it(self, desk, sink):
        assert f"request?id={OTHER}" in self.ask(desk, sink).text

    def test_says_when_nothing_is_kept(self, desk, sink):
        sink.said = (404, {"traces": []})

        assert "No trace is kept of it" in self.ask(desk, sink).text

    @pytest.mark.parametrize("said", [(500, {}), (403, {}), (200, {})])
    def test_goes_without_when_the_sink_is_in_trouble(self, desk, sink, said):
        sink.said = said
        answer = self.ask(desk, sink)

        assert answer.status_code == 200
        assert "The sink of traces does not answer." in answer.text
        assert f"make logs REQUEST={TRACE}" in answer.text

    def test_asks_nothing_for_what_is_no_id(self, desk, sink):
        assert self.ask(desk, sink, "../../livez").status_code == 422
        assert sink.asked == []

    def test_is_for_operators_alone(self, desk, sink):
        assert self.ask(desk, sink, role="customer").status_code == 403
        assert sink.asked == []

    def test_is_never_asked_where_there_is_none(self, fit_app):
        traces = (
            fit_app(traces_url="http://127.0.0.1:1").extensions["flagon.web"].traces
        )

        assert traces.known is False
        with pytest.raises(Unreachable):
            traces.find(TRACE)


class TestDraw:
    def draw(self, *spans, complete=True):
        return waterfall.draw(
            waterfall.Trace(trace_id=TRACE, complete=complete, spans=list(spans))
        )

    def test_of_nothing_is_empty(self):
        assert self.draw().rows == []

    def test_shows_what_names_itself_as_its_cause_nowhere(self):
        assert self.draw(span(1, 1), span(2)).rows[0].depth == 0

    def test_is_no_longer_than_a_page(self):
        it = self.draw(*(span(n + 1) for n in range(waterfall.ROWS + 5)))

        assert (len(it.rows), it.hidden) == (waterfall.ROWS, 5)

    def test_moves_rows_only_so_far(self):
        it = self.draw(*(span(n + 1, n or None) for n in range(40)))

        assert max(row.depth for row in it.rows) == waterfall.DEEPEST

    def test_every_bar_is_within_its_picture(self):
        it = self.draw(span(1, ms=(0, 1000)), span(2, 1, ms=(1000, 1000)))

        assert all(row.x + row.width <= waterfall.WIDTH for row in it.rows)
