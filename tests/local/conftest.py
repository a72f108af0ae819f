"""The gateway, the supervisor and the databases, tested with the real programs."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from flagon_chassis.testing import lacking

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy" / "local"))

from flagonctl import authority, configuration, programs  # noqa: E402 (found by the path above)
from flagonctl.problem import Problem  # noqa: E402 (found by the path above)
from flagonctl.processes import SERVICES, ports  # noqa: E402 (found by the path above)
from flagonctl.stack import Stack  # noqa: E402 (found by the path above)

_AS_NOBODY = (
    *("setpriv", "--reuid=65534", "--clear-groups"),
    *("--inh-caps=+dac_override", "--ambient-caps=+dac_override"),
)
"""Apache refuses to be root, whose folders tests have."""
_GIVEN: dict[int, int] = {}
"""When each port base was given last, as a number that grows."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def free_base() -> int:
    """A port base whose whole range is free at the moment.

    Below the range that the kernel takes for outgoing connections. There are thirty: the
    one that was given longest ago comes first, whose stack may have to start yet is last.
    """
    first = 20_000 + os.getpid() % 29 * 400
    bases = [*range(first, 32_000, 400), *range(20_000, first, 400)]
    for base in sorted(bases, key=lambda base: _GIVEN.get(base, 0)):
        taken = 0
        for port in ports(base).values():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                taken += probe.connect_ex(("127.0.0.1", port)) == 0
        if not taken:
            _GIVEN[base] = max(_GIVEN.values(), default=0) + 1
            return base
    raise AssertionError("no free ports")


@contextmanager
def own_folder(mode: int = 0o700):
    """A folder that pytest does not watch over: it closes its own for other users."""
    with tempfile.TemporaryDirectory(prefix="flagon-test-") as name:
        Path(name).chmod(mode)
        yield Path(name)


def wait_for(condition, seconds: float = 60.0) -> None:
    """Wait for what surely happens, on the busiest machine; no promise of ours."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@dataclass
class Upstream:
    """A stand-in for every service: remembers what it got, answers as told."""

    seen: list[dict[str, Any]] = field(default_factory=list)
    answer: Any = None
    """Called with the request handler; None answers 200 with JSON."""
    port: int = 0

    def last(self, path: str) -> dict[str, Any]:
        return [one for one in self.seen if one["path"] == path][-1]

    def count(self, path: str) -> int:
        return sum(one["path"] == path for one in self.seen)


def start_upstream(upstream: Upstream) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self):
            body = self.whole()
            upstream.seen.append(
                {
                    "method": self.command,
                    "path": self.path,
                    "headers": {k.lower(): v for k, v in self.headers.items()},
                    "body": body,
                }
            )
            if upstream.answer is None or upstream.answer(self) is False:
                self.reply(200, b'{"ok":true}')

        def whole(self):
            """Read all of the body: with a rest of it unread, the answer may get lost."""
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def __getattr__(self, name):
            # The server looks for do_GET, do_POST and so on.
            if name.startswith("do_"):
                return self.handle_any
            raise AttributeError(name)

        def reply(self, status, body=b"", **headers):
            self.send_response(status)
            fields = {"content-type": "application/json"} | {
                name.replace("_", "-"): value for name, value in headers.items()
            }
            for name, value in fields.items():
                self.send_header(name, value)
            if status not in {204, 304}:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    upstream.port = server.server_port
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


@dataclass
class Gateway:
    url: str
    https_url: str
    folder: Path
    upstream: Upstream
    log: Path
    client: httpx2.Client
    port: int
    pid: int

    def lines(self) -> str:
        return self.log.read_text()


def render(
    folder: Path, upstream_port: int, program: str = "nginx", **changes: str
) -> dict[str, str]:
    """Write a gateway's configuration below a folder and return its variables."""
    base = free_base()
    stack = Stack("local", base, ROOT)
    variables = configuration.local_gateway(stack) | {
        "GATEWAY_TEMP": str(folder / "temp"),
        "GATEWAY_PID": str(folder / "nginx.pid"),
        "GATEWAY_TLS_CERTIFICATE": str(folder / "tls" / "server.pem"),
        "GATEWAY_TLS_KEY": str(folder / "tls" / "server.key"),
        "GATEWAY_STATIC": str(folder / "static"),
        "GATEWAY_DOCS": str(folder / "docs"),
        "GATEWAY_IMAGES": str(folder / "images"),
        "GATEWAY_PAGES": str(folder / "pages"),
        "GATEWAY_SESSION_COOKIE": "flagon_session",
        "GATEWAY_ACCESS_LOG": str(folder / "access.log"),
        "GATEWAY_CONNECTIONS": "512",
        "GATEWAY_OPEN_FILES": "1024",
        "GATEWAY_STREAMS_PER_ADDRESS": "3",
        **{
            f"GATEWAY_{name.upper()}": f"127.0.0.1:{upstream_port}" for name in SERVICES
        },
        **changes,
    }
    authority.ensure(folder / "tls")
    (folder / "static").mkdir(exist_ok=True)
    (folder / "temp").mkdir(exist_ok=True)
    configuration.gateway_files(folder / "conf", variables, ROOT, program=program)
    configuration.page_files(folder / "pages", ROOT)
    return variables | {"base": str(base)}


@contextmanager
def start_gateway(
    folder: Path, upstream: Upstream, program: str = "nginx", **changes: str
):
    variables = render(folder, upstream.port, program, **changes)
    base = int(variables["base"])
    command = [
        str(programs.find(programs.GATEWAYS[program])),
        *programs.gateway_options(program, folder / "conf"),
    ]
    if os.geteuid() == 0 and program == "nginx":
        # The workers would otherwise give up root's rights to the test's folder.
        command[-1] += " user root;"
    if os.geteuid() == 0 and program == "apache":
        command = [*_AS_NOBODY, *command]
    with (
        (folder / "access.log").open("ab") as log,
        (folder / "errors.log").open("ab") as errors,
    ):
        process = subprocess.Popen(
            command,
            env={"TZ": "UTC", "PATH": "/usr/bin:/bin"},
            stdout=log,
            stderr=errors,
        )
    wait_for(lambda: listens(base))
    gateway = Gateway(
        url=f"http://localhost:{base}",
        https_url=f"https://localhost:{base + 363}",
        folder=folder,
        upstream=upstream,
        log=folder / "access.log",
        client=httpx2.Client(
            base_url=f"http://127.0.0.1:{base}", trust_env=False, timeout=60
        ),
        port=base,
        pid=process.pid,
    )
    try:
        yield gateway
    finally:
        gateway.client.close()
        process.terminate()
        process.wait(60)


@contextmanager
def stand_in():
    upstream = Upstream()
    server = start_upstream(upstream)
    try:
        yield upstream
    finally:
        server.shutdown()
        server.server_close()


def _installed(program, name):
    """A fixture: the path of a program that local mode needs only where it is chosen."""

    @pytest.fixture(scope="module")
    def found():
        try:
            return programs.find(program)
        except Problem:
            lacking(name, f"GATEWAY={name.lower()} make setup")

    return found


installed_haproxy = _installed("haproxy", "HAProxy")
installed_apache = _installed("apache2", "Apache")


@pytest.fixture(scope="module")
def start():
    """What starts the gateway that the tests of a module are about."""
    return start_gateway


@pytest.fixture(scope="module")
def running(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gateway")
    with stand_in() as upstream, start(folder, upstream) as gateway:
        yield gateway


@pytest.fixture
def gateway(running):
    running.upstream.seen.clear()
    running.upstream.answer = None
    return running
