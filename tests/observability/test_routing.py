"""Who is told of what: a real Alertmanager, and a real receiver of its messages."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
import yaml
from flagonctl import environment, programs, watching
from flagonctl.problem import Problem
from flagonctl.processes import BY_NAME
from flagonctl.stack import Stack
from flagonctl.vault import Vault

from flagon_chassis.testing import free_port, lacking
from flagon_web.clients.notices import Notices

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

    def fire(self, *alerts, **more):
        """Tell it of alerts as Prometheus does."""
        httpx2.post(
            f"{self.url}/api/v2/alerts",
            json=[{"labels": labels, **more} for labels in alerts],
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


@contextmanager
def started(arguments, url, **more):
    """Run a program until it answers at an address, and end it afterwards."""
    process = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more
    )

    def ready():
        try:
            return httpx2.get(url).status_code == 200
        except httpx2.TransportError:
            return False

    try:
        eventually(ready)
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def managed(folder, stack, webhook):
    """Run an Alertmanager for a stack."""
    config = folder / "alertmanager.yml"
    config.write_text(
        watching.alertmanager(
            stack, webhook, group_wait="300ms", group_interval="500ms"
        )
    )
    url = f"http://127.0.0.1:{(port := free_port())}"
    arguments = [
        programs.find("prometheus-alertmanager"),
        f"--config.file={config}",
        f"--storage.path={folder}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with started(arguments, f"{url}/-/ready"):
        yield Manager(url)


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
    webhook = f"http://127.0.0.1:{server.server_port}/"
    try:
        with managed(tmp_path, STACK, webhook) as found:
            found.posted = posted
            yield found
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def own(tmp_path):
    """A stack whose web may be started beside others."""
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    stack = Stack("local", free_port() - BY_NAME["web"].offset, tmp_path)
    Vault(stack.secrets).fill()
    return stack


@pytest.fixture
def notices(own, tmp_path, redis_url):
    """What web keeps of what it is told, by a process of its own."""
    settings = environment.plain(BY_NAME["web"], own, own.state, Path("now"))
    settings |= environment.confidential("web", own, Vault(own.secrets))
    settings |= {f"WEB_REDIS_{one}_URL": redis_url for one in ("STORE", "CACHE")}
    web = [sys.executable, "-m", "flagon_web", "serve"]
    url = f"http://{own.address('web')}/livez"
    with started(web, url, env={**os.environ, **settings}, cwd=tmp_path):
        yield Notices(redis_url, seconds=60)


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

    @pytest.mark.parametrize("mode", ["local", "docker"])
    def test_tells_web_and_who_else_wants_it(self, mode):
        stack = Stack(mode, 27_550, ROOT)
        found = yaml.safe_load(watching.alertmanager(stack, "https://pager.example/"))

        for receiver in found["receivers"]:
            web, other = receiver["webhook_configs"]
            assert web["url"] == f"http://{stack.address('web')}/internal/alerts"
            token = Path(web["http_config"]["authorization"]["credentials_file"])
            assert token.name == "web_alerts_token"
            assert (token.parent == stack.secrets) == (mode == "local")
            # What web shows it is no secret of others.
            assert other == {"url": "https://pager.example/"}

    def test_has_the_token_with_web_alone(self):
        found = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]

        assert {
            name
            for name, one in found.items()
            if "web_alerts_token" in one.get("secrets", ())
        } == {"web", "alertmanager"}

    def test_names_no_alert_that_does_not_exist(self):
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

    def test_does_not_say_that_web_hears_nothing_while_it_is_down(self, manager):
        manager.fire({"alertname": "ServiceDown", "severity": "page", "service": "web"})
        eventually(lambda: manager.told("ServiceDown"))

        manager.fire(
            {"alertname": "AlertsNotDelivered", "severity": "page"},
            {"alertname": "RulesFail", "severity": "page"},
        )

        eventually(lambda: manager.told("RulesFail"))
        assert manager.state("AlertsNotDelivered")[0] == "suppressed"

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


class TestWeb:
    def test_keeps_what_people_are_told_and_nothing_else(self, own, notices, tmp_path):
        """Silenced and inhibited alerts leave no word; what ends is told to be over."""
        outbox = {"alertname": "OutboxOld", "severity": "page", "service": "catalog"}
        silenced = {**outbox, "alertname": "CircuitOpen"}
        inhibited = {"alertname": "BulkQueueOld", "severity": "ticket"}
        about = {
            "summary": "An event has waited.",
            "runbook": "docs/runbooks/outbox-old.md",
        }

        def told():
            return {one.group.name: one.group for one in notices.list_notices()}

        with managed(tmp_path, own, "") as manager:
            manager.fire(outbox, {**outbox, "shard": "b"}, annotations=about)
            eventually(lambda: len(told()) == 1)
            group = told()["OutboxOld"]
            assert (group.receiver, group.status) == ("pager", "firing")
            assert (len(group.alerts), group.runbook) == (2, "outbox-old")

            manager.amtool(
                *("silence", "add", "alertname=CircuitOpen", "--duration=1h"),
                *("--author=test", "--comment=it is upgraded"),
            )
            manager.fire({"alertname": "TaskWorkerDown", "severity": "page"})
            eventually(lambda: "TaskWorkerDown" in told())
            manager.fire(silenced, inhibited)
            manager.fire({"alertname": "TooManySeries", "severity": "ticket"})
            eventually(lambda: "TooManySeries" in told())
            assert manager.state("CircuitOpen")[1]["silencedBy"]
            assert manager.state("BulkQueueOld")[1]["inhibitedBy"]
            assert set(told()) == {"OutboxOld", "TaskWorkerDown", "TooManySeries"}
            assert told()["TooManySeries"].receiver == "tickets"

            ended = datetime.now(UTC).isoformat()
            manager.fire(outbox, {**outbox, "shard": "b"}, endsAt=ended)
            eventually(lambda: not told()["OutboxOld"].firing)
            assert [one.status for one in told()["OutboxOld"].alerts] == [
                "resolved"
            ] * 2
