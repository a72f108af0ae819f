"""What being watched costs: an empty view with all of it, beside one without, part by part.

    python tests/bench/bench_telemetry.py [--requests 1000] [--rounds 8]

One process under gunicorn for each, asked in turns on a kept connection, best of the rounds.
A part's cost is what the whole costs less without it. Metrics go to files as in production,
a line of each request to standard output, one trace in twenty to the log, and reports of
errors would go to a place where nobody is; there are none. Without metrics and lines their
hooks are left out, which a service cannot do.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import httpx2
import psutil

sys.path.insert(0, str(Path(__file__).parent))

from figures import table
from identity.servers import drawn

from flagon_chassis.testing import free_port, start_redis

HOOKS = ("metrics", "lines")
PARTS = (*HOOKS, "traces", "errors")
WHOLE = "all of it, of the empty view without"
GOALS = {WHOLE: ("<=", 0.25)}


def main():
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    ways = {"all": (), "none": PARTS, **{part: (part,) for part in PARTS}}
    with ExitStack() as stack:
        redis = stack.enter_context(drawn(start_redis()))
        services = {
            name: stack.enter_context(served(redis.url, left_out))
            for name, left_out in ways.items()
        }
        seen = {name: [] for name in ways}
        # The first round is for what happens once, and not counted.
        for _ in range(options.rounds + 1):
            for name, service in services.items():
                seen[name].append(cost(*service, options.requests))
    least = {name: min(costs[1:]) * 1e6 for name, costs in seen.items()}
    whole = least["all"] - least["none"]
    rows = [
        ("an empty view without any", least["none"], "µs"),
        ("an empty view with all", least["all"], "µs"),
        *((f"of that {part}", least["all"] - least[part], "µs") for part in PARTS),
        (WHOLE, whole / least["none"], "x"),
    ]
    return 1 if table(rows, GOALS) else 0


def cost(client, worker, count):
    """Return the seconds of processor time that one request takes a service."""
    began = sum(worker.cpu_times()[:2])
    for _ in range(count):
        # As the gateway asks: it begins every trace, and knows no share.
        new = uuid4().hex
        headers = {"X-Request-ID": new, "traceparent": f"00-{new}-{new[16:]}-01"}
        answer = client.get("/empty", headers=headers)
        assert answer.status_code == 204, answer.text
    return (sum(worker.cpu_times()[:2]) - began) / count


@contextmanager
def served(redis_url, left_out):
    """A client of a service without these parts, and the process that serves."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        settings = {
            "SECRET_KEY": "b" * 32,
            "BIND": f"127.0.0.1:{port}",
            "WORKERS": "1",
            "REDIS_CACHE_URL": redis_url,
            "RATE_LIMIT": "1000000 per minute",
            "METRICS_DIR": f"{folder}/metrics",
            "TRACES": "none" if "traces" in left_out else "log",
            "TRACE_RATIO": "0.05",
            "SENTRY_DSN": "" if "errors" in left_out else "http://key@127.0.0.1:9/1",
            "LEFT_OUT": " ".join(part for part in left_out if part in HOOKS),
        }
        master = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("empty_view.py")],
            env={f"BENCH_{name}": value for name, value in settings.items()},
            stdout=subprocess.DEVNULL,
        )
        stack.callback(master.wait)
        stack.callback(master.terminate)
        base_url = f"http://127.0.0.1:{port}"
        client = stack.enter_context(httpx2.Client(base_url=base_url))
        wait_for(client)
        (worker,) = psutil.Process(master.pid).children()
        yield client, worker


def wait_for(client):
    """Return when the service is ready."""
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        try:
            client.get("/readyz").raise_for_status()
        except httpx2.TransportError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError("The service did not become ready in 30 s.")


if __name__ == "__main__":
    sys.exit(main())
