"""What keeps a stack from starting is named, with the next step."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from flagonctl import checks, launch, programs
from flagonctl.problem import Problem
from flagonctl.stack import Stack
from flagonctl.supervisor import Supervisor

from .conftest import free_base, wait_for


@pytest.fixture
def stack(tmp_path):
    stack = Stack("local", free_base(), tmp_path)
    stack.state.mkdir(parents=True)
    return stack


class TestPorts:
    def test_a_taken_one_is_named_with_who_has_it(self, stack):
        with socket.socket() as other:
            other.bind(("127.0.0.1", stack.port("catalog")))
            other.listen()

            with pytest.raises(Problem) as failure:
                checks.ports_are_free(stack)

        said = str(failure.value)
        assert f"Port {stack.port('catalog')} (catalog)" in said
        assert f"pid {os.getpid()}" in said
        assert "PORT_BASE=" in said

    def test_free_ones_are_fine(self, stack):
        checks.ports_are_free(stack)


class TestDisk:
    def test_a_full_one_is_named(self, stack, monkeypatch):
        usage = shutil.disk_usage(stack.state)._replace(free=5 * 1024**2)
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)

        with pytest.raises(Problem, match="Only 5 MB are free"):
            checks.disk_has_room(stack)


class TestPrograms:
    def test_a_missing_one_is_named_with_the_command(self, monkeypatch):
        monkeypatch.setattr(shutil, "which", lambda *_args, **_kwargs: None)

        with pytest.raises(Problem) as failure:
            programs.find("nginx")

        assert failure.value.next_step == "sudo apt-get install -y nginx"

    def test_data_of_another_postgres_is_named(self, stack):
        (stack.state / "postgres").mkdir()
        (stack.state / "postgres" / "PG_VERSION").write_text("12\n")

        with pytest.raises(Problem, match="made by Postgres 12"):
            checks.data_can_be_read(stack)

    def test_data_without_its_passwords_is_named(self, stack):
        version = programs.installed_postgres()[0].version
        (stack.state / "postgres").mkdir()
        (stack.state / "postgres" / "PG_VERSION").write_text(f"{version}\n")

        with pytest.raises(Problem, match="passwords that open it are gone"):
            checks.data_can_be_read(stack)


class TestStaleFiles:
    def test_a_supervisor_that_is_gone_counts_as_down(self, stack):
        (stack.state / "supervisor.pid").write_text("999999999\n")

        assert Supervisor(stack).pid is None

    def test_a_stranger_with_its_id_is_no_supervisor(self, stack):
        (stack.state / "supervisor.pid").write_text(f"{os.getpid()}\n")

        assert Supervisor(stack).pid is None
        assert Supervisor(stack).states() == {}

    def test_a_lock_of_a_postgres_that_is_gone_is_removed(self, stack, capsys):
        lock = stack.state / "postgres" / "postmaster.pid"
        lock.parent.mkdir()
        lock.write_text(f"{os.getpid()}\n/data\n")

        checks.postgres_lock_is_ours(stack)

        assert not lock.exists()
        assert "is removed" in capsys.readouterr().out


class TestLauncher:
    def child(self, folder, *, ignore_term=False):
        """Start a group whose leader dies and whose child stays, as a killed nginx."""
        stubborn = "import signal; signal.signal(15, signal.SIG_IGN);" * ignore_term
        code = (
            "import os, sys, time;" + stubborn + "pid = os.fork();"
            "os._exit(0) if pid else time.sleep(60)"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=folder, process_group=0
        )
        process.wait(60)
        return process.pid

    def test_ends_what_a_killed_process_left(self, tmp_path):
        group = self.child(tmp_path)
        file = tmp_path / "group"
        file.write_text(str(group))
        assert launch.members(group, tmp_path)

        launch.end(file, tmp_path)

        assert launch.members(group, tmp_path) == []

    def test_insists(self, tmp_path, monkeypatch):
        monkeypatch.setattr(launch, "_PATIENCE_SECONDS", 0.2)
        group = self.child(tmp_path, ignore_term=True)
        file = tmp_path / "group"
        file.write_text(str(group))

        launch.end(file, tmp_path)

        assert launch.members(group, tmp_path) == []

    def test_leaves_strangers_with_the_same_group_alone(self, tmp_path):
        group = self.child(Path("/"))
        file = tmp_path / "group"
        file.write_text(str(group))

        assert launch.end(file, tmp_path) == 0

        assert launch.members(group, Path("/"))
        file.write_text(str(group))
        launch.end(file, Path("/"))
        wait_for(lambda: launch.members(group, Path("/")) == [])
