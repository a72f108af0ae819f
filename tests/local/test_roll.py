"""What lets two processes serve at one address, and the trees of other releases."""

import os
import socket
import subprocess
import sys

import pytest
from flagonctl import launch, roll
from flagonctl.problem import Problem
from flagonctl.processes import BY_NAME, TWINS
from flagonctl.sockets import Sockets
from flagonctl.stack import Stack

from .conftest import ROOT

PATCHES = ROOT / "deploy" / "drill" / "next"


@pytest.fixture
def address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def sockets():
    made = Sockets()
    yield made
    for name in ("catalog", "catalog-next"):
        made.leave(name)


def connect(address):
    host, _, port = address.partition(":")
    return socket.create_connection((host, int(port)), timeout=30)


class TestSockets:
    def test_two_take_from_one_queue(self, sockets, address):
        first = sockets.take(address, "catalog")
        second = sockets.take(address, "catalog-next")

        with connect(address):
            # It waits in the queue; the one who came first goes, and does not take it.
            sockets.leave("catalog")
            with socket.socket(fileno=os.dup(second)) as listening:
                listening.settimeout(30)
                listening.accept()[0].close()
        assert first == second

    def test_nobody_waits_for_nobody(self, sockets, address):
        sockets.take(address, "catalog")
        sockets.leave("catalog")

        with pytest.raises(ConnectionRefusedError):
            connect(address)

    def test_is_there_while_children_of_a_killed_process_hold_the_old_one(
        self, sockets, address
    ):
        held = os.dup(sockets.take(address, "catalog"))
        sockets.leave("catalog")

        assert sockets.take(address, "catalog") is not None
        os.close(held)

    def test_leaves_an_address_of_others_alone(self, sockets, address):
        host, _, port = address.partition(":")
        with socket.create_server((host, int(port))):
            assert sockets.take(address, "catalog") is None
        sockets.leave("catalog")


class TestListeners:
    CODE = (
        "from flagonctl import launch; import os, stat, sys\n"
        "found = launch.listeners(*sys.argv[1:])\n"
        "print(found)\n"
        "print(stat.S_ISSOCK(os.fstat(0).st_mode))\n"
    )

    def said(self, stdin, *addresses):
        done = subprocess.run(
            [sys.executable, "-c", self.CODE, *addresses],
            env=os.environ | {"PYTHONPATH": str(ROOT / "deploy" / "local")},
            stdin=stdin,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()

    def test_are_the_socket_that_came_and_one_of_its_own(self, address):
        with socket.create_server(("127.0.0.1", 0)) as shared:
            found, left = self.said(shared, "127.0.0.1:1", address)

        assert [one[:5] for one in found.split(",")] == ["fd://", "fd://"]
        assert left == "False"

    def test_are_the_addresses_where_no_socket_came(self, address):
        found, _ = self.said(subprocess.DEVNULL, "127.0.0.1:1", address)

        assert found == f"127.0.0.1:1,{address}"

    def test_of_a_twin_are_elsewhere_but_for_the_one_they_share(self):
        stack = Stack("local", 23_080)
        for twin in TWINS:
            one = twin.name.removesuffix("-next")
            assert stack.address(twin.name) == stack.address(one)
            assert stack.own_address(twin.name) != stack.own_address(one)
            assert BY_NAME[one].service == twin.service

    def test_need_nothing_but_the_standard_library(self):
        assert "flagonctl" not in launch.__dict__


class TestTrees:
    def test_hold_the_next_release_whose_patches_fit(self, tmp_path):
        stack = Stack("local", 23_080, tmp_path)
        for name in ("libs", "services"):
            (tmp_path / name).symlink_to(ROOT / name)

        tree = roll.patched(stack, "next", PATCHES)

        source = tree / "services/catalog/src/flagon_catalog"
        event = (source / "events/product.changed.v1.json").read_text()
        assert "price_changed_at" in event
        assert (
            "price_changed_at"
            not in (
                ROOT
                / "services/catalog/src/flagon_catalog/events/product.changed.v1.json"
            ).read_text()
        )
        # It comes right after the last one of this release, or `migrate` would have two.
        revisions = sorted(path.name for path in (source / "migrations").glob("0*.py"))
        assert "expand" in revisions[-1]
        assert (
            f'down_revision = "{revisions[-2][:4]}"'
            in (source / "migrations" / revisions[-1]).read_text()
        )

    def test_say_which_patch_does_not_fit(self, tmp_path):
        stack = Stack("local", 23_080, tmp_path)
        wrong = tmp_path / "patches" / "1-wrong.patch"
        wrong.parent.mkdir()
        wrong.write_text("--- a/libs/x.py\n+++ b/libs/x.py\n@@ -1 +1 @@\n-a\n+b\n")

        with pytest.raises(Problem, match=r"1-wrong\.patch does not fit"):
            roll.patched(stack, "next", wrong.parent)

    def test_of_no_release_are_refused(self, tmp_path):
        stack = Stack("local", 23_080, tmp_path)

        with pytest.raises(Problem, match=r"no release v0\.0\.0-none"):
            roll.released(stack, "earlier", "v0.0.0-none")
