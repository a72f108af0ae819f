"""A service's image starts without a shell, as process 1, and ends by the signal to end."""

import json
import time
import uuid

import pytest

from .engine import docker

ASKED = """
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:8000/livez", timeout=2).status)
"""
FIRST = """
from pathlib import Path
print(Path("/proc/1/cmdline").read_text().replace("\\0", " ").strip())
"""


@pytest.fixture
def running(bare):
    """A container of web that is alive, by its name."""
    name = f"flagon-test-{uuid.uuid4().hex}"
    try:
        docker(
            *("run", "--detach", "--name", name, "--read-only", "--tmpfs", "/tmp"),
            *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
            *("--env", "WEB_SECRET_KEY=0123456789abcdef0123456789abcdef"),
            *("--env", "WEB_ENVIRONMENT=development", bare),
        )
        deadline = time.monotonic() + 60
        while (
            docker("exec", name, "python", "-c", ASKED, check=False).stdout != "200\n"
        ):
            assert time.monotonic() < deadline, docker("logs", name)
        yield name
    finally:
        docker("rm", "--force", name, check=False)


class TestStart:
    def test_needs_no_shell_and_no_tool(self, bare):
        shell = docker("run", "--rm", "--entrypoint", "/bin/sh", bare, check=False)
        service = docker("run", "--rm", bare, "dance", check=False)

        assert "no such file or directory" in shell.stderr
        assert service.stderr.strip() == "usage: python -m flagon_web serve"

    def test_makes_the_service_process_1_which_ends_by_sigterm(self, running):
        first = docker("exec", running, "python", "-c", FIRST).stdout
        docker("stop", "--time", "40", running)
        state = json.loads(docker("inspect", running).stdout)[0]["State"]

        assert first.startswith("python -m flagon_web serve")
        # 143 and 137 would be those of a process that knew no better.
        assert state["ExitCode"] == 0
