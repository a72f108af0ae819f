"""Builds the image of a service, or of the gateway, with any options of `docker build`.

PYTHONPATH=deploy/local python -m flagonctl.image NAME [OPTION…]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from . import configuration
from .problem import Problem
from .stack import ROOT


def build(name: str, *options: str) -> None:
    """Build an image of the checkout.

    :param name: a service, or `gateway`, which holds the pages that are made of the code.
    :raises Problem: it could not be built; the engine has said why.
    """
    with tempfile.TemporaryDirectory() as folder:
        of = ["--build-arg", f"SERVICE={name}"]
        if name == "gateway":
            configuration.page_files(Path(folder), ROOT, 0o644)
            Path(folder).chmod(0o755)
            of = ["--file", "deploy/k8s/images/gateway.Dockerfile"]
            of += ["--build-context", f"pages={folder}"]
        done = subprocess.run(
            ["docker", "buildx", "build", *of, *options, "."], check=False, cwd=ROOT
        )
    if done.returncode != 0:
        raise Problem("An image could not be built.", "docker info")


if __name__ == "__main__":
    try:
        build(*sys.argv[1:])
    except Problem as problem:
        sys.exit(str(problem))
