"""What traces cost: one catalog without them beside the same with, in turns, in one run.

    python tests/bench/bench_traces.py [--requests 300] [--rounds 7]

With: every request traced and sent to a sink that runs, 5 % of them, and every one while
no sink is there. Told are the processor time of the service for a request, its exporting
thread included, and the time until the answer; ratios are to the catalog without.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2

sys.path.insert(0, str(Path(__file__).parent))

from catalog.server import ground, served, wait

from flagon_chassis.testing import free_port

TICKS = os.sysconf("SC_CLK_TCK")
READ = "/api/v1/products/by-sku/sku-1"


def main():
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with ExitStack() as stack:
        base = stack.enter_context(ground(2000))
        sink, sink_pid = stack.enter_context(collecting())
        nobody = f"http://127.0.0.1:{free_port()}"
        ways = {
            "none": {},
            "otlp, all": {"TRACES": "otlp", "OTLP_URL": sink},
            "otlp, 5 %": {"TRACES": "otlp", "OTLP_URL": sink, "TRACE_RATIO": "0.05"},
            "otlp, sink away": {"TRACES": "otlp", "OTLP_URL": nobody},
        }
        services = {
            name: stack.enter_context(served(base, **way)) for name, way in ways.items()
        }
        clients = {
            name: stack.enter_context(
                httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
            )
            for name, (port, _worker) in services.items()
        }
        began, sent = cpu(sink_pid), 0
        for kind, act in (("read", read), ("write", writer(base.headers))):
            seen = {name: [] for name in ways}
            # The first round is for what happens once, and not counted.
            for number in range(options.rounds + 1):
                for name, (_port, worker) in services.items():
                    found = measured(worker, clients[name], act, options.requests)
                    sent += options.requests * (name == "otlp, all")
                    if number:
                        seen[name].append(found)
            print(f"{kind:<18}{'CPU ms':>8}{'ratio':>8}{'answer ms':>11}{'ratio':>8}")
            usual = [
                statistics.median(column) for column in zip(*seen["none"], strict=True)
            ]
            for name, rows in seen.items():
                processor, answer = (
                    statistics.median(c) for c in zip(*rows, strict=True)
                )
                print(
                    f"{name:<18}{processor:>8.2f}{processor / usual[0]:>8.2f}"
                    f"{answer:>11.2f}{answer / usual[1]:>8.2f}"
                )
        print(f"sink, for each traced request: {(cpu(sink_pid) - began) / sent:.2f} ms")


@contextmanager
def collecting():
    """Run a sink; give its address and process id."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "flagon_chassis.sink", "--folder", folder]
        process = subprocess.Popen(
            [*command, "--bind", f"127.0.0.1:{port}"], stdout=subprocess.DEVNULL
        )
        try:
            wait(port, process)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            process.wait(60)


def cpu(pid):
    """Return the milliseconds that a process has computed for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / TICKS


def measured(worker, client, act, requests):
    """Return, for one request, the processor's and the answer's milliseconds."""
    before, times = cpu(worker), []
    for _ in range(requests):
        began = time.perf_counter()
        act(client)
        times.append(time.perf_counter() - began)
    # What waits to be sent is part of the cost.
    time.sleep(1.5)
    return (cpu(worker) - before) / requests, statistics.median(times) * 1000


def read(client):
    """Read one product."""
    assert client.get(READ).status_code == 200


def writer(headers):
    """Return what changes one product, which takes a read as well."""
    price = 0

    def write(client):
        nonlocal price
        price += 1
        known = client.get(READ)
        answer = client.patch(
            f"/api/v1/products/{known.json()['id']}",
            json={"price_minor": price},
            headers={**headers, "If-Match": known.headers["ETag"]},
        )
        assert answer.status_code == 200, answer.text

    return write


if __name__ == "__main__":
    main()
