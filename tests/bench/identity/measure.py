"""How it is measured: in turns, so that a busy neighbour slows all of them alike."""

import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass


@dataclass
class Cost:
    """Microseconds for one call."""

    wall: float
    cpu: float


def cost(work, times):
    """Return what one call costs, the mean of so many."""
    began, used = time.perf_counter(), time.process_time()
    for _ in range(times):
        work()
    return Cost(
        (time.perf_counter() - began) / times * 1e6,
        (time.process_time() - used) / times * 1e6,
    )


def cpu_seconds(pid):
    """Return what a process has used so far, all its threads, to the nanosecond."""
    # The clock of another process: CPUCLOCK_SCHED, see clock_getcpuclockid(3).
    return time.clock_gettime(~pid << 3 | 2)


def in_turns(variants, *, rounds):
    """Run each variant once a round; return all their costs by name.

    :param variants: by name, a function and how often a round calls it.
    """
    found = {name: [] for name in variants}
    for work, times in variants.values():
        cost(work, max(1, times // 10))
    for number in range(rounds):
        # Forwards and backwards: nobody is always the one after the garbage collection.
        order = list(variants) if number % 2 == 0 else list(reversed(variants))
        for name in order:
            found[name].append(cost(*variants[name]))
    return found


def ratio(over, under, of="cpu"):
    """Return the median of the rounds' ratios."""
    pairs = zip(over, under, strict=True)
    return statistics.median(getattr(a, of) / getattr(b, of) for a, b in pairs)


def median(costs, of="cpu"):
    """Return the median cost in microseconds."""
    return statistics.median(getattr(one, of) for one in costs)


class Wire:
    """One connection that sends what it is given and reads one response.

    It is kept, and made anew where a server keeps none.
    """

    def __init__(self, port, seconds=30):
        self._to = ("127.0.0.1", port), seconds
        self._open()

    def _open(self):
        self._socket = socket.create_connection(*self._to)
        self._rest = b""
        self._over = False

    def ask(self, request):
        """Return the status and the body of the answer."""
        self.send(request)
        return self.receive()

    def send(self, request):
        """Send a request whose answer is received later."""
        if self._over:
            self.close()
            self._open()
        self._socket.sendall(request)

    def receive(self):
        """Return the status and the body of the next answer."""
        data = self._rest
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        status = int(head[9:12])
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            elif (name.lower(), value.strip()) == (b"connection", b"close"):
                self._over = True
        if status == 304:
            length = 0
        while len(body) < length:
            body += self._more()
        self._rest = body[length:]
        return status, body[:length]

    def _more(self):
        block = self._socket.recv(65536)
        if not block:
            raise ConnectionError("the server closed the connection")
        return block

    def close(self):
        """Close the connection."""
        self._socket.close()


def message(method, path, headers=None, body=b""):
    """Return an HTTP request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    given = dict(headers or {})
    if body:
        given["Content-Length"] = str(len(body))
        given.setdefault("Content-Type", "application/x-www-form-urlencoded")
    lines += [f"{name}: {value}" for name, value in given.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def rate(callers, seconds):
    """Return how many calls a second these callers make together, each in a loop."""
    end = time.perf_counter() + seconds

    def loop(call):
        done = 0
        while time.perf_counter() < end:
            call()
            done += 1
        return done

    began = time.perf_counter()
    with ThreadPoolExecutor(len(callers)) as pool:
        done = sum(pool.map(loop, callers))
    return done / (time.perf_counter() - began)
