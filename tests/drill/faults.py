"""Break eleven things, one after the other: the right alert wakes somebody, and no other.

    make drill-faults [N=<pattern of names> PORT_BASE=…]

Starts a stack of its own with all that watches it, and forgets it. For the rules a minute
lasts five seconds: the ranges of their queries and what they wait for are a twelfth, all
else is as it is delivered. Of each alert's runbook the first command is run, and has to
show the cause. Ends with 1 when something was not as promised; takes a quarter of an hour.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

sys.path.extend(
    str(Path(__file__).resolve().parents[2] / name)
    for name in ("tests/e2e", "deploy/local")
)

import httpx2
import psutil
import psycopg
import redis
from flagonctl import authority, environment, reach, supervisor
from flagonctl.processes import BY_NAME
from flagonctl.stack import Stack as Local
from flagonctl.vault import Vault
from harness.engine import ROOT
from harness.people import Person
from harness.stack import Stack
from harness.waiting import until

FASTER = 12
"""How many seconds of the rules pass in one of ours."""
MARGIN_SECONDS = 45
"""What scraping, evaluating and telling may take besides, on a busy machine."""
_DURATION = re.compile(
    r"(?P<before>\[|\bfor: |\boffset |\binterval: |\bevaluation_interval: )"
    r"(?P<n>\d+)(?P<unit>[smhd])"
)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def hastened(text):
    """Return rules, or Prometheus' configuration, for which time passes faster."""

    def shorter(found):
        seconds = int(found["n"]) * _SECONDS[found["unit"]] / FASTER
        # No evaluation more often than each second. Scrapes stay as they are: exporters
        # take their time to find out that nobody answers.
        least = 1.0 if "interval" in found["before"] else 0.0
        return f"{found['before']}{round(max(seconds, least) * 1000)}ms"

    return _DURATION.sub(shorter, text)


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, and what operators are to see of it."""

    name: str
    alert: str
    labels: dict
    within_seconds: float
    """From the fault to the alert: what makes it true, then what its rule waits for."""
    shows: str
    """What the first command of the runbook has to print, as a regular expression."""
    begin: str
    """The method that makes it, which ends it when it is left."""


FAULTS = [
    Fault(
        "Postgres is stopped",
        "PostgresDown",
        {},
        30 / FASTER,
        r"postgres\s.*(?i:stopped|down|not)",
        "postgres_stopped",
    ),
    Fault(
        "realtime is stopped",
        "ServiceDown",
        {"process": "realtime"},
        60 / FASTER,
        r"realtime\s.*(?i:stopped|down|not)",
        "realtime_stopped",
    ),
    Fault(
        "what the gateway leads to is stopped",
        "ServiceDown",
        {"process": "catalog"},
        60 / FASTER,
        r"catalog\s.*(?i:stopped|down|not)",
        "catalog_stopped",
    ),
    Fault(
        "the gateway is stopped",
        "GatewayDown",
        {},
        60 / FASTER,
        r"(?i:refused|connect)",
        "gateway_stopped",
    ),
    Fault(
        "a job kills whoever works on it",
        "JobsCrash",
        {"kind": "probe"},
        60 + 300 / FASTER,
        r"probe\s*\|\s*(dead|failed)",
        "poison",
    ),
    Fault(
        "the catalog is slow",
        "ReadLatencyBurnsFast",
        {},
        3600 / FASTER,
        r"catalog",
        "catalog_slow",
    ),
    Fault(
        "the store takes no writes",
        "RedisReadOnly",
        {"instance": "redis-store"},
        30 / FASTER,
        r'"master_host":"127.0.0.1"',
        "redis_read_only",
    ),
    Fault(
        "all connections of Postgres are taken",
        "PostgresConnectionsUsedUp",
        {},
        120 / FASTER,
        r'"datname":"postgres"',
        "connections_taken",
    ),
    Fault(
        "the certificate ends tomorrow",
        "CertificateExpiresSoon",
        {},
        300 / FASTER,
        r"notAfter",
        "certificate_ends",
    ),
    Fault(
        "the clock of the catalog is five minutes ahead",
        "ClockWrong",
        {"instance": "catalog"},
        60 / FASTER,
        r'"instance":"catalog"[^}]*},"value":\[[\d.]+,"(29|30)\d\.',
        "clock_wrong",
    ),
    Fault(
        "the queue fills up",
        "InteractiveQueueOld",
        {"queue": "interactive"},
        60 + 120 / FASTER,
        r"flagon_queue_oldest_seconds.*interactive",
        "queue_full",
    ),
]


class Faults:
    """Makes things go wrong on a stack of its own, and asks who is told of it."""

    def __init__(self, stack, operator):
        self.stack = stack
        self.local = Local("local", stack.port_base)
        self.supervisor = supervisor.Supervisor(self.local)
        self.operator = operator
        self.random = random.Random(7)

    # -- what goes wrong ----------------------------------------------------------------

    @contextmanager
    def stopped(self, name):
        """Have a process stopped, as if somebody forgot it."""
        self.supervisor.stop_process(name)
        try:
            yield
        finally:
            self.supervisor.start_process(name)

    def postgres_stopped(self):
        return self.stopped("postgres")

    def realtime_stopped(self):
        return self.stopped("realtime")

    def catalog_stopped(self):
        return self.stopped("catalog")

    def gateway_stopped(self):
        return self.stopped("gateway")

    @contextmanager
    def clock_wrong(self):
        program = shutil.which("faketime")
        if program is None:
            sys.exit(
                "faketime is not installed.\n  Next: sh deploy/local/packages.sh faketime"
            )
        with self.stopped("catalog"):
            catalog = subprocess.Popen(
                [program, "-f", "+5m", sys.executable, "-m", "flagon_catalog", "serve"],
                env={
                    **os.environ,
                    # By the age of files gunicorn sees which of its processes live.
                    "NO_FAKE_STAT": "1",
                    **environment.plain(
                        BY_NAME["catalog"], self.local, self.local.state
                    ),
                    **environment.confidential(
                        "catalog", self.local, Vault(self.local.secrets)
                    ),
                },
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                # What it leaves is the real one's to remove.
                **reach.runner().options,
            )
            try:
                yield
            finally:
                # Not asked to stop: with the library whose clock is wrong, who waits for
                # a thread may wait for ever.
                os.killpg(catalog.pid, signal.SIGKILL)
                catalog.wait(30)

    @contextmanager
    def poison(self):
        # Each at three workers. Beside them people are served as ever.
        for _ in range(4):
            self.hand_in({"crash": True})
            # Others' jobs come and go meanwhile.
            self.wait_for(self.hand_in({"seconds": 0}))
        yield

    def wait_for(self, path):
        """Wait until a job has ended."""

        def ended():
            with self.operator.client() as client:
                return client.get(path).json()["finished_at"]

        until(ended, what=f"an end of {path}")

    @contextmanager
    def queue_full(self):
        paths = [self.hand_in({"seconds": 60}) for _ in range(40)]
        try:
            yield
        finally:
            with self.operator.client() as client:
                for path in paths:
                    client.post(f"{path}/cancel")

    def hand_in(self, params):
        """Hand in a probe and return its address."""
        with self.operator.client() as client:
            answer = client.post(
                "/api/v1/jobs",
                files={"kind": (None, "probe"), "params": (None, json.dumps(params))},
                headers={"Idempotency-Key": f"{self.random.getrandbits(64):x}"},
            )
        assert answer.status_code == 202, answer.text
        return answer.headers["location"]

    @contextmanager
    def catalog_slow(self):
        """Lock the products nearly all the time, a bit at a time, as bad jobs do."""
        over = threading.Event()

        def hold_up():
            with self.postgres("catalog") as database:
                while not over.is_set():
                    with database.transaction():
                        database.execute("lock table product in access exclusive mode")
                        over.wait(1.2)
                    over.wait(0.1)

        thread = threading.Thread(target=hold_up)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def postgres(self, database):
        """Return a connection of who may do everything."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.local.port("postgres"),
            user="postgres",
            password=(self.local.secrets / "postgres_password").read_text().strip(),
            dbname=database,
            autocommit=True,
        )

    @contextmanager
    def redis_read_only(self):
        password = (self.local.secrets / "redis_admin_password").read_text().strip()
        with redis.Redis(
            port=self.local.port("redis-store"), username="admin", password=password
        ) as store:
            # As a replica whose primary is gone.
            store.replicaof("127.0.0.1", 1)
            try:
                yield
            finally:
                store.replicaof("NO", "ONE")

    @contextmanager
    def connections_taken(self):
        with ExitStack() as held:
            while True:
                try:
                    held.enter_context(self.postgres("postgres"))
                except psycopg.OperationalError:
                    break
            yield

    @contextmanager
    def certificate_ends(self):
        folder = self.local.tls
        before = {name: (folder / name).read_bytes() for name in _CERTIFICATE}
        try:
            with tempfile.TemporaryDirectory() as aside:
                for name in ("ca.pem", "ca.key"):
                    shutil.copy(folder / name, aside)
                authority.certify(Path(aside), days=1)
                for name in _CERTIFICATE:
                    # Into the files that are there: they are the gateway's to read.
                    (folder / name).write_bytes((Path(aside) / name).read_bytes())
            self.reload("gateway")
            yield
        finally:
            for name, content in before.items():
                (folder / name).write_bytes(content)
            self.reload("gateway")

    def reload(self, name):
        """Let a process read its configuration again."""
        psutil.Process(self.stack.pid(name)).send_signal(signal.SIGHUP)

    # -- what is told of it -------------------------------------------------------------

    def told(self):
        """Return the alerts that are told to somebody now: those without a known cause."""
        answer = httpx2.get(
            f"http://127.0.0.1:{self.local.port('alertmanager')}/api/v2/alerts",
            params={"active": "true", "inhibited": "false", "silenced": "false"},
        )
        return answer.raise_for_status().json()

    def work(self, count=40):
        """Let jobs come and go: a fault is to be one of a busy day, not all of it."""
        for path in [self.hand_in({"seconds": 0}) for _ in range(count)]:
            self.wait_for(path)

    def hasten(self):
        """Let time pass faster for the rules."""
        folder = self.local.config / "prometheus"
        for path in [folder / "prometheus.yml", *(folder / "rules").glob("*.yml")]:
            path.write_text(hastened(path.read_text()))
        self.reload("prometheus")

        def taken():
            answer = httpx2.get(f"{self.stack.prometheus_url}/api/v1/status/config")
            return "evaluation_interval: 1s250ms" in answer.json()["data"]["yaml"]

        until(taken, what="a Prometheus that took its new configuration")

    def first_command(self, runbook):
        """Run the first command of a runbook and return what it printed."""
        text = (ROOT / runbook).read_text()
        command = re.search(r"```sh\n(.+)", text)[1]
        base = self.stack.port_base
        command = re.sub(
            r"\bmake (\w+)", rf"make -s \1 MODE=local PORT_BASE={base}", command
        )
        command = command.replace(".run/local-8080", str(self.local.state))
        for port in {int(one) for one in re.findall(r"\b80[89]\d\b", command)}:
            command = command.replace(str(port), str(base + port - 8080))
        command = command.replace("8443", str(base + 363))
        done = subprocess.run(
            ["bash", "-c", command],
            check=False,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.stdout + done.stderr

    def quiet(self):
        """Wait until nobody is told of anything that wakes people."""

        def nothing():
            return not [
                one for one in self.told() if one["labels"]["severity"] == "page"
            ]

        until(nothing, 900, pause=1.0, what="an end of all pages")

    def run(self, fault):
        """Make one thing go wrong; return (seconds, other pages, what was printed)."""
        self.stack.ready()
        self.quiet()
        began, others = time.monotonic(), set()

        def fires():
            wanted = {"alertname": fault.alert, **fault.labels}
            found = None
            for one in self.told():
                labels = one["labels"]
                if wanted.items() <= labels.items():
                    found = one
                elif (
                    labels["severity"] == "page" and labels["alertname"] != fault.alert
                ):
                    others.add(labels["alertname"])
            return found

        with getattr(self, fault.begin)():
            alert = until(
                fires,
                fault.within_seconds + MARGIN_SECONDS + 60,
                pause=0.5,
                what=fault.alert,
            )
            seconds = time.monotonic() - began
            printed = self.first_command(alert["annotations"]["runbook"])
            # Whoever else is told of it is told a little later.
            end = time.monotonic() + 10
            until(lambda: fires() and time.monotonic() > end, what="ten seconds more")
        return seconds, others, printed


_CERTIFICATE = ("server.pem", "server.key")


@contextmanager
def readers(stack, count=8):
    """Let people read all the time, whatever they get; say what stayed unanswered."""
    over = threading.Event()
    failed = Counter()

    def read(dice):
        with httpx2.Client(base_url=stack.url, timeout=5.0) as client:
            while not over.is_set():
                try:
                    client.get("/api/v1/products", params={"q": f"a{dice.random()}"})
                except httpx2.TransportError as error:
                    # Some faults are just that.
                    failed[type(error).__name__] += 1
                over.wait(0.8)

    threads = [
        threading.Thread(target=read, args=(random.Random(n),)) for n in range(count)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
        print("unanswered:", dict(failed) or "nothing")


def main():
    """Run the drill and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port-base", type=int, required=True)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    stack = Stack("local", asked.port_base)
    if stack.state.exists():
        sys.exit(f"{stack.state} is somebody's.\n  Next: make drill-faults PORT_BASE=…")
    wanted = [one for one in FAULTS if re.search(asked.only, one.name)]
    try:
        stack.make("up", seconds=900, WITH="observability")
        with Person(stack, stack.accounts()["admin"]) as operator, readers(stack):
            drill = Faults(stack, operator)
            drill.hasten()
            drill.work()
            results = [told(drill, fault) for fault in wanted]
    finally:
        stack.reset()
    path = ROOT / ".run" / "reports" / f"faults-{datetime.now(UTC):%Y%m%dT%H%M%S}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(results))
    print(f"drill: {path.relative_to(ROOT)}")
    return 0 if all(not wrong for *_, wrong in results) else 1


def told(drill, fault):
    """Run one fault; return it with its seconds and what was wrong."""
    seconds, others, printed = drill.run(fault)
    wrong = []
    if seconds > fault.within_seconds + MARGIN_SECONDS:
        wrong.append("late")
    if others:
        wrong.append(f"others were told too: {', '.join(sorted(others))}")
    if not re.search(fault.shows, printed):
        wrong.append(f"the runbook does not show it: {printed[-300:]!r}")
    print(
        f"{'WRONG' if wrong else 'ok   '}  {fault.name}: {fault.alert} after"
        f" {seconds:.0f} s {'; '.join(wrong)}",
        flush=True,
    )
    return fault, seconds, wrong


def page(results):
    """Return the report as Markdown."""
    held = "BROKEN" if any(wrong for *_, wrong in results) else "Held"
    said = (
        f"**{held}.** Written by `make drill-faults`: each fault is made on a running"
        " platform; for the rules a minute lasts five seconds."
    )
    where = f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.0f}"
    head = (
        "| What went wrong | Who was told | After, s | At the latest, s | Nobody else,"
        " and the runbook's first command shows it |"
    )
    lines = [
        "# Eleven faults and their alerts",
        "",
        said,
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {where}.",
        "",
        head,
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {fault.name} | `{fault.alert}` | {seconds:.0f} |"
        f" {fault.within_seconds + MARGIN_SECONDS:.0f} |"
        f" {'; '.join(wrong) or 'yes'} |"
        for fault, seconds, wrong in results
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
