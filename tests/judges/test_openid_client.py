"""openid-client, a certified relying party in JavaScript, against a running auth."""

import json
import re
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from .conftest import node_library

HERE = Path(__file__).parent
SCENARIOS = re.findall(
    r"^  async (\w+)\(\) \{$", (HERE / "openid_client.mjs").read_text(), re.MULTILINE
)


@pytest.fixture(scope="module")
def verdict(provider):
    """What each scenario came to, from one run of the library."""
    library = node_library("openid-client/build/index.js")
    version = subprocess.run(["node", "--version"], capture_output=True, check=True)
    # The global `crypto` is everywhere since 19; Debian still has 18.
    old = int(version.stdout.decode().lstrip("v").split(".")[0]) < 19
    flags = ["--no-warnings", *(["--experimental-global-webcrypto"] if old else [])]
    done = subprocess.run(
        ["node", *flags, HERE / "openid_client.mjs", library],
        input=json.dumps(asdict(provider)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_openid_client_accepts(verdict, scenario):
    assert verdict[scenario] is None, verdict[scenario]


def test_every_scenario_was_run(verdict):
    assert sorted(verdict) == sorted(SCENARIOS)
