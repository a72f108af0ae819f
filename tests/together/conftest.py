"""Several services as operators run them, in processes of their own."""

import base64
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil
import psycopg
import pytest

from flagon_chassis.testing import free_port

BINARIES = Path(sys.executable).parent
SCOPE = "catalog:read catalog:write jobs:read jobs:manage mails:send logout:deliver"

COMMANDS = {
    "auth-relay": ("relay",),
    "worker-celery": ("celery", "--queues", "mail"),
    "worker-rq": ("rq",),
}
"""What processes run that do not serve."""

WAYS = {
    "catalog": ("GET", "/api/v1/products"),
    "worker": ("GET", "/api/v1/jobs"),
    "realtime": ("GET", "/api/v1/events?topic=jobs"),
    "auth": ("GET", "/api/v1/users"),
}
"""By service, a request that only a good token gets through the check of tokens."""


@dataclass
class Platform:
    """The services that run, and how to ask them.

    :param names: what can be started: a service, or `<service>-<what>`.
    :param more: further settings, as environment variables.
    """

    folder: Path
    databases: dict[str, str]
    redis: str
    names: tuple[str, ...]
    more: dict[str, str] = field(default_factory=dict)
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)

    def __post_init__(self):
        self.ports = {name: free_port() for name in self.names}
        self.shared = secrets.token_hex(32)
        self.sealing = base64.b64encode(secrets.token_bytes(32)).decode()
        (self.folder / "clients.json").write_text(
            json.dumps(
                [
                    {
                        "client_id": "load",
                        "name": "Load",
                        "client_secret": self.secret,
                        "redirect_uris": [],
                        "grant_types": ["client_credentials"],
                        "scope": SCOPE,
                    }
                ]
            )
        )

    def url(self, name, path=""):
        return f"http://127.0.0.1:{self.ports[name]}{path}"

    def environment(self, name):
        service = name.split("-")[0]
        values = {
            "ENVIRONMENT": "testing",
            "SECRET_KEY": self.shared,
            "DATABASE_URL": self.databases.get(service, ""),
            "OWNER_DATABASE_URL": self.databases.get(service, ""),
            "REDIS_STORE_URL": self.redis,
            "REDIS_CACHE_URL": self.redis,
            "PUBLIC_URL": "http://localhost",
            "BIND": f"127.0.0.1:{self.ports[name]}",
            "WORKERS": "2" if name == "catalog" else "1",
            "RATE_LIMIT": "1000000 per minute",
            "JWKS_URL": self.url("auth", "/.well-known/jwks.json"),
            "TOKEN_URL": self.url("auth", "/oauth/token"),
            "CLIENT_ID": "load",
            "CLIENT_SECRET": self.secret,
            "LOG_LEVEL": "INFO",
            **self.own_settings(service),
        }
        prefix = service.upper()
        own = {f"{prefix}_{k}": v for k, v in values.items() if v}
        return {**os.environ, **own, **self.more}

    def own_settings(self, service):
        if service == "auth":
            return {
                "KEY_ENCRYPTION_KEY": self.sealing,
                "CLIENTS_FILE": str(self.folder / "clients.json"),
                "KEY_LEAD_SECONDS": "1",
            }
        if service == "catalog":
            return {"IMAGES_DIR": str(self.folder / "images")}
        if service == "worker":
            return {
                "FILES_DIR": str(self.folder / "files"),
                "CATALOG_URL": self.url("catalog") if "catalog" in self.ports else "",
                "AUTH_URL": self.url("auth"),
            }
        return {}

    def run(self, name, *command):
        """Run one command of a service and return what it says, a line each."""
        found = subprocess.run(
            command,
            env=self.environment(name),
            cwd=self.folder,
            check=True,
            capture_output=True,
            text=True,
        )
        lines = [json.loads(x) for x in found.stdout.splitlines() if x.startswith("{")]
        return [line for line in lines if "event" not in line]

    def flask(self, *words):
        """Run one of auth's admin commands."""
        return self.run("auth", BINARIES / "flask", "--app", "flagon_auth", *words)

    def start(self, *names):
        """Start services and wait until they are ready."""
        for name in names:
            self._begin(name)
        for name in names:
            self._await(name)

    def _begin(self, name):
        service = name.split("-")[0]
        log = (self.folder / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            [
                sys.executable,
                "-m",
                f"flagon_{service}",
                *COMMANDS.get(name, ("serve",)),
            ],
            env=self.environment(name),
            cwd=self.folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.close()

    def _await(self, name):
        for _ in range(900):
            with suppress(httpx2.HTTPError):
                if httpx2.get(self.url(name, "/readyz"), timeout=5).status_code == 200:
                    return
            if self.processes[name].poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError((self.folder / f"{name}.log").read_text()[-4000:])

    def stop(self, name):
        process = self.processes.pop(name)
        process.terminate()
        process.wait(30)

    def kill(self, name):
        """End a process and all that it has started, at once."""
        process = self.processes.pop(name)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        for child in children:
            child.kill()
        psutil.wait_procs(children, 20)

    def rows(self, service, statement):
        """Return the rows of a statement in a service's database."""
        url = self.databases[service].replace("+psycopg", "")
        with psycopg.connect(url) as connection:
            found = connection.execute(statement)
            return found.fetchall() if found.description else []

    def workers(self, name):
        """Return the ids of the worker processes of a service."""
        pid = self.processes[name].pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in children.split()]

    def token(self, where="auth"):
        """Return a fresh access token of a client that acts for itself."""
        answer = httpx2.post(
            self.url(where, "/oauth/token"),
            auth=("load", self.secret),
            data={"grant_type": "client_credentials"},
            timeout=10,
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["access_token"]

    def ask(self, name, token):
        """Return the status with which a service answers to this token."""
        method, path = WAYS[name.split("-")[0]]
        headers = {"Authorization": f"Bearer {token}"}
        with httpx2.stream(
            method, self.url(name, path), headers=headers, timeout=10
        ) as answer:
            return answer.status_code

    def everywhere(self, token, *, but=()):
        """Return the status at every service, by name."""
        names = [name for name in self.processes if name not in but]
        with ThreadPoolExecutor(len(names)) as pool:
            found = pool.map(lambda name: self.ask(name, token), names)
            return dict(zip(names, found, strict=True))

    def load(self):
        """Ask all services with fresh tokens and old ones, over and over."""
        return Load(self)


class Load:
    """Callers that note every answer, until the block ends."""

    def __init__(self, platform):
        self.platform = platform
        self.answers = []
        self._end = threading.Event()

    def __enter__(self):
        self._pool = ThreadPoolExecutor(len(WAYS))
        self._callers = [self._pool.submit(self._call, name) for name in WAYS]
        return self

    def __exit__(self, *_exception):
        self._end.set()
        self._pool.shutdown()
        for caller in self._callers:
            # Raises what the caller ended with.
            caller.result()

    def _call(self, name):
        tokens = []
        while not self._end.is_set():
            where = "auth-2" if len(tokens) % 2 else "auth"
            tokens = [*tokens, self.platform.token(where)][-12:]
            for token in (tokens[0], tokens[-1]):
                self.answers.append((name, self.platform.ask(name, token)))

    def count(self, name):
        return sum(1 for asked, _status in self.answers if asked == name)


@pytest.fixture(scope="module")
def prepare(make_database, tmp_path_factory):
    """Makes platforms with databases of their own, whose processes end with the module."""
    made = []

    def prepare(redis_url, *names, **more):
        stateful = {name.split("-")[0]: name for name in names if name != "realtime"}
        databases = {service: make_database() for service in stateful}
        folder = tmp_path_factory.mktemp("together")
        made.append(Platform(folder, databases, redis_url, names, more))
        for service, name in stateful.items():
            command = (sys.executable, "-m", f"flagon_{service}", "migrate")
            made[-1].run(name, *command)
        made[-1].flask("seed")
        return made[-1]

    yield prepare
    for found in made:
        for name in list(found.processes):
            found.stop(name)


@pytest.fixture(scope="module")
def platform(prepare, redis_server):
    """Give two instances of auth, and catalog, worker and realtime."""
    names = ("auth", "auth-2", "catalog", "worker", "realtime")
    found = prepare(redis_server.url, *names)
    # First: who starts before auth answers has no keys, and asks again after a second only.
    found.start("auth", "auth-2")
    found.start("catalog", "worker", "realtime")
    return found
