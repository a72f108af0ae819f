"""Live events: what a delivery costs, beside nchan, Flask-SSE and WebSockets.

    python tests/bench/bench_realtime.py [--clients 1000] [--idle 10000] [--rounds 3]
        [--seconds 2] [--only fanout] [--picture docs/images/realtime-bench.svg]

Each server has one process that serves, on the first processor; the load (one process,
epoll, raw sockets), Redis and what publishes have the last one. All are run in turns, and
the best of the rounds counts: a neighbour on the machine can only make one slower.

`fanout` publishes in a closed loop, one event or 16 at a time, and waits until every client
has got them; then ten events a second by the clock, for how old they are when they come.
Deliveries count by the CPU of the server's processes (behind the gateway by nginx' too, but
never by Redis'). `idle` holds clients that get nothing, through the gateway and without it.
`stalled` publishes more than the ring holds while a tenth of the clients stops reading.
`back` kills the process that serves everybody and lets all come back at once with what they
had last. `sockets` lets one come into rooms full of WebSockets and leave them, beside
server-sent events of the same process.

Exits with 1 when a goal is missed.
"""

import argparse
import resource
import shutil
import statistics
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "local"))

from figures import table
from identity.servers import drawn
from realtime.crowd import Crowd, ask
from realtime.picture import picture
from realtime.servers import (
    FLASK_SSE,
    GATEWAY,
    GATEWAY_UNIX,
    HUB,
    NCHAN,
    NGINX,
    RING_BYTES,
    flask_sse,
    gateway,
    hub,
    nchan,
    set_apart,
)
from realtime.sockets import Sockets

from flagon_chassis.testing import start_redis

BURST = 16
PER_SECOND = 10
KIB, MIB = 1024, 1024 * 1024
AGE = "p99 from publishing to receiving, of nchan's"
ONE, BURSTS = "one at a time", f"bursts of {BURST}"
THROUGH = f"{ONE}, {GATEWAY}, of direct"
IDLE = "memory of an idle client"
STALLED = "growth with a tenth stalled, above the ring"
BACK = "all clients back"
GOALS = {
    f"{ONE}, of {NGINX}'s": (">=", 1.0),
    f"{BURSTS}, of {NGINX}'s": (">=", 5.0),
    f"{ONE}, of {FLASK_SSE}'s": (">=", 5.0),
    f"{BURSTS}, of {FLASK_SSE}'s": (">=", 20.0),
    AGE: ("<=", 1.25),
    THROUGH: (">=", 0.4),
    IDLE: ("<=", 2.0),
    STALLED: ("<=", 8.0),
    BACK: ("<=", 6.0),
}


def main():
    """Run the parts, print a table and draw it."""
    options = _options()
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    core = set_apart()
    parts = {
        "fanout": fanout,
        "idle": idle,
        "stalled": stalled,
        "back": back,
        "sockets": sockets,
    }
    rows = []
    for name, part in parts.items():
        if options.only in {None, name}:
            with ExitStack() as stack:
                # Flask-SSE takes two files and a connection to Redis for each client.
                redis = stack.enter_context(drawn(start_redis("--maxclients", "9000")))
                rows += part(stack, redis.url, core, options)
    missed = table(rows, GOALS)
    if options.picture and options.only in {None, "fanout"}:
        found = {what: figure for what, figure, _unit in rows}
        parts = {
            how.capitalize(): [
                (name, found[f"{name}, {how}: a CPU second"], name in {HUB, GATEWAY})
                for name in (HUB, GATEWAY, NGINX, FLASK_SSE)
            ]
            for how in (ONE, BURSTS)
        }
        options.picture.write_text(picture(parts, options.clients))
    return 1 if missed else 0


def _options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--idle", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    only = ["fanout", "idle", "stalled", "back", "sockets"]
    parser.add_argument("--only", choices=only)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    if not NCHAN.exists() or not shutil.which("nginx"):
        parser.error("nchan is not installed: apt-get install libnginx-mod-nchan")
    return options


# -- Delivering -----------------------------------------------------------------------------


def fanout(stack, redis_url, core, options):
    """Return deliveries by CPU and by the clock, and how old events are."""
    direct = stack.enter_context(hub(redis_url, core))
    servers = [
        direct,
        stack.enter_context(gateway(direct, core)),
        stack.enter_context(gateway(direct, core, by_unix_socket=True)),
        stack.enter_context(nchan(core)),
        stack.enter_context(flask_sse(redis_url, core)),
    ]
    rates, ages, busy = {}, {}, {}
    for number in range(options.rounds):
        for server in servers if number % 2 == 0 else reversed(servers):
            with server.crowd(options.clients) as crowd:
                for burst in (1, BURST):
                    rate, load = _rate(server, crowd, burst, options)
                    key = (server.name, burst)
                    rates.setdefault(key, []).append(rate)
                    busy[key] = max(busy.get(key, 0), load)
                ages.setdefault(server.name, []).append(_ages(server, crowd, options))
    rows = []
    for burst, how in ((1, ONE), (BURST, BURSTS)):
        best = {s.name: max(rates[s.name, burst]) for s in servers}
        for name, (by_cpu, by_clock) in best.items():
            rows += [
                (f"{name}, {how}: a CPU second", by_cpu, "events"),
                (f"{name}, {how}: a second", by_clock, "events"),
            ]
            if busy[name, burst] > 0.85:
                print(
                    f"The load was the limit of {name}, {how}: {busy[name, burst]:.2f}"
                )
        rows += [
            (f"{how}, of {name}'s", best[HUB][0] / best[name][0], "x")
            for name in (NGINX, FLASK_SSE)
        ]
        rows += [
            (f"{how}, {name}, of direct", best[name][0] / best[HUB][0], "x")
            for name in (GATEWAY, GATEWAY_UNIX)
        ]
    best = {name: min(pairs, key=lambda pair: pair[1]) for name, pairs in ages.items()}
    for name, (middle, late) in best.items():
        rows += [
            (f"{name}: p50", middle * 1e3, "ms"),
            (f"{name}: p99", late * 1e3, "ms"),
        ]
    rows.append((AGE, best[HUB][1] / best[NGINX][1], "x"))
    return rows


def _rate(server, crowd, burst, options):
    """Return deliveries by CPU and by the clock, and how busy the load was."""
    for _ in range(3):
        server.publish(burst)
        crowd.receive(len(crowd.socks) * burst)
    cpu, own, began = server.cpu_seconds(), time.process_time(), time.monotonic()
    delivered = 0
    while time.monotonic() - began < options.seconds:
        server.publish(burst)
        crowd.receive(len(crowd.socks) * burst)
        delivered += len(crowd.socks) * burst
    wall = time.monotonic() - began
    # The kernel counts CPU in hundredths of a second.
    used = max(server.cpu_seconds() - cpu, 0.01)
    load = (time.process_time() - own) / wall
    return (delivered / used, delivered / wall), load


def _ages(server, crowd, options):
    """Return the median and the 99th percentile of how old events are, in seconds."""
    found = []
    for _ in range(round(2 * options.seconds * PER_SECOND)):
        began = time.monotonic()
        server.publish(1)
        found += crowd.listen(began + 1 / PER_SECOND - time.monotonic())
    found += crowd.listen(1)
    cuts = statistics.quantiles(found, n=100)
    return cuts[49], cuts[98]


# -- Holding --------------------------------------------------------------------------------


def idle(stack, redis_url, core, options):
    """Return what clients cost that get nothing."""
    rows = []
    with hub(redis_url, core) as direct, gateway(direct, core, workers=3) as behind:
        rows += _held(direct, behind, options.idle)
    with hub(redis_url, core) as direct:
        rows.append((f"{IDLE}, direct", _grown(direct, options.idle) / KIB, "KiB"))
    with nchan(core) as other:
        rows.append((f"{IDLE}, {NGINX}", _grown(other, options.idle) / KIB, "KiB"))
    with flask_sse(redis_url, core) as other:
        rows.append((f"{IDLE}, {FLASK_SSE}", _grown(other, 500) / KIB, "KiB"))
    return rows


def _held(direct, behind, count):
    """Return what so many clients cost realtime and the gateway, and that all live."""
    with behind.crowd(300) as crowd:
        before, all_before = direct.memory(), behind.memory()
        for _ in range((count - 300) // 100):
            crowd.open(100)
        grown = direct.memory() - before
        nginx = behind.memory() - all_before - grown
        cpu, began = behind.cpu_seconds(), time.monotonic()
        # Longer than the time between two heartbeats.
        crowd.drain(20)
        share = (behind.cpu_seconds() - cpu) / (time.monotonic() - began)
        behind.publish(1)
        held = len(crowd.socks)
        crowd.receive(held)
        opened = held - 300
    return [
        (f"idle clients {GATEWAY}", held, "all got the next event"),
        (IDLE, grown / opened / KIB, "KiB"),
        (f"{IDLE}, the gateway", nginx / opened / KIB, "KiB"),
        ("CPU while nothing happens", 100 * share, "%"),
    ]


def _grown(server, count):
    """Return the bytes that an idle client adds to the server's processes.

    Opened in waves, as people come: a storm also needs memory for requests in flight,
    which stays with the process but serves the next ones.
    """
    with server.crowd(300) as crowd:
        before = server.memory()
        for _ in range(count // 100):
            crowd.open(100)
        server.settled(len(crowd.socks))
        return (server.memory() - before) / (len(crowd.socks) - 300)


# -- Clients that do not read ---------------------------------------------------------------


def stalled(stack, redis_url, core, options):
    """Return how much realtime grows when a tenth of its clients does not read."""
    size, clients = 4096, 100
    server = stack.enter_context(hub(redis_url, core))
    with server.crowd(clients) as crowd:
        crowd.stall(clients // 10)
        before = server.memory()
        for _ in range(2 * RING_BYTES // size // BURST):
            server.publish(BURST, size)
            crowd.receive(len(crowd.socks) * BURST)
        grown = server.memory() - before
    return [
        ("growth with a tenth stalled", grown / MIB, "MiB"),
        (STALLED, (grown - RING_BYTES) / MIB, "MiB"),
    ]


# -- Coming back ----------------------------------------------------------------------------


def back(stack, redis_url, core, options):
    """Return how long it takes until all clients have what they missed by a crash."""
    rows = []
    for name in (HUB, GATEWAY):
        with ExitStack() as inner:
            server = direct = inner.enter_context(hub(redis_url, core))
            if name == GATEWAY:
                server = inner.enter_context(gateway(direct, core, workers=3))
            crowd = inner.enter_context(server.crowd(options.idle))
            rows += _storm(server, direct, crowd, name)
    return rows


def _storm(server, direct, crowd, name):
    count, missed = len(crowd.socks), 5
    last = server.publish(1)
    crowd.receive(count)
    (worker,) = psutil.Process(direct.masters[0]).children()
    worker.kill()
    began = time.monotonic()
    crowd.wait_for_end()
    server.publish(missed)
    again = Crowd(server.port, ask(server.path, Last_Event_ID=last))
    with closing(again):
        again.open(count, patient=True)
        opened = time.monotonic() - began
        again.receive(count * missed - again.early)
        took = time.monotonic() - began
    (worker,) = psutil.Process(direct.masters[0]).children()
    used = worker.cpu_times()
    how = "" if name == HUB else f" {name}"
    return [
        (f"{BACK}{how}", took, "s from the kill"),
        (f"all answered{how}", opened, "s"),
        (f"CPU of the new process until then{how}", used.user + used.system, "s"),
        (f"tried again{how}", again.broken, "times"),
    ]


# -- WebSockets -----------------------------------------------------------------------------


def sockets(stack, redis_url, core, options):
    """Return what WebSockets cost beside streams of the same process."""
    # No pings: who is counted here has nothing to answer.
    slow = {"HEARTBEAT_SECONDS": "600", "STALL_SECONDS": "1200"}
    server = stack.enter_context(hub(redis_url, core, **slow))
    rooms = [f"products/bench-{number}" for number in range(BURST)]
    rows = []
    with closing(Sockets(server, rooms[:1])) as people:
        people.open(100)
        before = server.memory()
        people.open(options.clients - 100, settle=3)
        grown = (server.memory() - before) / (options.clients - 100)
        rows.append(("memory of a WebSocket in a room", grown / KIB, "KiB"))
    for clients in (min(200, options.clients), options.clients):
        found = {}
        with (
            closing(Sockets(server, rooms)) as people,
            server.crowd(clients) as crowd,
        ):
            people.open(clients)
            for burst in (1, BURST):
                found["WebSockets", burst] = _told(server, people, burst, options)
                found["streams", burst], _load = _rate(server, crowd, burst, options)
        for burst, how in ((1, ONE), (BURST, BURSTS)):
            over, under = found["streams", burst][0], found["WebSockets", burst][0]
            by_clock = found["WebSockets", burst][1]
            what = f"{clients:,} WebSockets, {how}"
            rows += [
                (f"{what}: a CPU second", under, "messages"),
                (f"{what}: a second", by_clock, "messages"),
                (f"{clients:,} streams, {how}: a CPU second", over, "events"),
                (f"{what}: of streams", under / over, "x"),
            ]
    return rows


def _told(server, people, burst, options):
    """Return messages by CPU and by the clock while one comes and goes."""
    cpu, began = server.cpu_seconds(), time.monotonic()
    told = 0
    while time.monotonic() - began < options.seconds:
        for event in ("join", "leave"):
            people.tell(event, burst)
            told += people.count * burst
    wall = time.monotonic() - began
    return told / max(server.cpu_seconds() - cpu, 0.01), told / wall


if __name__ == "__main__":
    sys.exit(main())
