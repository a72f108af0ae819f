"""What a container may do, and what is in its image."""

import json
import os
import socket
import subprocess
import sys

import pytest
from harness import engine
from harness.stack import BROKER, EVENT_BUS, PROCESSES, SERVICES

MIB = 1024 * 1024
PUBLISHED = {"gateway", "prometheus"}
NEIGHBOURS = """
import socket
found = {}
for name, port in json.loads(%r):
    try:
        socket.create_connection((name, port), timeout=2).close()
        found[name] = True
    except OSError:
        found[name] = False
print(json.dumps(found))
"""
DATA = [["postgres", 5432], ["redis-store", 6379], ["redis-cache", 6379]]


def docker(*words):
    done = subprocess.run(
        ["docker", *words], check=True, capture_output=True, text=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def inspected(stack):
    ids = {name: stack.container(name) for name in PROCESSES}
    found = json.loads(docker("inspect", *ids.values()))
    return dict(zip(ids, found, strict=True))


@pytest.mark.parametrize("name", PROCESSES)
class TestContainer:
    def test_has_no_privileges(self, inspected, name):
        host = inspected[name]["HostConfig"]
        user = inspected[name]["Config"]["User"]

        assert user.split(":")[0] not in {"", "0", "root"}
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert not host["CapAdd"]
        assert not host["Privileged"]
        assert "no-new-privileges:true" in host["SecurityOpt"]

    def test_has_limits(self, inspected, name):
        host = inspected[name]["HostConfig"]

        # Each of its two processes may have a picture of 512 MiB at work.
        most = 1280 if name == "catalog" else 1024
        assert 0 < host["Memory"] <= most * MIB
        assert 0 < host["NanoCpus"] <= 2_000_000_000
        assert 0 < host["PidsLimit"] <= 256
        assert host["RestartPolicy"]["Name"] == "unless-stopped"
        assert host["LogConfig"]["Config"]["max-size"]

    def test_holds_no_secret_in_its_environment(self, inspected, stack, name):
        environment = "\n".join(inspected[name]["Config"]["Env"])
        secrets = [
            file.read_text().strip()
            for file in (stack.state / "secrets").iterdir()
            if file.suffix != ".json"
        ]

        assert [secret for secret in secrets if secret in environment] == []

    def test_publishes_nothing_beyond_loopback(self, inspected, name):
        ports = inspected[name]["HostConfig"]["PortBindings"] or {}
        addresses = {binding["HostIp"] for found in ports.values() for binding in found}

        assert bool(ports) == (name in PUBLISHED)
        assert addresses <= {"127.0.0.1"}


class TestNetwork:
    @pytest.mark.parametrize("service", ["realtime", "web"])
    def test_keeps_postgres_from_who_has_no_database(self, stack, service):
        found = stack.inside(service, NEIGHBOURS % json.dumps(DATA))

        assert found == {"postgres": False, "redis-store": True, "redis-cache": True}

    @pytest.mark.parametrize(
        ("service", "reached"),
        [("worker", True), ("auth", False), ("realtime", True), ("web", False)],
    )
    def test_keeps_rabbitmq_from_who_sends_and_takes_nothing(
        self, stack, service, reached
    ):
        name = "rabbitmq"
        found = stack.inside(service, NEIGHBOURS % json.dumps([[name, 5672]]))

        # Where all is in Redis there is none to reach.
        assert found == {name: reached and name in {BROKER, EVENT_BUS}}

    def test_keeps_data_from_the_gateway(self, stack):
        for name, _port in DATA:
            out, err, status = stack.compose.exec_in_container(
                ["sh", "-c", f"getent hosts {name} || echo unknown"], "gateway"
            )
            assert out.strip() == "unknown", (name, out, err, status)

    def test_has_no_way_out_for_services(self, stack):
        # A socket to an address that every machine with a way out can route to.
        found = stack.inside(
            "catalog", NEIGHBOURS % json.dumps([["192.0.2.1", 80], ["8.8.8.8", 53]])
        )

        assert found == {"192.0.2.1": False, "8.8.8.8": False}

    def test_shows_only_the_gateway_and_prometheus(self, stack):
        for offset in (10, 11, 12, 13, 14, 15, 16, 17, 20, 21, 22, 23, 24, 25, 26, 28):
            with socket.socket() as probe:
                probe.settimeout(1)
                answer = probe.connect_ex(("127.0.0.1", stack.port_base + offset))
            assert answer != 0, offset


@pytest.mark.parametrize("service", SERVICES)
class TestImage:
    def test_is_small(self, service):
        def size(tag):
            return int(docker("image", "inspect", "--format", "{{.Size}}", tag))

        ours = size(f"flagon-{service}:local") - size("python:3.13-slim")
        assert ours < 150 * MIB

    def test_holds_no_tool_that_builds(self, stack, service):
        code = """
import shutil
tools = ["gcc", "cc", "make", "uv", "git", "curl", "wget"]
print(json.dumps([tool for tool in tools if shutil.which(tool)]))
"""
        assert stack.inside(service, code) == []

    def test_cannot_be_written_to(self, stack, service):
        code = """
import tempfile
from pathlib import Path
found = []
for folder in ("/", "/opt/flagon", "/opt/service", "/etc", "/usr/local/lib", "/var/lib"):
    try:
        Path(folder, "taken").touch()
        found.append(folder)
    except OSError:
        pass
with tempfile.TemporaryFile() as file:
    file.write(b"fine")
print(json.dumps(found))
"""
        assert stack.inside(service, code) == []


class TestFixtures:
    def test_bring_their_servers_where_none_is_installed(self, stack):
        chassis = engine.ROOT / "libs" / "chassis" / "tests"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, chassis / "test_db.py", chassis / "test_streams.py"],
            check=False,
            capture_output=True,
            text=True,
            cwd=engine.ROOT,
            env=os.environ | {"FLAGON_TEST_SERVERS": "containers"},
        )

        assert done.returncode == 0, done.stdout[-3000:]
        assert " skipped" not in done.stdout
