"""Finding a container engine that answers."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
KIT = ROOT.parent / "shared" / "containers" / "ensure"


def _answers():
    try:
        done = subprocess.run(
            ["docker", "info"], check=False, capture_output=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def find():
    """Make an engine usable for this process and its children; say whether there is one.

    Where none answers, a container kit beside the checkout may start one.
    """
    if _answers():
        return True
    if not KIT.exists() or os.geteuid() != 0:
        return False
    script = f'eval "$({KIT} --env)" && env -0'
    done = subprocess.run(
        ["bash", "-c", script], check=False, capture_output=True, timeout=900
    )
    if done.returncode != 0:
        return False
    for pair in done.stdout.split(b"\0"):
        name, _, value = pair.decode().partition("=")
        if name.startswith(("DOCKER_", "TESTCONTAINERS_")) or name == "PATH":
            os.environ[name] = value
    return _answers()
