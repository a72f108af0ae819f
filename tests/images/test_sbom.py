"""The document about an image names what is in it: nothing more, nothing less."""

import json
import subprocess
import sys

from .engine import ROOT, docker

DISTRIBUTIONS = """
import importlib.metadata, json, re
print(json.dumps([
    f"{re.sub('[-_.]+', '-', one.name).lower()}@{one.version}"
    for one in importlib.metadata.distributions()
]))
"""


def test_names_what_is_in_the_image(image, tmp_path):
    docker_names = docker("run", "--rm", "--entrypoint", "dpkg-query", image, "-W")
    debian = {line.split("\t")[0] for line in docker_names.stdout.splitlines()}
    python = json.loads(
        docker(
            "run", "--rm", "--entrypoint", "python", image, "-c", DISTRIBUTIONS
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

    assert "pip" in {one.partition("@")[0] for one in python}
    assert [one["version"] for one in found if one["name"] == "cpython"] == ["3.13.5"]
    assert {
        one["purl"].removeprefix("pkg:pypi/")
        for one in found
        if one["purl"].startswith("pkg:pypi/")
    } == set(python)
    assert {
        one["name"] for one in found if one["purl"].startswith("pkg:deb/debian/")
    } == {name.partition(":")[0] for name in debian}
