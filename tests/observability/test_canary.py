"""What judges a new release in Kubernetes asks about its own pods alone."""

import pytest
import yaml
from flagonobs import slo

from .conftest import HOME, ROOT
from .test_rules import promtool, write

OBJECTIVES = slo.load(HOME / "slos.yml")
METRICS = {
    one["name"]: one["provider"]["prometheus"]["query"]
    for one in yaml.safe_load(slo.analysis(OBJECTIVES))["spec"]["metrics"]
}
COUNT, BUCKET = (
    f"flask_http_request_duration_seconds_{what}" for what in ("count", "bucket")
)


def requests(name, pod, values, **labels):
    """Return the series of the reads of one pod."""
    labels = {"service": "catalog", "method": "GET", "instance": pod, **labels}
    labels = {"url_rule": "/api/v1/products", "status": "200", **labels}
    told = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return {f"{name}{{{told}}}": values}


@pytest.fixture
def judged(tmp_path):
    """Return whether a release has this share of bad events after ten minutes."""

    def judge(name, series, expected):
        query = METRICS[name].replace("{{args.service}}", "catalog")
        query = query.replace("{{args.hash}}", "b2")
        samples = [] if expected is None else [{"labels": "{}", "value": expected}]
        question = {"expr": query, "eval_time": "10m", "exp_samples": samples}
        promtool("test", "rules", write(tmp_path, name, [], series, [question]))

    return judge


class TestCanary:
    def test_is_judged_by_the_objectives_about_requests(self):
        assert set(METRICS) == {"availability", "read-latency"}

    def test_is_judged_by_its_own_pods_alone(self, judged):
        bad = requests(COUNT, "catalog-a1-x", "0+60x20", status="500")
        judged("availability", requests(COUNT, "catalog-b2-y", "0+60x20") | bad, None)

    def test_that_fails_each_fourth_request_is_seen(self, judged):
        stable = requests(COUNT, "catalog-a1-x", "0+600x20")
        good = requests(COUNT, "catalog-b2-y", "0+45x20")
        bad = requests(COUNT, "catalog-b2-y", "0+15x20", status="500")
        judged("availability", stable | good | bad, 0.25)

    def test_that_is_slow_is_seen(self, judged):
        stable = requests(COUNT, "catalog-a1-x", "0+600x20")
        stable |= requests(BUCKET, "catalog-a1-x", "0+600x20", le="0.1")
        new = requests(COUNT, "catalog-b2-y", "0+60x20")
        new |= requests(BUCKET, "catalog-b2-y", "0+15x20", le="0.1")
        judged("read-latency", stable | new, 0.75)

    def test_that_nobody_asks_is_not_judged(self, judged):
        judged("read-latency", requests(COUNT, "catalog-a1-x", "0+60x20"), None)

    def test_may_not_burn_as_fast_as_wakes_somebody(self):
        template = yaml.safe_load(
            (ROOT / "deploy/k8s/components/rollouts/analysis.yaml").read_text()
        )
        limits = {
            one["name"]: one["successCondition"].rpartition(" ")[2]
            for one in template["spec"]["metrics"]
        }

        assert limits == {"availability": "0.0144", "read-latency": "0.72"}
