"""nginx, HAProxy and Apache as the gateway, before the same upstream.

    python tests/bench/bench_gateway.py [--rounds 9] [--requests 200] [--connections 8]

The upstream is an nginx of its own that says the same kilobyte to whoever asks, so what is
measured is the gateways. All are the platform's own, with one worker and the whole
configuration; they are asked in turns, and by CPU, which does not depend on what else the
machine does, nor on the client. Medians of the rounds.

No goals: what stands before the services is chosen for other reasons.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "local"))

from conftest import Upstream, free_port, listens, programs, start_gateway, wait_for
from figures import table
from identity.measure import Wire, message

GATEWAYS = ("nginx", "haproxy", "apache")
BODY = b'{"text":"' + b"x" * 1013 + b'"}'
WORK = {
    "a page": message("GET", "/"),
    "an API, passed on": message("GET", "/api/v1/me"),
    "the catalog, which nginx keeps": message("GET", "/api/v1/products"),
    "a write": message("POST", "/api/v1/me", body=b"{}"),
}
CONFIGURATION = """
worker_processes 1;
pid {folder}/pid;
error_log stderr crit;
events {{ worker_connections 512; }}
http {{
    access_log off;
    keepalive_requests 10000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    default_type application/json;
    server {{ listen 127.0.0.1:{port}; location / {{ return 200 '{body}'; }} }}
}}
"""


@contextmanager
def constant(folder):
    """Yield an upstream that always says the same, as fast as nginx can."""
    upstream = Upstream(port=free_port())
    text = CONFIGURATION.format(folder=folder, port=upstream.port, body=BODY.decode())
    (folder / "nginx.conf").write_text(text)
    rights = " user root;" if os.geteuid() == 0 else ""
    process = subprocess.Popen(
        [
            *(programs.find("nginx"), "-c", folder / "nginx.conf", "-e", "stderr"),
            *("-g", f"daemon off;{rights}"),
        ]
    )
    wait_for(lambda: listens(upstream.port))
    try:
        yield upstream
    finally:
        process.terminate()
        process.wait(60)


def cpu_seconds(pid):
    """Return what a gateway has used, its master and all threads of its workers."""
    pids = [pid, *(child.pid for child in psutil.Process(pid).children())]
    # In nanoseconds, where the usual figure is one of hundredths of a second.
    threads = [one for pid in pids for one in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((one / "schedstat").read_text().split()[0]) for one in threads) / 1e9


def sample(gateway, wires, request, requests):
    """Return seconds of the clock and of CPU for one request."""
    began, used = time.perf_counter(), cpu_seconds(gateway.pid)
    for _ in range(requests):
        # As many at once as there are connections, so that no gateway is asleep.
        for wire in wires:
            wire.send(request)
        for wire in wires:
            got = wire.receive()
            assert got == (200, BODY), (gateway.folder, got)
    times = requests * len(wires)
    return (
        (time.perf_counter() - began) / times,
        (cpu_seconds(gateway.pid) - used) / times,
    )


def measure(options):
    """Return rows of figures."""
    with ExitStack() as stack:
        folders = {}
        for name in ("upstream", *GATEWAYS):
            folders[name] = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            folders[name].chmod(0o755)
        upstream = stack.enter_context(constant(folders["upstream"]))
        wide = {"GATEWAY_API_RATE": "30000r/s", "GATEWAY_API_BURST": "2000"}
        started, wires = {}, {}
        for name in GATEWAYS:
            gateway = start_gateway(folders[name], upstream, name, **wide)
            started[name] = stack.enter_context(gateway)
            wires[name] = [
                stack.enter_context(closing(Wire(started[name].port)))
                for _ in range(options.connections)
            ]
        found = {(what, name): [] for what in WORK for name in GATEWAYS}
        for number in range(options.rounds + 1):
            for what, request in WORK.items():
                # The first round only warms up; nobody is always the first of a round.
                for name in GATEWAYS if number % 2 else GATEWAYS[::-1]:
                    found[what, name].append(
                        sample(started[name], wires[name], request, options.requests)
                    )
    rows = []
    for (what, name), samples in found.items():
        wall, cpu = (statistics.median(one) for one in zip(*samples[1:], strict=True))
        rows.append((f"{what}, {name}: by the clock", 1 / wall, "requests a second"))
        rows.append((f"{what}, {name}: CPU of the gateway", cpu * 1e6, "us"))
    return rows


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--connections", type=int, default=8)
    return table(measure(parser.parse_args()), {})


if __name__ == "__main__":
    sys.exit(main())
