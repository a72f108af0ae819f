"""The same sources give the same image, byte by byte, whenever they are built."""

import io
import json
import os
import subprocess
import sys
import tarfile
import uuid

import pytest

from .engine import ROOT, docker, required

NAMES = os.environ.get("FLAGON_REPRODUCED", "web gateway").split()
"""What is built twice; `make reproduce S=…` names others."""
EPOCH = "1700000000"
MADE = "build,libraries,wheels,own,files"
"""The stages that make what an image holds; the tools before them come from registries."""


def build(name, tag, *options):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "flagonctl.image", name, "--load", "--tag", tag),
            *("--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}", *options),
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "deploy" / "local")},
    )
    assert done.returncode == 0, done.stderr[-3000:]


def inspected(tag):
    return json.loads(docker("image", "inspect", tag).stdout)[0]


def entries(tag, number):
    """What stands in a layer of an image: each entry's head and content."""
    saved = subprocess.run(["docker", "save", tag], check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(saved.stdout)) as image:
        [manifest] = json.load(image.extractfile("manifest.json"))
        layer = image.extractfile(manifest["Layers"][number]).read()
    with tarfile.open(fileobj=io.BytesIO(layer)) as files:
        return {
            one.name: (
                one.get_info(),
                files.extractfile(one).read() if one.isreg() else None,
            )
            for one in files
        }


@pytest.fixture(params=NAMES)
def twice(request):
    """The tags of an image that was built, and built again with nothing of it kept."""
    required()
    tags = [f"flagon-{request.param}:test-{uuid.uuid4().hex}" for _ in range(2)]
    try:
        build(request.param, tags[0])
        build(request.param, tags[1], "--no-cache-filter", MADE)
        yield tags
    finally:
        docker("rmi", "--force", *tags, check=False)


class TestImage:
    def test_is_the_same_when_it_is_built_again(self, twice):
        one, other = (inspected(tag) for tag in twice)
        layers = [each["RootFS"]["Layers"] for each in (one, other)]
        differing = [
            number
            for number, pair in enumerate(zip(*layers, strict=True))
            if pair[0] != pair[1]
        ]
        for number in differing:
            found, again = (entries(tag, number) for tag in twice)
            assert {name for name in found if found[name] != again.get(name)} == set()

        assert differing == []
        # The digest of its configuration: the layers, and all that starts it.
        assert one["Id"] == other["Id"]
