"""The script that follows the addresses of containers."""

import os
import signal
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest

from .conftest import ROOT, wait_for

PORT = 23_079
UPSTREAMS = f"""\
upstream auth {{
    server auth.test:8000 max_fails=0;
    server auth.test:8000 max_fails=0;
    keepalive 16;
}}
upstream web {{
    server web.test:8000 max_fails=0;
}}
upstream shop {{
    server shop.test:{PORT} max_fails=0;
}}
"""


@pytest.fixture
def names(tmp_path):
    """A stand-in for name resolution: `getent` answers from a file."""
    table = tmp_path / "names"
    table.write_text("auth.test 10.0.0.2\n")
    program = tmp_path / "bin" / "getent"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nawk -v n="$2" \'$1 == n {{print $2, "STREAM"}}\' {table}\n'
    )
    program.chmod(0o755)
    return table


@pytest.fixture
def running(tmp_path, names):
    (tmp_path / "source").write_text(UPSTREAMS)
    # Counts reloads as nginx would do them, and ends as nginx would.
    program = (
        f'trap "echo reload >> {tmp_path}/reloads" HUP; trap "exit 7" TERM;'
        f" touch {tmp_path}/up; while :; do sleep 0.05; done"
    )
    process = subprocess.Popen(
        [
            *("sh", ROOT / "gateway" / "resolve.sh"),
            *(tmp_path / "source", tmp_path / "target"),
            *("sh", "-c", program),
        ],
        env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        # A shell cannot trap what was ignored when it started, as below `nohup`.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # noqa: PLW1509 (no threads here)
    )
    wait_for((tmp_path / "up").exists)
    yield process
    if process.poll() is None:
        process.terminate()
    process.wait(60)


@pytest.fixture
def shops():
    """Two containers of one service, which say of themselves whether they are ready."""

    class Shop(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.server.ready else 503)
            self.end_headers()

    both = [ThreadingHTTPServer((f"127.0.0.{n}", PORT), Shop) for n in (2, 3)]
    for one in both:
        one.ready = False
        threading.Thread(target=one.serve_forever, daemon=True).start()
    yield both
    for one in both:
        one.shutdown()
        one.server_close()


class TestResolve:
    def change(self, names, *lines):
        """Let names have these addresses; return what nginx has read again."""
        changed = names.parent / "changed"
        changed.write_text("\n".join([*lines, ""]))
        # At once: half a table would be a change too.
        changed.rename(names)
        reloads = names.parent / "reloads"
        wait_for(reloads.exists)
        reloads.unlink()
        return (names.parent / "target").read_text()

    def test_names_become_addresses(self, running, tmp_path):
        text = (tmp_path / "target").read_text()

        assert text.count("server 10.0.0.2:8000 max_fails=0;") == 2
        assert "keepalive 16;" in text

    def test_a_name_without_an_address_is_a_closed_port(self, running, tmp_path):
        assert "server 127.0.0.1:1 max_fails=0;" in (tmp_path / "target").read_text()

    def test_nginx_reloads_when_an_address_changes(self, running, tmp_path, names):
        text = self.change(
            names, "auth.test 10.0.0.3", "auth.test 10.0.0.4", "web.test 10.0.0.2"
        )

        assert text.count("server 10.0.0.3:8000") == 2
        assert text.count("server 10.0.0.4:8000") == 2
        assert "server 10.0.0.2:8000 max_fails=0;" in text

    def test_of_several_those_that_are_ready_get_requests(
        self, running, tmp_path, names, shops
    ):
        target, (old, new) = tmp_path / "target", shops
        lines = [f"    server 127.0.0.{n}:{PORT} max_fails=0;" for n in (2, 3)]

        def shown():
            return [line for line in target.read_text().splitlines() if line in lines]

        # Nobody is ready: better an answer of their own than none.
        self.change(names, "shop.test 127.0.0.2", "shop.test 127.0.0.3")
        assert shown() == lines
        # One comes and the other goes.
        old.ready = True
        wait_for(lambda: shown() == lines[:1])
        new.ready = True
        wait_for(lambda: shown() == lines)
        old.ready = False
        wait_for(lambda: shown() == lines[1:])

    def test_a_name_that_lost_its_address_keeps_it(self, running, names):
        text = self.change(names, "web.test 10.0.0.5")

        assert text.count("server 10.0.0.2:8000") == 2
        assert "server 10.0.0.5:8000 max_fails=0;" in text

    def test_a_name_that_stays_without_address_is_a_closed_port(self, running, names):
        text = self.change(names)

        assert text.count("server 127.0.0.1:1 ") == 4

    def test_an_address_that_a_neighbour_has_is_kept_by_nobody_else(
        self, running, names
    ):
        text = self.change(names, "web.test 10.0.0.2")

        assert text.count("server 127.0.0.1:1 ") == 3
        assert text.count("server 10.0.0.2:8000") == 1

    def test_ends_with_nginx(self, running):
        running.send_signal(signal.SIGTERM)

        assert running.wait(60) == 7

    def test_ends_as_nginx_where_both_were_told(self, running):
        """Some runners tell a whole group of processes: then nginx may be gone first."""
        [nginx] = [
            one
            for one in psutil.Process(running.pid).children()
            if one.cmdline()[:2] == ["sh", "-c"]
        ]
        nginx.terminate()
        wait_for(lambda: not psutil.pid_exists(nginx.pid))

        running.terminate()

        assert running.wait(10) == 7
