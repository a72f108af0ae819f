"""What is made of other files is what they make today; what is made is sound."""

import ast
import json
import re
from collections import defaultdict

import pytest
import yaml
from flagonobs import __main__ as making
from flagonobs import dashboards, slo
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from . import grafana
from .conftest import HOME, ROOT, all_rules, metrics_in

# What reads the options of each kind of panel.
register_default_plugins()
BOARDS = {board.name: board for board in dashboards.boards()}


@pytest.mark.parametrize(
    ("what", "command"), [("slo", "make slo"), ("dashboards", "make dashboards")]
)
class TestMadeFiles:
    def test_are_not_older_than_their_source(self, what, command):
        old = [
            path.relative_to(ROOT).as_posix()
            for path, text in making.made(what).items()
            if not path.exists() or path.read_text() != text
        ]

        assert old == [], f"Next: {command}"


class TestObjectives:
    OBJECTIVES = slo.load(HOME / "slos.yml")

    def test_are_those_that_are_promised(self):
        assert {one.name: one.objective for one in self.OBJECTIVES} == {
            "availability": 0.999,
            "read-latency": 0.95,
            "event-to-screen": 0.95,
            "job-start": 0.95,
        }

    def test_use_limits_that_the_histograms_have(self):
        from flagon_chassis.metrics import SECONDS

        text = (HOME / "slos.yml").read_text()
        limits = {float(one) for one in re.findall(r'le="([0-9.]+)"', text)}

        assert limits
        assert limits <= set(SECONDS)

    def test_that_lack_a_field_are_refused(self, tmp_path):
        path = tmp_path / "slos.yml"
        path.write_text(yaml.safe_dump([{"name": "half"}]))

        with pytest.raises(TypeError):
            slo.load(path)


def all_panels():
    """Yield every panel of every dashboard."""
    for board in BOARDS.values():
        for panels in board.rows.values():
            yield from panels


def made_metrics():
    """Return the name of each metric that the code of a process makes."""
    makers = {"counter", "gauge", "histogram"}
    for path in (
        *ROOT.glob("libs/*/src/**/*.py"),
        *ROOT.glob("services/*/src/**/*.py"),
    ):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not call.args:
                continue
            maker = getattr(call.func, "attr", getattr(call.func, "id", ""))
            first = call.args[0]
            if maker in makers or maker.endswith("MetricFamily"):
                # Of any other form nobody could say whether it is read.
                assert isinstance(first, ast.Constant), f"{path}: {ast.unparse(call)}"
                yield first.value


class TestMetrics:
    def test_are_all_on_a_dashboard_or_in_a_rule(self):
        read = {
            name
            for expression in (
                *(rule["expr"] for _file, rule in all_rules()),
                *(query.expr for panel in all_panels() for query in panel.queries),
            )
            for name in metrics_in(expression)
        }
        endings = ("", "_total", "_bucket", "_count", "_sum", "_info")
        made = set(made_metrics())

        assert len(made) > 50
        assert {
            name
            for name in made
            if not any(f"{name}{ending}" in read for ending in endings)
        } == set()


class TestDashboards:
    def test_that_are_kept_are_all_made(self):
        kept = {path.stem for path in (HOME / "dashboards").glob("*.json")}

        assert kept == set(BOARDS)

    @pytest.mark.parametrize("name", sorted(BOARDS))
    def test_tell_what_each_panel_shows_and_where_to_go_on(self, name):
        found = json.loads((HOME / "dashboards" / f"{name}.json").read_text())
        panels = [panel for panel in found["panels"] if panel["type"] != "row"]

        assert panels
        for panel in panels:
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert len(panel["description"]) > 5, panel["title"]
            on, *others = (link["url"] for link in panel["links"])
            target = re.fullmatch(r"/d/flagon-(.+)", on)
            assert target is None or target[1] in BOARDS, on
            assert target or on.startswith("/explore?"), on
            for other in others:
                assert other.startswith(("${platform}/docs/", "${platform}/back-"))
            assert panel["targets"], panel["title"]

    def test_lead_to_the_runbook_of_the_alert_that_is_about_a_panel(self, alerts):
        about = defaultdict(set)
        for rule in alerts.values():
            about[rule["annotations"]["runbook"]] |= metrics_in(rule["expr"])
        wrong, found = [], 0
        for panel in all_panels():
            if panel.runbook:
                found += 1
                drawn = set().union(*(metrics_in(one.expr) for one in panel.queries))
                if not drawn & about[f"docs/runbooks/{panel.runbook}.md"]:
                    wrong.append((panel.title, panel.runbook))

        assert found > 20
        assert wrong == []

    @pytest.mark.parametrize("name", sorted(BOARDS))
    def test_are_what_grafana_can_read(self, name):
        text = (HOME / "dashboards" / f"{name}.json").read_text()

        read = Dashboard.from_json(json.loads(text))

        assert [*grafana.faults(read)] == []
        # What it does not know would be missing.
        assert json.loads(json.dumps(read, cls=JSONEncoder)) == json.loads(text)

    @pytest.mark.parametrize(
        ("field", "wrong"),
        [
            ("title", 5),
            ("links", [{"title": "a", "type": "other"}]),
            ("gridPos", {"h": "tall", "w": 1, "x": 0, "y": 0}),
            ("options", {"legend": {"displayMode": "loud"}}),
        ],
    )
    def test_that_grafana_could_not_read_are_found(self, field, wrong):
        board = json.loads((HOME / "dashboards" / "web.json").read_text())
        panel = next(one for one in board["panels"] if one["type"] == "timeseries")
        panel[field] = wrong

        assert [*grafana.faults(Dashboard.from_json(board))]

    @pytest.mark.parametrize("name", sorted(BOARDS))
    def test_have_panels_that_do_not_overlap(self, name):
        found = json.loads((HOME / "dashboards" / f"{name}.json").read_text())
        taken = set()
        for panel in found["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert place["x"] + place["w"] <= 24
            assert not cells & taken, panel["title"]
            taken |= cells

    def test_are_for_the_grafana_that_runs(self):
        compose = (ROOT / "docker-compose.yml").read_text()
        project = (ROOT / "pyproject.toml").read_text()
        running = re.search(r"grafana/grafana:(\d+\.\d+)\.", compose)
        made = re.search(r"grafana-foundation-sdk==\d+!(\d+\.\d+)\.", project)

        assert running[1] == made[1]
