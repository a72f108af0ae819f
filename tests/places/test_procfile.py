"""The Procfile, started line by line as a runner does, with a real Postgres and Redis."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import psycopg
import pytest
from flagonctl import authority
from flagonctl.processes import BY_NAME
from flagonplaces.platform import parts
from k8s.rules import confidential
from local.conftest import free_base, free_port, own_folder, wait_for

from flagon_chassis.testing import BUCKET_KEY, start_bucket, start_redis

from .recipes import ROOT, text_of

HOST = "shop.example.com"
KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
CLIENTS = [
    {
        "client_id": "web",
        "client_secret": KEY,
        "name": "Flagon web",
        "redirect_uris": [f"https://{HOST}/callback"],
        "post_logout_redirect_uris": [f"https://{HOST}/"],
        "grant_types": ["authorization_code", "refresh_token"],
        "scope": "openid profile email",
    },
    {
        "client_id": "worker",
        "client_secret": KEY,
        "name": "Flagon worker",
        "redirect_uris": [],
        "post_logout_redirect_uris": [],
        "grant_types": ["client_credentials"],
        "scope": "catalog:write catalog:read mails:send logout:deliver",
    },
]
LINES = dict(
    re.fullmatch(r"([a-z-]+): (.+)", line).groups()
    for line in text_of("procfile/Procfile").splitlines()
)


@contextmanager
def started(lines, environment, log):
    """Every line in a shell and a session of its own; ended by SIGTERM, as runners do."""
    with log.open("ab") as said:
        running = {
            name: subprocess.Popen(
                # As some runners do: the signal is then the process' own.
                f"exec {line}",
                shell=True,
                cwd=ROOT,
                env=environment,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            for name, line in lines.items()
        }
    try:
        yield running
    finally:
        for one in running.values():
            if one.poll() is None:
                os.killpg(one.pid, signal.SIGTERM)
        for one in running.values():
            one.wait(60)


def redis_over_tls(folder):
    """The options of a Redis that others reach by TLS alone."""
    authority.ensure(folder, 0o444)
    folder.chmod(0o755)
    port = free_port()
    return port, (
        *("--tls-port", str(port), "--tls-auth-clients", "no"),
        *("--tls-cert-file", str(folder / "server.pem")),
        *("--tls-key-file", str(folder / "server.key")),
        *("--tls-ca-cert-file", str(folder / "ca.pem")),
    )


@pytest.fixture
def platform(postgres_server):
    """The environment that such a platform gives to every process."""
    with own_folder(0o755) as folder, ExitStack() as stack:
        base = free_base()
        port, options = redis_over_tls(folder / "tls")
        stack.enter_context(contextmanager(start_redis)(*options))
        bucket = stack.enter_context(contextmanager(start_bucket)())
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin",
            "FLAGON_PORT_BASE": str(base),
            "PORT": str(base),
            "FLAGON_HOST": HOST,
            "FLAGON_STATE": str(folder / "state"),
            "AUTH_CLIENTS": json.dumps(CLIENTS),
            "CATALOG_IMAGES_URL": bucket.url,
        }
        names = {name for one in parts() for name in one.secrets}
        environment |= dict.fromkeys(names, KEY)
        environment["CATALOG_IMAGES_KEY_ID"], environment["CATALOG_IMAGES_KEY"] = (
            BUCKET_KEY
        )
        with psycopg.connect(postgres_server.url, autocommit=True) as connection:
            for service in ("auth", "catalog", "worker"):
                name = f"{service}_by_procfile"
                connection.execute(f"create database {name}")
                url = f"{postgres_server.url.rpartition('/')[0]}/{name}"
                environment[f"{service.upper()}_DATABASE_URL"] = url
                environment[f"{service.upper()}_OWNER_DATABASE_URL"] = url
        # As managed ones are reached: by TLS, with a certificate that somebody vouches for.
        environment["SSL_CERT_FILE"] = str(folder / "tls" / "ca.pem")
        for name in names:
            if "_REDIS_" in name:
                number = 0 if "STORE" in name else 1
                environment[name] = f"rediss://localhost:{port}/{number}"
        yield base, folder, environment


def answers(base, offset, path="/readyz", host="localhost"):
    """Whether somebody says 200."""
    try:
        reply = httpx2.get(
            f"http://127.0.0.1:{base + offset}{path}",
            headers={"Host": host, "X-Forwarded-For": "203.0.113.9", "Accept": "*/*"},
            trust_env=False,
            timeout=20,
        )
    except httpx2.TransportError:
        return False
    return reply.status_code == 200


class TestProcfile:
    def test_starts_the_whole_platform_and_ends_it(self, platform):
        base, folder, environment = platform
        lines = dict(LINES)
        log = folder / "log"
        done = subprocess.run(
            lines.pop("release"),
            shell=True,
            check=False,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

        with started(lines, environment, log) as running:
            for name in lines:
                if name == "web":
                    continue
                process = BY_NAME["web" if name == "pages" else name]
                wait_for(
                    lambda offset=process.offset: answers(base, offset), seconds=180
                )
            wait_for(lambda: answers(base, 0, "/healthz", HOST))
            status = httpx2.get(
                f"http://127.0.0.1:{base}/status",
                headers={
                    "Host": HOST,
                    "Accept": "application/json",
                    "X-Forwarded-For": "198.51.100.1, 203.0.113.9",
                },
                trust_env=False,
                timeout=20,
            )
            held = {name: variables(one.pid) for name, one in running.items()}
            alive = {name: one.poll() for name, one in running.items()}

        assert set(alive.values()) == {None}
        assert status.status_code == 200, status.text
        assert status.headers["strict-transport-security"]
        # Who asked is who the router says, and not what somebody told the router.
        assert '"scheme":"https","remote":"203.0.113.9"' in log.read_text()
        for name, one in running.items():
            assert one.returncode == 0, (name, one.returncode)
        services = {"web": "GATEWAY", "pages": "WEB"}
        for name, found in held.items():
            prefix = services.get(name, name.partition("-")[0].upper())
            secret = {one for one in found if one in confidential()}
            assert all(one.startswith(f"{prefix}_") for one in secret), name
            assert not any("_OWNER_" in one for one in found), name


def variables(pid):
    """Names of the variables that a process was started with."""
    text = Path(f"/proc/{pid}/environ").read_bytes()
    return {one.partition(b"=")[0].decode() for one in text.split(b"\0")}


class TestLines:
    def test_are_every_process_and_the_release(self):
        lasting = {one.name for one in parts() if one.kind != "job"}

        assert set(LINES) - {"release"} == (lasting - {"gateway"}) | {"pages"}

    def test_ask_for_every_secret(self):
        app = json.loads(text_of("procfile/app.json"))
        needed = {name for one in parts() for name in one.secrets}

        assert needed <= set(app["env"])
        assert set(app["formation"]) == set(LINES) - {"release"}

    def test_hold_no_secret(self):
        text = text_of("procfile/settings.sh") + text_of("procfile/app.json")

        assert not re.search(r"\w://[^/\s:@$]*:[^/\s@$]+@", text)
        assert not set(re.findall(r"export (\w+)=", text)) & confidential()
