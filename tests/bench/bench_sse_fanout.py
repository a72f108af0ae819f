"""Fan-out of server-sent events: deliveries per CPU second of the server, as ratios.

    python tests/bench/bench_sse_fanout.py [--clients 500] [--seconds 3] [--repeats 3]

Each variant has one server process, all run in turn, and the best of the repeats counts:
a neighbour on the machine can only make a run slower. `hub` is realtime as it is
deployed, `naive` a generator and a Redis subscription per client, `nchan` nginx's module
in C where it is installed. The load client (one process, epoll, raw sockets) publishes in
a closed loop: so many events, then it waits until every client has got them. Its own
CPU is not counted, and it says when it was busy enough to be what limited the wall rate.

Exits with 1 when a ratio is below its floor, which has room for a busy machine.
"""

import argparse
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import psutil
import redis

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
MARK = b"~"
"""Appears once in each event and nowhere else, so counting it counts events."""
BODY = '{"specversion": "1.0", "data": {"name": "~", "text": "' + "x" * 180 + '"}}'

FLOORS = {
    ("naive", 1): 5.0,
    ("naive", 16): 20.0,
    ("nchan", 1): 0.85,
    ("nchan", 16): 3.0,
}
"""The least that the hub must be, as a multiple of the other, by events in flight."""
MEMORY_LIMIT_KIB = 2.0


@dataclass
class Server:
    """One variant, running."""

    name: str
    port: int
    path: str
    master: subprocess.Popen

    def processes(self):
        """Return the master and its workers."""
        master = psutil.Process(self.master.pid)
        return [master, *master.children(recursive=True)]

    def cpu_seconds(self):
        """Return what all its processes have used so far."""
        times = [process.cpu_times() for process in self.processes()]
        return sum(t.user + t.system for t in times)

    def memory(self):
        """Return the proportional set size of all its processes, in bytes."""
        return sum(process.memory_full_info().pss for process in self.processes())


class Clients:
    """Many connections that count what they get and keep nothing of it."""

    def __init__(self, server, count, settle=0.5):
        self.poll = select.epoll()
        self.socks = {}
        self.got = 0
        request = f"GET {server.path} HTTP/1.1\r\nHost: bench\r\n"
        request += "Accept: text/event-stream\r\n\r\n"
        for _ in range(count):
            sock = socket.create_connection(("127.0.0.1", server.port), 10)
            sock.sendall(request.encode())
            sock.setblocking(False)
            self.socks[sock.fileno()] = sock
            self.poll.register(sock, select.EPOLLIN)
        self._wait_until_open(settle)

    def _wait_until_open(self, settle):
        waiting = set(self.socks)
        deadline = time.monotonic() + 60
        while waiting:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(waiting)} streams did not open")
            for fd, _ in self.poll.poll(0.5):
                block = self.socks[fd].recv(65536)
                if fd in waiting and b" 200 " not in block:
                    raise ConnectionError(block[:200])
                waiting.discard(fd)
        # Naive clients are open before they are subscribed.
        self.drain(settle)

    def drain(self, seconds):
        """Read for a while whatever comes."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for fd, _ in self.poll.poll(0.05):
                self.socks[fd].recv(65536)

    def receive(self, wanted, seconds=20):
        """Return once so many events have come over all connections together."""
        self.got = 0
        socks = self.socks
        deadline = time.monotonic() + seconds
        while self.got < wanted:
            ready = self.poll.poll(1)
            if not ready and time.monotonic() > deadline:
                raise TimeoutError(f"{self.got} of {wanted} events came")
            for fd, _ in ready:
                block = socks[fd].recv(262144)
                if not block:
                    raise ConnectionError("a stream ended")
                self.got += block.count(MARK)

    def close(self):
        """Close every connection."""
        for sock in self.socks.values():
            sock.close()
        self.poll.close()


def free_port():
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port, seconds=20):
    """Return once somebody listens."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


@contextmanager
def running(command, port, **environment):
    """Run a program until the block ends."""
    process = subprocess.Popen(
        [str(word) for word in command],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port)
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


@contextmanager
def hub(redis_url):
    """Run realtime with one worker, and publish as a relay does."""
    port = free_port()
    settings = {
        "REALTIME_SECRET_KEY": "b" * 32,
        "REALTIME_ENVIRONMENT": "testing",
        "REALTIME_BIND": f"127.0.0.1:{port}",
        "REALTIME_WORKERS": "1",
        "REALTIME_REDIS_STORE_URL": redis_url,
        "REALTIME_REDIS_CACHE_URL": redis_url,
        "REALTIME_RATE_LIMIT": "1000000 per minute",
        "REALTIME_CONNECTIONS_PER_ADDRESS": "20000",
        "REALTIME_LOG_LEVEL": "WARNING",
        "REALTIME_DRAIN_SECONDS": "0",
        "REALTIME_CLOSE_SECONDS": "0.2",
    }
    store = redis.Redis.from_url(redis_url)
    entry = {"id": "e", "type": "changed", "topics": "products", "event": BODY}

    def publish(count):
        # The relay sends a batch as one transaction, too.
        pipeline = store.pipeline(transaction=True)
        for _ in range(count):
            pipeline.xadd("events", entry, maxlen=10_000)
        pipeline.execute()

    command = [sys.executable, "-m", "flagon_realtime", "serve"]
    with running(command, port, **settings) as process:
        wait_until_ready(port)
        path = "/api/v1/events?topic=products"
        yield Server("hub", port, path, process), publish


def wait_until_ready(port, seconds=30):
    """Return once `/readyz` answers 200."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        with suppress(OSError):
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        connection.close()
        time.sleep(0.05)
    raise TimeoutError("realtime did not get ready")


@contextmanager
def naive(redis_url):
    """Run the generator-per-client server."""
    port = free_port()
    store = redis.Redis.from_url(redis_url)

    def publish(count):
        pipeline = store.pipeline(transaction=False)
        for _ in range(count):
            pipeline.publish("products", BODY)
        pipeline.execute()

    command = [
        *(BIN / "gunicorn", "--worker-class", "gevent", "--workers", 1),
        *("--worker-connections", 20_000, "--bind", f"127.0.0.1:{port}"),
        *("--no-control-socket", "--log-level", "error", "--chdir", HERE),
        "sse_naive:app",
    ]
    with running(command, port, BENCH_REDIS_URL=redis_url) as process:
        yield Server("naive", port, "/events?topic=products", process), publish


@contextmanager
def nchan(module):
    """Run nginx with the nchan module."""
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="flagon-bench-"))
    configuration = folder / "nginx.conf"
    configuration.write_text(f"""
load_module {module};
daemon off; worker_processes 1; worker_rlimit_nofile 19000;
pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 18000; }}
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

    def publish(count):
        for _ in range(count):
            connection.request("POST", "/publish", BODY, {"Accept": "text/json"})
            connection.getresponse().read()

    command = [shutil.which("nginx"), "-p", folder, "-c", configuration]
    try:
        with running(command, port) as process:
            yield Server("nchan", port, "/events", process), publish
    finally:
        connection.close()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Result:
    """What one run measured."""

    per_cpu_second: float
    per_second: float
    client_share: float
    """Part of the time in which the load client used its CPU."""


def measure(server, publish, *, clients, in_flight, seconds):
    """Return deliveries per CPU second and per second in a closed loop."""
    crowd = Clients(server, clients)
    try:
        for _ in range(5):
            publish(in_flight)
            crowd.receive(clients * in_flight)
        cpu, own, started = server.cpu_seconds(), time.process_time(), time.monotonic()
        delivered = 0
        while time.monotonic() - started < seconds:
            publish(in_flight)
            crowd.receive(clients * in_flight)
            delivered += clients * in_flight
        wall = time.monotonic() - started
        # The kernel counts CPU in hundredths of a second.
        used = max(server.cpu_seconds() - cpu, 0.01)
        share = (time.process_time() - own) / wall
    finally:
        crowd.close()
    return Result(delivered / used, delivered / wall, share)


def memory_per_connection(server, count):
    """Return the bytes that one idle connection adds to the server's processes.

    Opened in waves, as people come: a storm also needs memory for requests in flight,
    which stays with the process but serves the next ones.
    """
    crowds = [Clients(server, 300)]
    before = server.memory()
    crowds += [Clients(server, 100, settle=0) for _ in range(count // 100)]
    grown = server.memory() - before
    for crowd in crowds:
        crowd.close()
    return grown / (count // 100 * 100)


def start_redis(stack):
    """Run a private Redis; return its URL."""
    port = free_port()
    command = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", ""]
    command += ["--maxclients", 9000]
    stack.enter_context(running(command, port))
    return f"redis://127.0.0.1:{port}/0"


def main():
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--idle", type=int, default=5000)
    parser.add_argument("--nchan-module", type=Path, default=NCHAN)
    options = parser.parse_args()
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    idle = min(options.idle, hard - 500)

    best = {}
    memory = {}
    with ExitStack() as stack:
        redis_url = start_redis(stack)
        variants = [
            stack.enter_context(hub(redis_url)),
            stack.enter_context(naive(redis_url)),
        ]
        if options.nchan_module.exists() and shutil.which("nginx"):
            variants.append(stack.enter_context(nchan(options.nchan_module)))
        # First, while the processes are fresh: later they have room from earlier crowds.
        for server, _publish in variants:
            count = min(idle, 300) if server.name == "naive" else idle
            memory[server.name] = memory_per_connection(server, count) / 1024
        for _ in range(options.repeats):
            for in_flight in (1, 16):
                for server, publish in variants:
                    result = measure(
                        server,
                        publish,
                        clients=options.clients,
                        in_flight=in_flight,
                        seconds=options.seconds,
                    )
                    key = (server.name, in_flight)
                    if key not in best or result.per_cpu_second > (
                        best[key].per_cpu_second
                    ):
                        best[key] = result
    return report(options, best, memory, idle)


def report(options, best, memory, idle):
    """Print the table; return 1 if a ratio is below its floor."""
    print(f"{options.clients} clients, best of {options.repeats} x {options.seconds} s")
    print(f"{'server':8}{'in flight':>10}{'per CPU s':>12}{'per s':>10}{'hub is':>9}")
    failed = False
    limited = set()
    for (name, in_flight), result in sorted(best.items(), key=lambda item: item[0][1]):
        ratio = best["hub", in_flight].per_cpu_second / result.per_cpu_second
        floor = FLOORS.get((name, in_flight), 0)
        mark = ""
        if ratio < floor:
            failed = True
            mark = f"  below {floor}"
        if result.client_share > 0.85:
            limited.add((name, in_flight))
        print(
            f"{name:8}{in_flight:>10}{result.per_cpu_second:>12,.0f}"
            f"{result.per_second:>10,.0f}{ratio:>8.2f}x{mark}"
        )
    for name, in_flight in sorted(limited):
        print(f"The load client was the limit of the rate of {name} at {in_flight}.")
    print(f"\nmemory per idle connection ({idle:,}; naive 300)")
    for name, kib in memory.items():
        over = name == "hub" and kib > MEMORY_LIMIT_KIB
        failed |= over
        note = f"  above {MEMORY_LIMIT_KIB}" if over else ""
        print(f"{name:8}{kib:>10.2f} KiB{note}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
