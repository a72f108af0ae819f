"""One running copy of the platform, in local mode or in containers."""

import json
import os
import shutil
import signal
import subprocess
from contextlib import contextmanager

import httpx2
from testcontainers.compose import DockerCompose

from flagon_chassis.testing import lacking
from harness import engine
from harness.secrets_seen import SEEN
from harness.waiting import until

ROOT = engine.ROOT
SERVICES = ("auth", "catalog", "realtime", "worker", "web")
BROKER = os.environ.get("FLAGON_BROKER", "redis")
"""What tasks wait in: `redis` or `rabbitmq`."""
EVENT_BUS = os.environ.get("FLAGON_EVENT_BUS", "redis")
"""What events travel on: `redis` or `rabbitmq`."""
BUS = "rabbitmq" if EVENT_BUS == "rabbitmq" else "redis-store"
"""The process that has the events."""
SERVER = os.environ.get("FLAGON_SERVER", "gunicorn")
"""What the services run under: `gunicorn`, `uwsgi` or `waitress`."""
MAIL_QUEUE = os.environ.get("FLAGON_MAIL_QUEUE", "celery")
"""What mails wait for: `celery` or `rq`."""
GATEWAY = os.environ.get("FLAGON_GATEWAY", "nginx")
"""What stands before the services: `nginx`, `haproxy` or `apache`."""
PROCESSES = (
    "gateway",
    *SERVICES,
    "auth-relay",
    "catalog-relay",
    "catalog-consumer",
    "worker-relay",
    "worker-consumer",
    "worker-interactive",
    "worker-bulk",
    "worker-beat",
    "postgres",
    "redis-store",
    "redis-cache",
    "prometheus",
    *(["rabbitmq"] if "rabbitmq" in {BROKER, EVENT_BUS} else []),
    *(["worker-mail"] if MAIL_QUEUE == "rq" else []),
)
"""Every process of the platform: whatever dies, the promises hold."""

# A process that is starting again may not be there to be asked about.
_NOT_YET = (AssertionError, ValueError, subprocess.CalledProcessError)

_CODE_OF_A_SERVICE = """
import importlib, json, os, sys
Settings = importlib.import_module("flagon_{service}.settings").Settings
settings = Settings()
"""


class Stack:
    """The platform at one port base.

    :param mode: `local` or `docker`.
    :param extra: what is started besides, as `WITH` names it.
    """

    def __init__(self, mode, port_base, extra=""):
        self.mode = mode
        self.extra = extra
        self.port_base = port_base
        self.url = f"http://localhost:{port_base}"
        self.https_url = f"https://localhost:{port_base + 363}"
        self.prometheus_url = f"http://127.0.0.1:{port_base + 18}"
        self.state = ROOT / ".run" / f"{mode}-{port_base}"
        self._compose = None

    def __repr__(self):
        return f"{self.mode}-{self.port_base}"

    # -- commands a person types --------------------------------------------------------

    def make(self, target, *, seconds=120, check=True, **variables):
        """Run a target of the Makefile on this stack and return what it printed."""
        words = [f"{name}={value}" for name, value in variables.items()]
        done = subprocess.run(
            [
                "make",
                "--no-print-directory",
                target,
                f"MODE={self.mode}",
                f"PORT_BASE={self.port_base}",
                *words,
            ],
            check=False,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert done.returncode == 0 or not check, (
            f"make {target} {words} ended with {done.returncode}\n"
            f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        )
        return done.stdout

    def up(self):
        """Start it, or what is missing of it."""
        extra = {"WITH": self.extra} if self.extra else {}
        self.make(
            "up",
            seconds=900,
            BROKER=BROKER,
            EVENT_BUS=EVENT_BUS,
            GATEWAY=GATEWAY,
            MAIL_QUEUE=MAIL_QUEUE,
            SERVER=SERVER,
            **extra,
        )
        self._compose = None

    def down(self):
        """Stop it; data stays."""
        self.make("down", seconds=180)

    def reset(self):
        """Stop it and forget all data."""
        self.make("reset", seconds=180)

    def accounts(self):
        """Return the demonstration accounts by role."""
        accounts = json.loads(self.make("accounts", FORMAT="json"))
        return {account["roles"][0]: account for account in accounts}

    def processes(self):
        """Return what `make status` says, by process."""
        # Its exit status says whether all are ready.
        found = json.loads(self.make("status", check=False, FORMAT="json"))
        return {item["name"]: item for item in found["processes"]}

    def trace(self, trace_id):
        """Return the spans of one trace, each with its parent's id."""
        found = json.loads(self.make("trace", ID=trace_id, FORMAT="json"))
        spans, todo = [], list(found["roots"])
        while todo:
            span = todo.pop()
            spans.append(span)
            todo += span["children"]
        return spans

    def followed(self, request, services, seconds=120):
        """Return what was logged about a request, once all these services told of it.

        Processes of Python write a line when an answer is on its way; nginx and the
        collectors of containers a little later.
        """

        def told():
            said = self.make("logs", REQUEST=request).splitlines()
            found = [json.loads(line) for line in said]
            return services <= {line["service"] for line in found} and found

        return until(told, seconds, what=f"lines of {services}", ignore=_NOT_YET)

    # -- single processes ---------------------------------------------------------------

    @property
    def compose(self):
        """testcontainers' view of the stack in containers."""
        if self._compose is None:
            self._compose = DockerCompose(
                context=str(ROOT),
                env_file=str(self.state / "compose.env"),
                keep_volumes=True,
            )
        return self._compose

    def container(self, name):
        """Return the id of a process's container."""
        return self.compose.get_container(name, include_all=True).ID

    def pid(self, name):
        """Return the id of a process as this machine sees it; None when it is away."""
        if self.mode == "local":
            return self.processes()[name].get("pid") or None
        done = subprocess.run(
            ["docker", "inspect", "--format", "{{.State.Pid}}", self.container(name)],
            check=True,
            capture_output=True,
            text=True,
        )
        return int(done.stdout) or None

    def kill(self, name, number=signal.SIGKILL, pid=None):
        """Send a signal to one process, by default one it cannot see coming.

        Containers too are killed from this machine: `docker kill` would tell the engine
        that the container is meant to stay down.

        :returns: the id of the process that was killed.
        """
        victim = pid or self.pid(name)
        assert victim, f"{name} does not run"
        try:
            os.kill(victim, number)
        except ProcessLookupError:
            raise AssertionError(
                f"{name} ended before it was killed; it said last:\n{self.last(name)}"
            ) from None
        return victim

    def last(self, name, lines=40):
        """Return the end of a process's log, and how its container sees itself."""
        said = [str(line) for line in self.logs(name)[-lines:]]
        if self.mode == "docker":
            state = ["docker", "inspect", "--format", "{{json .State}}"]
            done = subprocess.run(
                [*state, self.container(name)],
                check=True,
                capture_output=True,
                text=True,
            )
            said.append(done.stdout)
        return "\n".join(said)

    def lose_the_database(self):
        """Kill Postgres and remove all that it had written."""
        killed = self.kill("postgres")
        assert killed
        if self.mode == "local":
            shutil.rmtree(self.state / "postgres")
            return
        compose = self.compose.docker_compose_command()
        remove = ["--entrypoint", "sh", "postgres", "-c", 'rm -rf "$DATA"/*']
        for words in (["stop", "postgres"], ["run", "--rm", "--no-deps", *remove]):
            subprocess.run([*compose, *words], check=True, capture_output=True)

    def back(self, name, killed, seconds=240):
        """Wait until another process has taken the place of a killed one and is ready."""

        def replaced():
            pid = self.pid(name)
            return pid and pid != killed

        until(replaced, seconds, pause=0.3, what=f"a new {name}", ignore=_NOT_YET)
        self.ready(seconds)

    def ready(self, seconds=240):
        """Wait until every process says that it is ready."""

        def all_ready():
            states = self.processes()
            health = {name: states.get(name, {}).get("health") for name in PROCESSES}
            bad = {name: said for name, said in health.items() if said != "ready"}
            assert not bad, bad
            return True

        until(all_ready, seconds, pause=0.3, what="readiness", ignore=_NOT_YET)

    def logs(self, *names):
        """Return the log lines of processes (all without a name), parsed where JSON."""
        if self.mode == "docker":
            text = subprocess.run(
                [
                    *self.compose.docker_compose_command(),
                    "logs",
                    "--no-log-prefix",
                    "--no-color",
                    *names,
                ],
                cwd=ROOT,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        else:
            files = sorted((self.state / "logs").glob("*.log*"))
            wanted = [f for f in files if not names or f.name.split(".log")[0] in names]
            text = "\n".join(file.read_text(errors="replace") for file in wanted)
        lines = []
        for line in text.splitlines():
            # Compose writes a control sequence before some lines.
            line = line.replace("\x1b[2K", "").strip("\r")  # noqa: PLW2901
            try:
                lines.append(json.loads(line))
            except ValueError:
                lines.append(line)
        return lines

    def keep_logs(self, folder):
        """Write one log file per process to a folder, for whoever looks at a failure."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in PROCESSES:
            lines = self.logs(name)
            with (folder / f"{name}.log").open("w") as file:
                for line in lines:
                    text = line if isinstance(line, str) else json.dumps(line)
                    file.write(f"{text}\n")

    def inside(self, service, code, *, given=""):
        """Run Python code with exactly what a service's process holds.

        It is what somebody gets who takes over that process: its user, its settings and
        secrets, its network. `settings` is its settings object.

        :param given: what the code reads from its standard input.
        :returns: what the code printed, read as JSON.
        """
        script = _CODE_OF_A_SERVICE.replace("{service}", service) + code
        environment = None
        if self.mode == "docker":
            command = ["docker", "exec", "-i", self.container(service), "python"]
        else:
            command = [ROOT / ".venv/bin/python"]
            program = self.state / "config" / "programs" / f"{service}.json"
            environment = json.loads(program.read_text())["env"]
        done = subprocess.run(
            [*command, "-c", script],
            check=False,
            env=environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    # -- HTTP ---------------------------------------------------------------------------

    def client(self, **options):
        """Return an HTTP client that knows the gateway and nothing else."""
        options.setdefault("timeout", httpx2.Timeout(60.0, connect=30.0))
        # What goes over the wire must not be found anywhere when the run is over.
        options.setdefault("event_hooks", SEEN.hooks)
        return httpx2.Client(base_url=self.url, **options)

    def query(self, expression):
        """Return the samples of a Prometheus query: pairs of (labels, value)."""
        answer = httpx2.get(
            f"{self.prometheus_url}/api/v1/query", params={"query": expression}
        )
        answer.raise_for_status()
        return [
            (item["metric"], float(item["value"][1]))
            for item in answer.json()["data"]["result"]
        ]


@contextmanager
def running(extra=""):
    """Yield the stack that the environment asks for, started if need be.

    `FLAGON_URL`: a stack that already runs. Else `FLAGON_MODE` (local, docker) and
    `FLAGON_PORT_BASE` say what to start; it is stopped and forgotten at the end.

    :param extra: what to start besides, as `WITH` names it.
    """
    url = os.environ.get("FLAGON_URL")
    if url:
        base = httpx2.URL(url).port or 80
        modes = [m for m in ("local", "docker") if (ROOT / f".run/{m}-{base}").exists()]
        mode = os.environ.get("FLAGON_MODE") or (modes[0] if modes else "local")
        if mode == "docker":
            engine.find()
        yield Stack(mode, base)
        return
    mode = os.environ.get("FLAGON_MODE", "local")
    if mode == "docker" and not engine.find():
        lacking("A container engine", "install Docker, or FLAGON_MODE=local")
    base = int(
        os.environ.get("FLAGON_PORT_BASE", "28080" if mode == "docker" else "27080")
    )
    stack = Stack(mode, base, extra)
    try:
        stack.up()
        yield stack
    finally:
        if os.environ.get("FLAGON_KEEP") != "1":
            stack.reset()
