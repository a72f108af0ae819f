"""Every overlay and every combination of components builds and keeps to every rule."""

import json
import re
from functools import cache
from itertools import combinations

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils

from . import rules, schemas
from .conftest import COMBINATIONS, FURTHER
from .manifests import (
    COMPONENTS,
    K8S,
    OVERLAYS,
    build,
    combined,
    contained,
    name_of,
    overlay,
)

OLDEST, NEWEST = "1.35", "1.37"
"""The versions of Kubernetes that are maintained: the newest and two before it."""

# It reads them anew for each object.
utils.schema_contents = cache(utils.schema_contents)
_good = set()


def mistakes(manifests, version):
    """What is wrong with the shape of objects, those of other makers included."""
    for one in manifests.objects:
        # Most objects are the same in every build.
        key = (version, json.dumps(one, sort_keys=True))
        if key in _good:
            continue
        try:
            kubernetes_validate.validate(one, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{name_of(one)}: {list(error.path)}: {error.message}"
            continue
        except kubernetes_validate.SchemaNotFoundError:
            found = schemas.mistakes(one)
            if found is None:
                yield f"{name_of(one)}: nobody knows {one['apiVersion']}"
                continue
            if found:
                yield from (f"{name_of(one)}: {text}" for text in found)
                continue
        _good.add(key)


class TestOverlay:
    @pytest.mark.parametrize("name", OVERLAYS)
    def test_keeps_to_every_rule(self, name):
        assert rules.broken(overlay(name)) == []

    @pytest.mark.parametrize("version", [OLDEST, NEWEST])
    @pytest.mark.parametrize("name", OVERLAYS)
    def test_is_valid(self, name, version):
        assert list(mistakes(overlay(name), version)) == []

    def test_of_the_newest_version_is_the_newest_that_is_known(self):
        assert utils.major_minor(utils.latest_version()) == NEWEST

    @pytest.mark.parametrize("name", OVERLAYS)
    def test_takes_images_by_digest(self, name, folder):
        digest = "sha256:" + "0123456789abcdef" * 4
        found = {
            container["image"].partition(":")[0]
            for one in overlay(name).of(*rules.WORKLOADS)
            for container in rules.containers(one)
            if "flagon" in container["image"]
        }
        assert len(found) == 6
        (folder / "kustomization.yaml").write_text(
            yaml.safe_dump(
                {
                    "resources": [f"../../deploy/k8s/overlays/{name}"],
                    "images": [{"name": one, "digest": digest} for one in found],
                }
            )
        )
        built = build(folder)

        pinned = {
            container["image"]
            for one in built.of(*rules.WORKLOADS)
            for container in rules.containers(one)
            if "flagon" in container["image"]
        }
        assert pinned == {f"{one}@{digest}" for one in found}

    def test_is_not_for_development_but_one(self):
        said = {
            name: {
                overlay(name).settings(one)[f"{one.upper()}_ENVIRONMENT"]
                for one in rules.SERVICES
            }
            for name in OVERLAYS
        }

        assert said == {
            "local": {"development"},
            "production": {"production"},
            "staging": {"production"},
        }


class TestFurther:
    """An overlay with a component more."""

    def test_is_every_pair(self):
        there = sum(len(contained(name)) for name in OVERLAYS)

        assert len(set(FURTHER)) + there == len(OVERLAYS) * len(COMPONENTS)

    @pytest.mark.parametrize(("name", "further"), FURTHER)
    def test_keeps_to_every_rule(self, name, further):
        manifests = combined((further,), f"overlays/{name}")

        assert manifests != overlay(name)
        assert manifests.settings("auth") == overlay(name).settings("auth")
        assert rules.broken(manifests) == []
        assert list(mistakes(manifests, OLDEST)) == []
        assert list(mistakes(manifests, NEWEST)) == []


class TestCombination:
    def test_is_there_of_any_two_components_in_every_way(self):
        assert tuple(COMPONENTS) in COMBINATIONS
        for pair in combinations(COMPONENTS, 2):
            ways = {
                tuple(one in names for one in pair)
                for names in COMBINATIONS
                # More than one component, so that the ways are not those of the single ones.
                if len(names) > 1
            }
            assert len(ways) == 4, pair

    @pytest.mark.parametrize(
        "components", COMBINATIONS, ids=lambda names: "+".join(names) or "base"
    )
    def test_builds_and_keeps_to_every_rule(self, components):
        manifests = combined(components)

        assert rules.broken(manifests) == []
        assert list(mistakes(manifests, OLDEST)) == []
        assert list(mistakes(manifests, NEWEST)) == []

    @pytest.mark.parametrize("name", COMPONENTS)
    def test_leaves_nothing_of_a_component_out(self, name):
        text = (K8S / "components" / name / "kustomization.yaml").read_text()
        used = set(re.findall(r"([a-z-]+\.yaml)", text))
        there = {
            path.name
            for path in (K8S / "components" / name).iterdir()
            if path.suffix == ".yaml"
        }

        assert there - {"kustomization.yaml"} <= used


class TestResources:
    def test_have_a_reason(self):
        """A comment in the lines above says where the numbers come from."""
        found = 0
        for path in K8S.rglob("*.yaml"):
            lines = path.read_text().splitlines()
            for number, line in enumerate(lines):
                # A volume's size has no such line: it asks for storage.
                if line.strip() == "resources:" and "cpu" in lines[number + 1]:
                    found += 1
                    above = lines[max(0, number - 14) : number]
                    assert any(one.strip().startswith("# ") for one in above), path

        assert found >= 17
