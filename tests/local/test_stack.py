"""A small stack, started and stopped as a person would, with real programs."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from flagonctl import launch
from flagonctl.stack import Stack
from flagonctl.supervisor import Supervisor

from .conftest import ROOT, free_base, listens, own_folder, wait_for

PARTS = "redis-store redis-cache gateway postgres"


class Checkout:
    """A checkout in a folder that only its owner may enter, as `mktemp -d` makes it."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("deploy", "gateway", "services", "libs"):
            (folder / name).symlink_to(ROOT / name)
        self.stack = Stack("local", free_base(), folder)

    def run(self, command, **values):
        code = (
            "import sys; from pathlib import Path; from flagonctl import __main__, stack;"
            f"stack.Stack.__dataclass_fields__['root'].default = Path({str(self.folder)!r});"
            f"stack.Stack.__init__.__defaults__ = (Path({str(self.folder)!r}),);"
            "sys.exit(__main__.main(sys.argv[1:]))"
        )
        return subprocess.run(
            [
                *(sys.executable, "-c", code, "--mode", "local"),
                *("--port-base", str(self.stack.port_base)),
                *("--format", values.pop("format", "text"), command),
                *(f"{name}={value}" for name, value in values.items()),
            ],
            check=False,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT / "deploy" / "local")},
        )

    def processes(self):
        """Every process that works below the stack's folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    if (entry / "cwd").readlink().is_relative_to(self.stack.state):
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found

    def status(self):
        said = json.loads(self.run("status", format="json").stdout)
        return {one["name"]: one for one in said["processes"]}

    def said(self):
        """Return the end of every log."""
        files = sorted(self.stack.logs.glob("*.log"))
        return "".join(f"\n{x.name}:\n{x.read_text()[-2000:]}" for x in files)

    def health(self):
        found = self.status()
        return {name: found[name]["health"] for name in PARTS.split()}


@pytest.fixture(scope="module")
def running():
    with own_folder() as closed:
        checkout = Checkout(closed)
        done = checkout.run("up", ONLY=PARTS)
        assert done.returncode == 0, done.stdout + done.stderr
        yield checkout
        checkout.run("down")


class TestUp:
    def test_everything_asked_for_is_ready(self, running):
        status = running.status()

        parts = PARTS.split()
        states = {name: status[name]["state"] for name in parts}
        assert states == dict.fromkeys(parts, "RUNNING"), running.said()
        assert all(status[name]["memory_mb"] > 0 for name in parts)
        # On a busy machine one question may get no answer in its two seconds.
        wait_for(lambda: running.health() == dict.fromkeys(parts, "ready"))

    def test_nothing_runs_as_root(self, running):
        users = {Path(f"/proc/{pid}").stat().st_uid for pid in running.processes()}

        assert users
        assert 0 not in users

    def test_only_loopback_is_listened_on(self, running):
        said = subprocess.run(
            ["ss", "-Htln"], check=False, capture_output=True, text=True
        ).stdout
        ports = {running.stack.port(name) for name in PARTS.split()}
        for line in said.splitlines():
            address, _, port = line.split()[3].rpartition(":")
            if int(port) in ports:
                assert address == "127.0.0.1"

    def test_again_changes_nothing(self, running):
        before = {name: one["pid"] for name, one in running.status().items()}

        done = running.run("up", ONLY=PARTS)

        assert done.returncode == 0
        assert {name: one["pid"] for name, one in running.status().items()} == before

    def test_a_second_stack_on_the_same_ports_is_refused(self, running, tmp_path):
        other = Checkout(tmp_path)
        other.stack = Stack("local", running.stack.port_base, tmp_path)

        done = other.run("up", ONLY=PARTS)

        assert done.returncode == 1
        assert "is taken by" in done.stderr
        assert "Next: " in done.stderr

    @pytest.mark.parametrize(
        ("server", "told"),
        [
            ("waitress", "make down; make up SERVER=waitress"),
            ("apache", "choose one of: gunicorn uwsgi waitress"),
        ],
    )
    def test_another_server_is_for_a_stack_that_is_down(self, running, server, told):
        done = running.run("up", ONLY=PARTS, SERVER=server)

        assert done.returncode == 1
        assert f"Next: {told}" in done.stderr

    def test_doctor_names_what_does_not_run(self, running):
        done = running.run("doctor")

        # Only a part of the stack was asked for.
        assert done.returncode == 1
        assert "is not ready" in done.stderr
        assert "Next: make logs S=" in done.stderr


class TestOneProcess:
    @pytest.mark.parametrize("name", ["gateway", "redis-store", "postgres"])
    def test_killed_comes_back(self, running, name):
        before = running.status()[name]["pid"]

        assert running.run("kill", P=name).returncode == 0

        def back():
            now = running.status()[name]
            settled = (now["state"], now["health"]) == ("RUNNING", "ready")
            return settled and now["pid"] not in {0, before}

        wait_for(back)

    def test_stopped_stays_stopped(self, running):
        running.run("stop", P="redis-cache")
        assert running.status()["redis-cache"]["state"] == "STOPPED"
        assert not listens(running.stack.port("redis-cache"))

        done = running.run("start", P="redis-cache")

        assert done.returncode == 0, done.stderr
        assert listens(running.stack.port("redis-cache"))

    def test_an_unknown_name_is_refused_with_the_known_ones(self, running):
        done = running.run("kill", P="nonsense")

        assert done.returncode == 1
        assert "worker-bulk" in done.stderr


class TestDown:
    @pytest.fixture
    def fresh(self):
        with own_folder() as closed:
            checkout = Checkout(closed)
            done = checkout.run("up", ONLY="redis-store")
            assert done.returncode == 0, done.stderr
            yield checkout
            checkout.run("down")

    def test_leaves_no_process_and_no_open_folder(self, fresh):
        assert fresh.processes()

        done = fresh.run("down")

        assert done.returncode == 0, done.stderr
        assert fresh.processes() == []
        assert stat.S_IMODE(fresh.folder.stat().st_mode) == 0o700
        listed = subprocess.run(
            ["getfacl", "-c", "-p", fresh.folder],
            check=False,
            capture_output=True,
            text=True,
        )
        assert "flagon" not in listed.stdout

    def test_sources_that_only_root_may_read_are_opened_and_closed(self, fresh):
        if os.geteuid() != 0:
            # Then the processes run as the owner of the sources, who may read them: there
            # is nothing to open. CI runs as root.
            pytest.skip("nobody else runs the processes")
        fresh.run("down")
        (fresh.folder / "gateway").unlink()
        shutil.copytree(ROOT / "gateway", fresh.folder / "gateway")
        secret = fresh.folder / "gateway" / "nginx.conf.template"
        secret.chmod(0o600)
        (fresh.folder / "gateway").chmod(0o700)

        done = fresh.run("up", ONLY="redis-store")

        assert done.returncode == 0, done.stderr
        reads = subprocess.run(
            ["cat", secret],
            check=False,
            user="flagon",
            cwd="/",
            stdout=subprocess.DEVNULL,
        )
        assert reads.returncode == 0
        fresh.run("down")
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        assert stat.S_IMODE(secret.parent.stat().st_mode) == 0o700

    def test_keeps_data(self, fresh):
        kept = (fresh.stack.secrets / "postgres_password").read_text()
        fresh.run("down")

        fresh.run("up", ONLY="redis-store")

        assert (fresh.stack.secrets / "postgres_password").read_text() == kept

    def test_finds_what_a_killed_supervisor_left(self, fresh):
        os.kill(Supervisor(fresh.stack).pid, signal.SIGKILL)
        wait_for(lambda: Supervisor(fresh.stack).pid is None)
        assert fresh.processes()

        fresh.run("down")

        assert fresh.processes() == []

    def test_up_goes_on_after_a_killed_supervisor(self, fresh):
        os.kill(Supervisor(fresh.stack).pid, signal.SIGKILL)
        wait_for(lambda: Supervisor(fresh.stack).pid is None)

        done = fresh.run("up", ONLY="redis-store")

        assert done.returncode == 0, done.stderr
        group = int((fresh.stack.state / "groups" / "redis-store").read_text())
        assert launch.members(group, fresh.stack.state)

    def test_up_goes_on_after_a_kill_in_the_first_start(self, fresh):
        fresh.run("down")
        half = fresh.stack.state / "postgres.new"
        half.mkdir(exist_ok=True)
        (half / "PG_VERSION").write_text("15\n")
        (fresh.stack.state / "postgres" / "PG_VERSION").unlink()

        done = fresh.run("up", ONLY="postgres")

        assert done.returncode == 0, done.stderr
        assert not half.exists()

    def test_reset_forgets_all(self, fresh):
        fresh.run("reset")

        assert fresh.processes() == []
        assert not fresh.stack.state.exists()
