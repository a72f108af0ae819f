"""Every alert fires when it should, is silent when it should, and ends."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from flagonctl import programs
from flagonobs import slo

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
HOME = ROOT / "deploy" / "observability"
CASES = yaml.safe_load((HERE / "alerts.yml").read_text())
INSTALLED = {
    rule["alert"]: (component, rule)
    for component in ("prometheus", "exporters")
    for installed in yaml.safe_load_all(
        (ROOT / f"deploy/k8s/components/{component}/rules.yaml").read_text()
    )
    if installed["metadata"]["name"] in {"flagon-alerts", "flagon-stores"}
    for group in installed["spec"]["groups"]
    for rule in group["rules"]
}
"""The alerts of a cluster by their names, each with the component that brings it."""
SLOW_SECONDS = 300
"""Between evaluations where a test goes over days."""


def promtool(*arguments):
    """Return what promtool says; it must be content."""
    done = subprocess.run(
        [programs.find("promtool"), *arguments],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def firing(name, **times):
    """Return promtool's questions whether an alert fires, by times at which it must."""
    asked = f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) > bool 0'
    return [
        {
            "expr": asked,
            "eval_time": time,
            "exp_samples": [{"labels": "{}", "value": 1}] if expected else [],
        }
        for time, expected in times.items()
    ]


def series(values):
    return [{"series": one, "values": text} for one, text in values.items()]


def write(folder, name, rules, case, questions):
    """Write one test file of promtool and return its path."""
    slow = name.endswith("BurnsSlowly")
    test = {
        "rule_files": [str(path) for path in rules],
        "evaluation_interval": f"{SLOW_SECONDS}s" if slow else "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": series(case),
                "promql_expr_test": questions,
            }
        ],
    }
    path = folder / f"{name}.yml"
    path.write_text(yaml.safe_dump(test))
    return path


def in_pods(values):
    """Return series as two pods of a cluster have them, with the operator's labels."""
    found = {}
    for one, text in values.items():
        metric, _, labels = one.rstrip("}").partition("{")
        kept = [label for label in labels.split(",") if label]
        name = "process"
        for label in [each for each in kept if each.startswith("instance=")]:
            kept.remove(label)
            name = label.split('"')[1]
        for pod in (f"{name}-5d9c6-2xkqv", f"{name}-5d9c6-w8l4t"):
            given = (f'instance="{pod}"', f'pod="{pod}"', 'namespace="flagon"')
            found[f"{metric}{{{','.join([*kept, *given])}}}"] = text
    return found


def by_exporters(values):
    """Return series as a cluster has them of exporters, whose targets keep their names."""
    given = 'pod="redis-exporter-5d9c6-2xkqv",namespace="flagon",endpoint="metrics"'
    return {f"{one.rstrip('}')},{given}}}": text for one, text in values.items()}


SEEN = {"prometheus": in_pods, "exporters": by_exporters}


@pytest.fixture(scope="session")
def rules(tmp_path_factory):
    """Return the rules that decide about an alert, in a file of their own."""
    folder = tmp_path_factory.mktemp("rules")
    objectives = slo.load(HOME / "slos.yml")
    alerts = yaml.safe_load((HOME / "rules" / "alerts.yml").read_text())["groups"]
    kept = yaml.safe_load((HOME / "rules" / "slo.yml").read_text())["groups"]

    def found(name):
        path = folder / f"{name}.yml"
        for group in alerts:
            one = [rule for rule in group["rules"] if rule["alert"] == name]
            if one:
                path.write_text(
                    yaml.safe_dump({"groups": [{"name": "one", "rules": one}]})
                )
                return path
        of = next(o for o in objectives if name in map(o.alert, slo.SEVERITIES))
        source = kept
        if name == of.alert("ticket"):
            # Days in steps of a quarter of a minute take minutes to count through.
            source = slo.rules([of], every_seconds=SLOW_SECONDS)["groups"]
        chosen = [
            {
                **group,
                "rules": [r for r in group["rules"] if r["labels"]["slo"] == of.name],
            }
            for group in source
            if group["name"] != "slo-budget"
        ]
        path.write_text(yaml.safe_dump({"groups": chosen}))
        return path

    return found


class TestFiles:
    def test_are_taken_by_promtool(self):
        promtool("check", "rules", *sorted((HOME / "rules").glob("*.yml")))

    def test_record_what_they_should(self):
        promtool("test", "rules", *sorted((HOME / "rules" / "tests").glob("*.yml")))


class TestAlerts:
    def test_are_all_tried(self, alerts):
        assert set(CASES) == set(alerts)

    @pytest.mark.parametrize("name", sorted(CASES))
    def test_fire_when_they_should_and_end(self, name, rules, tmp_path):
        case = CASES[name]
        times = {case["silent"]: False, case["fires"]: True, case["resolves"]: False}
        questions = firing(name, **times)

        promtool(
            "test",
            "rules",
            write(tmp_path, name, [rules(name)], case["series"], questions),
        )

    @pytest.mark.parametrize(
        "name", sorted(name for name, case in CASES.items() if "never" in case)
    )
    def test_are_silent_about_what_looks_alike(self, name, rules, tmp_path):
        case = CASES[name]
        times = dict.fromkeys([case["silent"], case["fires"], case["resolves"]], False)
        questions = firing(name, **times)

        promtool(
            "test",
            "rules",
            write(tmp_path, name, [rules(name)], case["never"], questions),
        )

    @pytest.mark.parametrize("name", sorted(INSTALLED))
    def test_do_so_in_a_cluster_too(self, name, tmp_path):
        case = CASES[name]
        times = {case["silent"]: False, case["fires"]: True, case["resolves"]: False}
        component, installed = INSTALLED[name]
        seen = SEEN[component](case["series"])
        rule = tmp_path / "rule.yml"
        rule.write_text(
            yaml.safe_dump({"groups": [{"name": "one", "rules": [installed]}]})
        )

        promtool(
            "test",
            "rules",
            write(tmp_path, name, [rule], seen, firing(name, **times)),
        )

    def test_say_how_bad_it_is_and_who_cares(self, alerts):
        for name, rule in alerts.items():
            assert rule["labels"]["severity"] in {"page", "ticket"}, name
            assert rule["labels"]["owner"], name
            assert rule["annotations"]["summary"], name
            assert rule["annotations"]["description"], name


class TestRunbooks:
    PAGES = sorted(
        path
        for path in (ROOT / "docs" / "runbooks").glob("*.md")
        if path.name != "README.md"
    )

    def test_exist_for_every_alert(self, alerts):
        for name, rule in alerts.items():
            page = ROOT / rule["annotations"]["runbook"]
            assert page.exists(), f"{name}: no {page.name}"
            assert f"`{name}`" in page.read_text(), (
                f"{page.name} is silent about {name}"
            )

    def test_belong_to_an_alert(self, alerts):
        used = {Path(rule["annotations"]["runbook"]).name for rule in alerts.values()}

        assert {page.name for page in self.PAGES} == used

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
    def test_say_what_to_do(self, page):
        text = page.read_text()
        headings = re.findall(r"^## (.+)$", text, re.MULTILINE)

        assert headings == ["Meaning", "Impact", "Check", "Fix"]

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
    def test_name_commands_that_exist(self, page):
        makefile = (ROOT / "Makefile").read_text()
        targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
        text = page.read_text()
        check = text.partition("## Check")[2].partition("## Fix")[0]
        commands = re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)

        assert re.search(r"```sh\n(make|curl|df|openssl)", check)
        assert set(commands) <= targets

    def test_are_listed(self):
        listed = (ROOT / "docs" / "runbooks" / "README.md").read_text()

        assert [p.name for p in self.PAGES if f"({p.name})" not in listed] == []
