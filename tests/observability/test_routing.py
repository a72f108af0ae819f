"""Who is told of what: a real Alertmanager, and a real receiver of its messages."""

import json
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest
from flagonctl import programs, watching
from flagonctl.problem import Problem
from flagonctl.stack import Stack

from flagon_chassis.testing import lacking

from .conftest import ROOT, all_rules


@pytest.fixture(scope="module", autouse=True)
def installed():
    """Alertmanager, which local mode needs only when asked for it."""
    try:
        programs.find("prometheus-alertmanager")
    except Problem:
        lacking("Alertmanager", "JUDGES=1 make setup")


STACK = Stack("local", 27_550, ROOT)
NAMES = {rule["alert"] for _file, rule in all_rules() if "alert" in rule}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def eventually(ask, seconds=30):
    """Wait for what surely happens."""
    deadline = time.monotonic() + seconds
    while not (found := ask()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found


class Manager:
    """An Alertmanager, and what it has posted."""

    def __init__(self, url):
        self.url = url
        self.posted = []

    def fire(self, *alerts):
        """Tell it of alerts as Prometheus does."""
        httpx2.post(
            f"{self.url}/api/v2/alerts",
            json=[{"labels": labels} for labels in alerts],
        ).raise_for_status()

    def told(self, alertname):
        """Return the messages about an alert."""
        return [
            message
            for message in self.posted
            if any(a["labels"]["alertname"] == alertname for a in message["alerts"])
        ]

    def state(self, alertname):
        """Return `active`, `suppressed` or None."""
        found = httpx2.get(f"{self.url}/api/v2/alerts").json()
        states = [
            (one["status"]["state"], one["status"])
            for one in found
            if one["labels"]["alertname"] == alertname
        ]
        return states[0] if states else (None, {})

    def amtool(self, *arguments):
        return subprocess.run(
            [programs.find("amtool"), f"--alertmanager.url={self.url}", *arguments],
            check=True,
            capture_output=True,
            text=True,
        ).stdout


@pytest.fixture
def manager(tmp_path):
    posted = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers["Content-Length"])
            posted.append(json.loads(self.rfile.read(length)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    config = tmp_path / "alertmanager.yml"
    webhook = f"http://127.0.0.1:{server.server_port}/"
    config.write_text(watching.alertmanager(STACK, webhook, group_wait="300ms"))
    port = free_port()
    process = subprocess.Popen(
        [
            programs.find("prometheus-alertmanager"),
            f"--config.file={config}",
            f"--storage.path={tmp_path}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    found = Manager(f"http://127.0.0.1:{port}")
    found.posted = posted

    def ready():
        try:
            return httpx2.get(f"{found.url}/-/ready").status_code == 200
        except httpx2.TransportError:
            return False

    try:
        eventually(ready)
        yield found
    finally:
        process.terminate()
        process.wait(30)
        server.shutdown()
        server.server_close()


class TestConfiguration:
    @pytest.mark.parametrize("webhook", ["", 'https://example.org/alerts?a=b&c="d"'])
    def test_is_taken_by_amtool(self, tmp_path, webhook):
        path = tmp_path / "alertmanager.yml"
        path.write_text(watching.alertmanager(STACK, webhook))

        done = subprocess.run(
            [programs.find("amtool"), "check-config", path],
            check=False,
            capture_output=True,
            text=True,
        )

        assert done.returncode == 0, done.stdout + done.stderr

    def test_names_no_alert_that_does_not_exist(self):
        import re

        import yaml

        found = yaml.safe_load(watching.alertmanager(STACK, ""))
        for rule in found["inhibit_rules"]:
            for matcher in rule["source_matchers"] + rule["target_matchers"]:
                asked = re.fullmatch(r'alertname (=~|=) "(.+)"', matcher)
                for part in asked[2].split("|") if asked else []:
                    assert any(re.fullmatch(part, name) for name in NAMES), part


class TestRouting:
    def test_tells_the_pager_of_pages_and_the_desk_of_tickets(self, manager):
        manager.fire(
            {"alertname": "GatewayDown", "severity": "page", "service": "gateway"},
            {"alertname": "TooManySeries", "severity": "ticket"},
        )

        (page,) = eventually(lambda: manager.told("GatewayDown"))
        (ticket,) = eventually(lambda: manager.told("TooManySeries"))
        assert page["receiver"] == "pager"
        assert ticket["receiver"] == "tickets"

    def test_makes_one_message_of_one_cause(self, manager):
        manager.fire(
            *(
                {
                    "alertname": "DiskFull",
                    "severity": "page",
                    "service": "machine",
                    "mountpoint": point,
                }
                for point in ("/", "/var", "/srv")
            )
        )

        (message,) = eventually(lambda: manager.told("DiskFull"))
        assert len(message["alerts"]) == 3

    def test_holds_back_what_follows_from_the_cause(self, manager):
        manager.fire({"alertname": "PostgresDown", "severity": "page"})
        eventually(lambda: manager.told("PostgresDown"))

        manager.fire(
            {"alertname": "ServiceDown", "severity": "page", "service": "catalog"},
            {
                "alertname": "AvailabilityBurnsFast",
                "severity": "page",
                "slo": "availability",
            },
            {"alertname": "DiskFull", "severity": "page", "mountpoint": "/"},
        )

        eventually(lambda: manager.told("DiskFull"))
        for name in ("ServiceDown", "AvailabilityBurnsFast"):
            state, status = manager.state(name)
            assert state == "suppressed", name
            assert status["inhibitedBy"], name
            assert manager.told(name) == []

    def test_tells_of_the_fast_burn_of_an_objective_alone(self, manager):
        fast = {
            "alertname": "JobStartBurnsFast",
            "severity": "page",
            "slo": "job-start",
        }
        manager.fire(fast)
        eventually(lambda: manager.told("JobStartBurnsFast"))

        manager.fire(
            {**fast, "alertname": "JobStartBurnsSlowly", "severity": "ticket"},
            {
                "alertname": "ReadLatencyBurnsSlowly",
                "severity": "ticket",
                "slo": "read-latency",
            },
        )

        # Another objective's trouble is another trouble.
        eventually(lambda: manager.told("ReadLatencyBurnsSlowly"))
        assert manager.state("JobStartBurnsSlowly")[0] == "suppressed"
        assert manager.told("JobStartBurnsSlowly") == []

    def test_is_silent_about_what_somebody_silenced(self, manager):
        manager.amtool(
            "silence",
            "add",
            "alertname=OutboxOld",
            "--duration=1h",
            "--author=test",
            "--comment=the relay is upgraded",
        )

        manager.fire(
            {"alertname": "OutboxOld", "severity": "page", "service": "catalog"},
            {"alertname": "RulesFail", "severity": "page"},
        )

        eventually(lambda: manager.told("RulesFail"))
        state, status = manager.state("OutboxOld")
        assert state == "suppressed"
        assert status["silencedBy"]
        assert manager.told("OutboxOld") == []
