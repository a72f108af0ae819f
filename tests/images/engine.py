"""Asking the container engine."""

import shutil
import subprocess
from pathlib import Path

from flagon_chassis.testing import lacking

ROOT = Path(__file__).parents[2]


def docker(*arguments, check=True, given=None):
    """Run a command of Docker at the root of the checkout and return how it ended."""
    done = subprocess.run(
        ["docker", *arguments],
        check=False,
        input=given,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0 or not check, (arguments, done.stderr[-3000:])
    return done


def required():
    """Do without these tests where no engine answers."""
    if not shutil.which("docker") or docker("version", check=False).returncode:
        lacking("A container engine", "install Docker")
