"""What is measured: realtime, alone and behind the gateway, nchan, and Flask-SSE."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

import psutil
import redis
from conftest import Upstream, start_gateway

from flagon_chassis.testing import KeySet, TokenMaker, free_port

from .crowd import Crowd, ask, body

HERE = Path(__file__).parent
NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
HUB, NGINX, FLASK_SSE = "realtime", "nchan", "Flask-SSE"
GATEWAY, GATEWAY_UNIX = "through the gateway", "through the gateway, Unix socket"
TOPIC = "/api/v1/events?topic=products"
RING_BYTES = 16 * 1024 * 1024
FILES = 18_000
"""Connections of one nginx process: both sides of a proxied client count."""


@dataclass
class Server:
    """One way to push events, running."""

    name: str
    port: int
    path: str
    masters: list[int]
    """Processes whose children serve."""
    publish: Callable[..., None]
    """Publishes so many events, with a text of so many bytes; realtime's returns the
    last one's id."""
    unix: str = ""
    """The Unix socket at which it can be reached as well."""
    silent: bool = False
    """Whether a client hears nothing before its first event."""
    settled: Callable[[int], None] = field(default=lambda _count: None)
    """Returns once so many clients will get the next event."""
    emptied: Callable[[], None] = field(default=lambda: None)
    """Returns once the server knows that everybody has gone."""

    def processes(self):
        """Return the masters and all below them."""
        masters = [psutil.Process(pid) for pid in self.masters]
        return masters + [c for m in masters for c in m.children(recursive=True)]

    def cpu_seconds(self):
        """Return what all its processes have used so far."""
        times = [process.cpu_times() for process in self.processes()]
        return sum(t.user + t.system for t in times)

    def memory(self):
        """Return the proportional set size of all its processes, in bytes."""
        return sum(process.memory_full_info().pss for process in self.processes())

    @contextmanager
    def crowd(self, count=0):
        """Give so many clients that are sure to get the next event."""
        with closing(Crowd(self.port, ask(self.path), silent=self.silent)) as crowd:
            crowd.open(count)
            self.settled(count)
            yield crowd
        self.emptied()


def set_apart():
    """Keep the load on the last processor; servers get the first, where there are two."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[-1:])
    return cores[:1]


@contextmanager
def running(command, port, core, **environment):
    """Run a program until the block ends.

    :param core: processors that it may use.
    """
    own = os.sched_getaffinity(0)
    # What it starts inherits it.
    os.sched_setaffinity(0, core)
    try:
        process = subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    finally:
        os.sched_setaffinity(0, own)
    try:
        _until(lambda: socket.create_connection(("127.0.0.1", port), 1).close())
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait(5)


def _until(reached, seconds=30):
    """Return once a call does not fail any more."""
    end = time.monotonic() + seconds
    while True:
        try:
            reached()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


def _ready(port):
    """Raise OSError unless `/readyz` answers 200."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        if connection.getresponse().status != 200:
            raise ConnectionError("not ready")
    finally:
        connection.close()


@contextmanager
def hub(redis_url, core, **changes):
    """Run realtime with one worker, and publish as a relay does.

    :param changes: settings, without `REALTIME_`.
    """
    port = free_port()
    unix = f"unix:{tempfile.gettempdir()}/flagon-bench-{port}.sock"
    settings = {
        "SECRET_KEY": "b" * 32,
        "ENVIRONMENT": "testing",
        "BIND": f"127.0.0.1:{port},{unix}",
        "WORKERS": "1",
        "REDIS_STORE_URL": redis_url,
        "REDIS_CACHE_URL": redis_url,
        "RATE_LIMIT": "1000000 per minute",
        "CONNECTIONS_PER_ADDRESS": "20000",
        "CONNECTIONS_MAX": "20000",
        "MESSAGES_PER_SECOND": "100000",
        "MESSAGES_AT_ONCE": "100000",
        "RING_BYTES": str(RING_BYTES),
        "LOG_LEVEL": "WARNING",
        "DRAIN_SECONDS": "0",
        "CLOSE_SECONDS": "0.2",
        # What it measures lasts longer than a stream is old.
        "ROTATE_SECONDS": "3600",
        **changes,
    }
    store = redis.Redis.from_url(redis_url)

    def publish(count, size=180):
        # The relay sends a batch as one transaction, too.
        pipeline = store.pipeline(transaction=True)
        for _ in range(count):
            entry = {
                "id": "e",
                "type": "changed",
                "topics": "products",
                "event": body(size),
            }
            pipeline.xadd("events", entry, maxlen=10_000)
        return pipeline.execute()[-1].decode()

    command = [sys.executable, "-m", "flagon_realtime", "serve"]
    environment = {f"REALTIME_{name}": value for name, value in settings.items()}
    with closing(KeySet(TokenMaker())) as keys:
        environment["REALTIME_JWKS_URL"] = keys.url
        with running(command, port, core, **environment) as process:
            _until(lambda: _ready(port))
            yield Server(HUB, port, TOPIC, [process.pid], publish, unix)


@contextmanager
def gateway(behind, core, *, workers=1, by_unix_socket=False):
    """Run the platform's own gateway before a realtime that runs already.

    :param workers: processes of nginx; one serves 9,000 clients on a machine that lets a
        process have 20,000 files.
    :param by_unix_socket: how it reaches realtime; else by TCP, as it is deployed.
    """
    folder = Path(tempfile.mkdtemp(prefix="flagon-bench-"))
    folder.chmod(0o755)
    wide = {
        "GATEWAY_WORKERS": str(workers),
        "GATEWAY_CONNECTIONS": str(FILES),
        "GATEWAY_OPEN_FILES": str(FILES + 1000),
        "GATEWAY_STREAMS_PER_ADDRESS": "20000",
        "GATEWAY_API_RATE": "1000000r/s",
        "GATEWAY_API_BURST": "20000",
        **({"GATEWAY_REALTIME": behind.unix} if by_unix_socket else {}),
    }
    try:
        with start_gateway(folder, Upstream(port=behind.port), **wide) as started:
            master = int((folder / "nginx.pid").read_text())
            found = Server(
                GATEWAY_UNIX if by_unix_socket else GATEWAY,
                started.port,
                TOPIC,
                [*behind.masters, master],
                behind.publish,
            )
            for process in psutil.Process(master).children():
                process.cpu_affinity(core)
            yield found
    finally:
        shutil.rmtree(folder)


@contextmanager
def flask_sse(redis_url, core):
    """Run Flask-SSE as its documentation has it, in an environment of its own."""
    port = free_port()
    store = redis.Redis.from_url(redis_url)
    folder = Path(tempfile.mkdtemp(prefix="flagon-bench-"))

    def publish(count, size=180):
        pipeline = store.pipeline(transaction=False)
        for _ in range(count):
            # What its `publish` sends.
            told = {"data": body(size), "type": "changed"}
            pipeline.publish("sse", json.dumps(told))
        pipeline.execute()

    def settled(count):
        def heard():
            ((_, listening),) = store.pubsub_numsub("sse")
            if listening < count:
                raise ConnectionError(f"{listening} of {count} subscribed")

        _until(heard)

    def emptied():
        # It looks after nobody until there is something to send.
        def gone():
            publish(1)
            ((_, listening),) = store.pubsub_numsub("sse")
            if listening:
                raise ConnectionError(f"{listening} still subscribed")

        _until(gone)

    try:
        uv = Path(sys.executable).parent / "uv"
        program = folder / "bin" / "python"
        subprocess.run(
            [uv, "venv", "-q", "--python", sys.executable, folder], check=True
        )
        subprocess.run(
            [
                *(uv, "pip", "install", "-q", "--python", program),
                *("-r", HERE / "requirements.txt"),
            ],
            check=True,
        )
        command = [
            *(program, "-m", "gunicorn", "--worker-class", "gevent", "--workers", 1),
            *("--worker-connections", 20_000, "--bind", f"127.0.0.1:{port}"),
            *("--no-control-socket", "--log-level", "error", "--chdir", HERE),
            "flask_sse_app:app",
        ]
        with running(command, port, core, BENCH_REDIS_URL=redis_url) as process:
            yield Server(
                *(FLASK_SSE, port, "/events", [process.pid], publish),
                silent=True,
                settled=settled,
                emptied=emptied,
            )
    finally:
        shutil.rmtree(folder)


@contextmanager
def nchan(core):
    """Run nginx with the nchan module."""
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="flagon-bench-"))
    configuration = folder / "nginx.conf"
    configuration.write_text(f"""
load_module {NCHAN};
daemon off; worker_processes 1; worker_rlimit_nofile {FILES + 1000};
pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections {FILES}; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  keepalive_requests 1000000000;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    nchan_channel_id t;
    location = /publish {{ nchan_publisher; nchan_message_buffer_length 8192; }}
    location = /events {{
      nchan_subscriber eventsource; nchan_subscriber_first_message newest;
    }}
  }}
}}
""")
    connection = HTTPConnection("127.0.0.1", port, timeout=10)

    def publish(count, size=180):
        for _ in range(count):
            headers = {"Accept": "text/json"}
            connection.request("POST", "/publish", body(size), headers)
            connection.getresponse().read()

    command = [shutil.which("nginx"), "-p", folder, "-c", configuration]
    try:
        with running(command, port, core) as process:
            yield Server(NGINX, port, "/events", [process.pid], publish)
    finally:
        connection.close()
        shutil.rmtree(folder)
