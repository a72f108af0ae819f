"""The workflows hold no more rights than they need, and what is released is signed first."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"
IMAGES = {"auth", "catalog", "gateway", "realtime", "web", "worker"}
UNPINNED = {"actions/attest-build-provenance@v2.1.0"}
"""Named by version, and said so in docs/releases.md."""
BOTH = pytest.mark.parametrize("name", ["ci.yml", "release.yml"])


def read(name):
    """A workflow; `BaseLoader`, because `on` would be a boolean otherwise."""
    return yaml.load((WORKFLOWS / name).read_text(), yaml.BaseLoader)


def steps(name):
    return [one for job in read(name)["jobs"].values() for one in job.get("steps", [])]


def said(name):
    """What the steps of a job run, in order, as one text."""
    return "\n".join(one.get("run", one.get("uses", "")) for one in steps(name))


class TestWorkflow:
    @BOTH
    def test_has_no_right_but_those_of_a_job(self, name):
        found = read(name)

        assert found["permissions"] == {}
        assert all(job["permissions"] for job in found["jobs"].values())

    @BOTH
    def test_uses_actions_by_commit(self, name):
        found = {one["uses"] for one in steps(name) if "uses" in one}
        loose = {one for one in found if not re.search(r"@[0-9a-f]{40}$", one)}

        assert found
        assert loose == (UNPINNED if name == "release.yml" else set())

    @BOTH
    def test_leaves_no_token_in_the_checkout(self, name):
        for one in steps(name):
            if one.get("uses", "").startswith("actions/checkout@"):
                assert one["with"]["persist-credentials"] == "false"

    @BOTH
    def test_runs_nothing_that_somebody_else_may_write(self, name):
        """Names of branches and tags reach a shell as variables, never as text."""
        assert not [one for one in steps(name) if "${{" in one.get("run", "")]

    @BOTH
    def test_knows_no_secret_but_its_own_token(self, name):
        text = (WORKFLOWS / name).read_text()

        assert "secrets" not in text
        assert text.count("github.token") == (1 if name == "release.yml" else 0)


class TestRelease:
    def test_is_made_by_a_tag_alone(self):
        assert read("release.yml")["on"] == {"push": {"tags": ["v*"]}}

    def test_follows_what_every_change_must_pass(self):
        jobs = read("release.yml")["jobs"]

        assert jobs["check"]["uses"] == "./.github/workflows/ci.yml"
        assert jobs["check"]["permissions"] == {"contents": "read"}
        assert jobs["image"]["needs"] == "check"
        assert "workflow_call" in read("ci.yml")["on"]

    def test_is_of_all_images(self):
        kustomization = ROOT / "deploy/k8s/overlays/production/kustomization.yaml"
        named = yaml.safe_load(kustomization.read_text())["images"]
        job = read("release.yml")["jobs"]["image"]

        assert set(job["strategy"]["matrix"]["image"]) == IMAGES
        assert {one["name"].removeprefix("flagon-") for one in named} == IMAGES

    def test_may_push_and_prove_who_it_is_and_nothing_else(self):
        assert read("release.yml")["jobs"]["image"]["permissions"] == {
            "contents": "read",
            "packages": "write",
            "id-token": "write",
            "attestations": "write",
        }

    def test_names_an_image_when_it_is_signed(self):
        order = [
            said("release.yml").index(each)
            for each in (
                "docker login",
                "push-by-digest=true",
                "docker pull",
                "deploy/sbom.py",
                "actions/attest-build-provenance",
                "cosign sign",
                "cosign attest",
                "imagetools create",
            )
        ]

        assert order == sorted(order)

    def test_speaks_of_what_it_pushed_by_digest_alone(self):
        text = said("release.yml")
        named = re.findall(r'"\$IMAGE([^"]*)"', text)

        assert set(named) == {"@$DIGEST", ":${GITHUB_REF_NAME#v}"}
        assert text.count("${GITHUB_REF_NAME#v}") == 2

    def test_has_its_names_in_the_document_for_people(self):
        text = (ROOT / "docs" / "releases.md").read_text()

        assert set(re.findall(r"`(actions/[^`]+@v[^`]+)`", text)) == UNPINNED
        assert "has not been run" in text
