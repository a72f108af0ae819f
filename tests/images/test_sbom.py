"""The document about an image names what is in it: nothing more, nothing less."""

import json
import re
import subprocess
import sys

from .engine import ROOT, docker

EVERYTHING = """
import json, pathlib, platform
found = [one.name for one in pathlib.Path("/").rglob("*.dist-info")]
print(json.dumps([platform.python_version(), found]))
"""


def normal(folder):
    """Return `name@version` of where a distribution describes itself."""
    name, _, version = folder.removesuffix(".dist-info").partition("-")
    return f"{re.sub('[-_.]+', '-', name).lower()}@{version}"


def test_names_what_is_in_the_image(image, tmp_path):
    docker_names = docker("run", "--rm", "--entrypoint", "dpkg-query", image, "-W")
    debian = {line.split("\t")[0] for line in docker_names.stdout.splitlines()}
    version, folders = json.loads(
        docker(
            *("run", "--rm", "--network", "none", "--entrypoint", "python", image),
            *("-c", EVERYTHING),
        ).stdout
    )
    subprocess.run(
        [
            *(sys.executable, "deploy/sbom.py", tmp_path),
            *("--only", "web", "--image", image),
        ],
        check=True,
        cwd=ROOT,
    )
    found = [
        one
        for one in json.loads((tmp_path / "web.json").read_text())["components"]
        if one["scope"] == "required"
    ]

    assert [one["version"] for one in found if one["name"] == "cpython"] == [version]
    assert {
        one["purl"].removeprefix("pkg:pypi/")
        for one in found
        if one["purl"].startswith("pkg:pypi/")
    } == set(map(normal, folders))
    assert {
        one["name"] for one in found if one["purl"].startswith("pkg:deb/debian/")
    } == {name.partition(":")[0] for name in debian}
