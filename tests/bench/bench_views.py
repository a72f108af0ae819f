"""Five questions of a page at once: one after the other, in threads, in an event loop.

    .venv/bin/python tests/bench/bench_views.py

An event loop belongs to its request, as Flask gives one to each `async` view, and so do
the connections that are opened in it. No stack is needed.
"""

import asyncio
import multiprocessing
import ssl
import statistics
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2

from flagon_web.clients.gather import Gather

QUESTIONS, ROUNDS, WARM = 5, 150, 20
ANSWER_SECONDS = 0.003


class Answers(BaseHTTPRequestHandler):
    """A service that needs three milliseconds for each answer."""

    protocol_version = "HTTP/1.1"
    # One segment for an answer, and no waiting for a second.
    wbufsize = 65536
    disable_nagle_algorithm = True

    def do_GET(self):
        time.sleep(ANSWER_SECONDS)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_said):
        """Say nothing."""


def serve(port):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    port.put(server.server_port)
    server.serve_forever()


def main():
    """Ask in turns and print medians."""
    port = multiprocessing.Queue()
    service = multiprocessing.Process(target=serve, args=(port,), daemon=True)
    service.start()
    address = f"http://127.0.0.1:{port.get()}/"
    client, gather, trust = httpx2.Client(), Gather(8), ssl.create_default_context()

    async def ask_at_once():
        async with httpx2.AsyncClient(verify=trust) as own:
            await asyncio.gather(*(own.get(address) for _ in range(QUESTIONS)))

    names = [str(number) for number in range(QUESTIONS)]
    ways = {
        "one after the other": lambda: [client.get(address) for _ in names],
        "threads": lambda: gather({one: lambda: client.get(address) for one in names}),
        "an event loop": lambda: asyncio.run(ask_at_once()),
    }
    taken = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, ask in ways.items():
            began, worked = time.perf_counter(), time.process_time()
            ask()
            ended = time.perf_counter() - began, time.process_time() - worked
            taken[name].append(ended)
    for name, found in taken.items():
        wall, cpu = (
            statistics.median(part) * 1000 for part in zip(*found[WARM:], strict=True)
        )
        print(f"{name:20} {wall:5.1f} ms, {cpu:4.1f} ms of CPU")
    service.terminate()


if __name__ == "__main__":
    main()
