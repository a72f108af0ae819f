"""Many connections from one process that count what they get and keep nothing of it."""

import select
import socket
import time

MARK = b"~"
"""Appears once in each event and nowhere else, so counting it counts events."""
DIGITS = 19
"""Of the time behind a mark: nanoseconds of the clock that all processes share."""
AT_ONCE = 500
"""Connections that wait for their answer at the same time."""
BLOCK = 262_144


def body(size=180):
    """Return an event that tells when it was made.

    :param size: of the part that says nothing, in bytes.
    """
    made = f"~{time.monotonic_ns():0{DIGITS}}"
    return f'{{"specversion": "1.0", "data": {{"name": "{made}", "text": "{"x" * size}"}}}}'


def ask(path, **headers):
    """Return a request for a stream of events."""
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Accept: text/event-stream"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


class Crowd:
    """Open connections of one kind.

    :param port: of the server, on this machine.
    :param request: what each of them sends first.
    :param status: what each of them is answered with.
    :param silent: whether the server says nothing before the first event.
    """

    def __init__(self, port, request, *, status=200, silent=False):
        self.port = port
        self.request = request
        self.expected = f" {status} ".encode()
        self.silent = silent
        self.poll = select.epoll()
        self.socks = {}
        self.stalled = []
        self.early = 0
        """Events that came while connections were opened."""
        self.broken = 0
        """Connections that had to be tried again."""

    def open(self, count, *, seconds=120, patient=False):
        """Add so many connections; return once each was answered with what was expected.

        :param patient: try again where a connection is refused, broken or sent away.
        :raises TimeoutError: not all of them in time.
        """
        waiting, asked = {}, set()
        deadline = time.monotonic() + seconds
        opened = 0
        while opened < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{opened} of {count} streams opened")
            for _ in range(min(AT_ONCE, count - opened) - len(waiting)):
                sock = socket.socket()
                sock.setblocking(False)
                # What came of it is seen when the socket can be written to.
                sock.connect_ex(("127.0.0.1", self.port))
                waiting[sock.fileno()] = sock
                self.poll.register(sock, select.EPOLLOUT)
            for fd, _ in self.poll.poll(0.5):
                sock = waiting.get(fd)
                if sock is None:
                    self.early += self.socks[fd].recv(BLOCK).count(MARK)
                    continue
                try:
                    done = self._go_on(fd, sock, asked)
                except OSError:
                    if not patient:
                        raise
                    self.broken += 1
                    del waiting[fd]
                    asked.discard(fd)
                    sock.close()
                    continue
                if done:
                    self.socks[fd] = waiting.pop(fd)
                    opened += 1

    def _go_on(self, fd, sock, asked):
        """Take the next step with a connection; say whether it is open."""
        if fd not in asked:
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise ConnectionError(error)
            sock.sendall(self.request)
            asked.add(fd)
            self.poll.modify(fd, select.EPOLLIN)
            return self.silent
        block = sock.recv(BLOCK)
        if self.expected not in block[:64]:
            raise ConnectionError(block[:1500])
        self.early += block.count(MARK)
        asked.discard(fd)
        return True

    def stall(self, count):
        """Stop reading from so many of them."""
        for fd in list(self.socks)[:count]:
            self.poll.unregister(fd)
            self.stalled.append(self.socks.pop(fd))

    def drain(self, seconds):
        """Read for a while whatever comes."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for fd, _ in self.poll.poll(0.05):
                self.socks[fd].recv(BLOCK)

    def receive(self, wanted, *, seconds=30, mark=MARK):
        """Return once so many events have come over all connections together.

        :raises TimeoutError: they stopped coming.
        :raises ConnectionError: the server has ended a connection.
        """
        got = 0
        deadline = time.monotonic() + seconds
        while got < wanted:
            ready = self.poll.poll(1)
            if not ready and time.monotonic() > deadline:
                raise TimeoutError(f"{got} of {wanted} events came")
            for fd, _ in ready:
                block = self.socks[fd].recv(BLOCK)
                if not block:
                    raise ConnectionError("a stream ended")
                got += block.count(mark)

    def listen(self, seconds):
        """Read until then; return how old each event was when it came, in seconds."""
        ages = []
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for fd, _ in self.poll.poll(left):
                block = self.socks[fd].recv(BLOCK)
                now = time.monotonic_ns()
                # One whose time is cut in two by a full buffer tells nothing.
                ages += [
                    (now - int(part[:DIGITS])) / 1e9
                    for part in block.split(MARK)[1:]
                    if len(part) >= DIGITS
                ]
        return ages

    def wait_for_end(self, seconds=30):
        """Return once the server has ended every connection."""
        deadline = time.monotonic() + seconds
        while self.socks:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.socks)} streams are still open")
            for fd, _ in self.poll.poll(0.5):
                try:
                    block = self.socks[fd].recv(BLOCK)
                    # A proxy ends what it sends in chunks and keeps the connection.
                    ended = not block or block.endswith(b"0\r\n\r\n")
                except ConnectionError:
                    ended = True
                if ended:
                    self.poll.unregister(fd)
                    self.socks.pop(fd).close()

    def close(self):
        """Close every connection."""
        for sock in [*self.socks.values(), *self.stalled]:
            sock.close()
        self.socks = {}
        self.stalled = []
        self.poll.close()
