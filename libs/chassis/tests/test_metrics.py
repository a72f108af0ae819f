import os
import re
import subprocess
import sys
import time

import pytest
from flask import Flask

from flagon_chassis import metrics

from .conftest import SECRET, sample


@pytest.fixture
def client(make_settings):
    app = Flask("things")
    app.extensions["flagon.settings"] = make_settings(release="1.2.3")
    metrics.init_app(app, "things")
    app.add_url_rule("/things/<name>", "thing", lambda name: name)
    return app.test_client()


class TestInitApp:
    def test_counts_by_route_and_not_by_path(self, client):
        client.get("/things/1")
        client.get("/things/2")

        text = client.get("/metrics").text

        line = next(
            line
            for line in text.splitlines()
            if line.startswith("flask_http_request_duration_seconds_count")
        )
        assert 'url_rule="/things/<name>"' in line
        assert 'service="things"' in line
        assert line.endswith(" 2.0")
        assert "/things/1" not in text

    def test_looks_up_what_is_to_be_shown(self, client):
        asked = []
        metrics.before_scrape(client.application, lambda: asked.append(1))

        client.get("/metrics")
        client.get("/metrics")

        assert asked == [1, 1]

    def test_say_what_time_it_is(self, client):
        before = time.time()

        text = client.get("/metrics").text

        said = float(re.search(r"^flagon_clock_seconds (\S+)$", text, re.MULTILINE)[1])
        assert before <= said <= time.time()

    def test_say_what_release_it_is(self, client):
        text = client.get("/metrics").text

        assert 'flagon_build_info{release="1.2.3",service="things"} 1.0\n' in text

    def test_unknown_paths_make_no_labels(self, client):
        client.get("/wp-admin.php")

        assert "wp-admin" not in client.get("/metrics").text


class TestTarget:
    def test_says_no_release_before_it_knows_one(self):
        found = [family.name for family in metrics._Target().collect()]

        assert found == ["flagon_clock_seconds"]


class TestMetrics:
    def test_are_made_once(self):
        first = metrics.counter("flagon_test_made_total", "For this test.")

        assert metrics.counter("flagon_test_made_total", "For this test.") is first
        first.inc()
        assert sample("flagon_test_made_total") == 1

    def test_of_a_single_process_are_in_one_registry(self):
        assert metrics.collect() is metrics.REGISTRY


def said(code, folder):
    """What a process that forked a `child` says for both, which share a folder."""
    code += (
        "os.waitpid(child, 0) if child else os._exit(0)\n"
        "print(metrics.exposition().decode())"
    )
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    return subprocess.check_output([sys.executable, "-c", code], env=env, text=True)


class TestSeveralProcesses:
    def test_are_of_one_release(self, tmp_path):
        code = (
            "import os\n"
            "from flagon_chassis import metrics\n"
            "from flagon_chassis.settings import ServiceSettings\n"
            f"settings = ServiceSettings(secret_key='{SECRET}')\n"
            "metrics.say_build(settings, 'things')\n"
            "child = os.fork()\n"
        )

        text = said(code, tmp_path)

        (line,) = re.findall(r"^flagon_build_info.*$", text, re.MULTILINE)
        assert line == 'flagon_build_info{release="unknown",service="things"} 1.0'

    def test_add_up(self, tmp_path):
        code = (
            "import os\n"
            "from flagon_chassis import metrics\n"
            "assert metrics.multiprocess()\n"
            "count = metrics.counter('flagon_things_total', 'Things.')\n"
            "gauge = metrics.gauge('flagon_now', 'Now.')\n"
            "took = metrics.histogram('flagon_seconds', 'Took.', 'name')\n"
            "child = os.fork()\n"
            "count.inc(); gauge.set(1); took.labels('a').observe(0.2)\n"
        )

        text = said(code, tmp_path)

        assert "flagon_things_total 2.0" in text
        assert 'flagon_seconds_count{name="a"} 2.0' in text
