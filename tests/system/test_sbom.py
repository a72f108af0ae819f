"""What `make sbom` writes names each package of a lock, as the build will check it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = ("auth", "catalog", "realtime", "web", "worker")
NOWHERE = "--image=nobody-has-this-{}:0"


def written(folder, *more):
    done = subprocess.run(
        [sys.executable, "deploy/sbom.py", folder, NOWHERE, *more],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sbom")
    written(folder)
    return {path.stem: json.loads(path.read_text()) for path in folder.iterdir()}


def lines(service):
    """Name, version and hashes of each entry of a lock."""
    text = (ROOT / "deploy" / "locks" / f"{service}.lock").read_text()
    for entry in re.split(r"\n(?=\S)", text):
        name, version = re.match(r"([\w.-]+)==([^\s;]+)", entry).groups()
        yield name, version, set(re.findall(r"sha256:([0-9a-f]{64})", entry))


class TestSbom:
    def test_is_there_for_each_service(self, documents):
        assert set(documents) == set(SERVICES)

    @pytest.mark.parametrize("service", SERVICES)
    def test_has_every_line_of_the_lock_with_its_hashes(self, documents, service):
        found = {one["purl"]: one for one in documents[service]["components"]}
        locked = list(lines(service))

        for name, version, hashes in locked:
            one = found[f"pkg:pypi/{name}@{version}"]
            assert (one["name"], one["version"]) == (name, version)
            assert {each["content"] for each in one["hashes"]} == hashes != set()
            assert {each["alg"] for each in one["hashes"]} == {"SHA-256"}
        assert len(locked) > 50
        own = {one["name"] for one in found.values()} - {name for name, *_ in locked}
        assert own == {f"flagon-{service}", "flagon-chassis"}

    def test_says_what_another_python_would_need(self, documents):
        scopes = {one["name"]: one["scope"] for one in documents["web"]["components"]}

        assert scopes["async-timeout"] == "excluded"
        assert scopes["flask"] == "required"

    def test_says_that_the_packages_of_the_system_are_missing(self, documents):
        [said] = documents["web"]["metadata"]["properties"]

        assert said == {
            "name": "flagon:os-packages",
            "value": "no engine has the image",
        }

    def test_is_the_same_when_it_is_made_again(self, tmp_path):
        for name in ("one", "two"):
            written(tmp_path / name, "--only=web", "--epoch=1700000000")
        one, two = (tmp_path / name / "web.json" for name in ("one", "two"))

        assert one.read_bytes() == two.read_bytes()
        assert '"timestamp": "2023-11-14T22:13:20+00:00"' in one.read_text()
