"""RabbitMQ as local mode runs it: its own folder, its own ports, nothing left behind."""

import subprocess
from pathlib import Path

import pytest
from flagonctl import programs
from flagonctl.problem import Problem
from flagonctl.processes import NAMES_OFFSET, NODES_OFFSET

from flagon_chassis.testing import lacking

from .conftest import listens, own_folder, wait_for
from .test_stack import Checkout


@pytest.fixture(scope="module")
def running():
    try:
        programs.rabbitmq_version()
    except Problem:
        lacking("RabbitMQ", "BROKER=rabbitmq make setup")
    with own_folder() as closed:
        checkout = Checkout(closed)
        done = checkout.run("up", ONLY="rabbitmq", BROKER="rabbitmq")
        assert done.returncode == 0, done.stdout + done.stderr
        yield checkout
        checkout.run("down")


class TestRabbitMQ:
    def test_is_ready_and_does_not_run_as_root(self, running):
        assert running.status()["rabbitmq"]["health"] == "ready"
        users = {Path(f"/proc/{pid}").stat().st_uid for pid in running.processes()}
        assert 0 not in users

    def test_listens_on_loopback_alone(self, running):
        base = running.stack.port_base
        ports = {
            running.stack.port("rabbitmq"),
            *(base + NODES_OFFSET, base + NAMES_OFFSET),
        }
        said = subprocess.run(
            ["ss", "-Htln"], check=True, capture_output=True, text=True
        ).stdout
        found = {}
        for line in said.splitlines():
            address, _, port = line.split()[3].rpartition(":")
            if int(port) in ports:
                found.setdefault(int(port), set()).add(address)

        assert set(found) == ports
        assert set().union(*found.values()) <= {"127.0.0.1", "[::1]"}

    def test_comes_back_when_it_is_killed(self, running):
        before = running.status()["rabbitmq"]["pid"]

        assert running.run("kill", P="rabbitmq").returncode == 0

        wait_for(lambda: running.status()["rabbitmq"]["pid"] not in {0, before})
        wait_for(lambda: running.status()["rabbitmq"]["health"] == "ready")

    def test_cannot_be_taken_away_from_under_a_running_stack(self, running):
        done = running.run("up", ONLY="redis-store", BROKER="redis")

        assert done.returncode != 0
        assert "make down; make up BROKER=redis" in done.stderr

    def test_leaves_nothing_behind(self, running):
        assert running.run("down").returncode == 0

        assert running.processes() == []
        assert not listens(running.stack.port_base + NAMES_OFFSET)
        # What was chosen once stays chosen.
        assert running.run("up", ONLY="rabbitmq").returncode == 0
