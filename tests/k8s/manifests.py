"""Building the manifests, and finding one's way in what was built."""

import os
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "deploy" / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
COMPONENTS = sorted(
    (path.name for path in (K8S / "components").iterdir()),
    # What others change comes first; the mesh changes all that is there.
    key=lambda name: (
        {"data": 0, "network-policies": 0, "exporters": 1, "linkerd": 3}.get(name, 2),
        name,
    ),
)
# The one that the lock brings, wherever pytest was started from.
KUBECTL = Path(sysconfig.get_path("scripts")) / "kubectl"

WORKLOADS = ("Deployment", "StatefulSet", "Job")


@dataclass(frozen=True)
class Manifests:
    """The objects of one build."""

    objects: tuple[dict, ...]

    def of(self, *kinds):
        return [one for one in self.objects if one["kind"] in kinds]

    def find(self, kind, name):
        found = [one for one in self.of(kind) if one["metadata"]["name"] == name]
        assert len(found) == 1, f"{kind} {name}: {len(found)}"
        return found[0]

    def settings(self, name):
        """The values of a generated ConfigMap, whatever its hash is."""
        found = [
            one["data"]
            for one in self.of("ConfigMap")
            if one["metadata"]["name"].rpartition("-")[0] == name
        ]
        assert len(found) == 1, f"ConfigMap {name}: {len(found)}"
        return found[0]


def name_of(one):
    return f"{one['kind']} {one['metadata']['name']}"


def pod(workload):
    return workload["spec"]["template"]


def labels(workload):
    return pod(workload)["metadata"]["labels"]


def annotations(workload):
    return pod(workload)["metadata"].get("annotations", {})


def containers(workload):
    spec = pod(workload)["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def sidecars(workload):
    """Containers that run beside the first one, from before it until after it."""
    found = pod(workload)["spec"].get("initContainers", [])
    return [one for one in found if one.get("restartPolicy") == "Always"]


def component(workload):
    return labels(workload)["app.kubernetes.io/component"]


def build(folder):
    """What `kubectl kustomize` makes of a folder; no cluster is asked."""
    done = subprocess.run(
        [KUBECTL, "kustomize", folder],
        check=False,
        capture_output=True,
        text=True,
        # It lives for a moment: collecting garbage is a third of its work.
        env={**os.environ, "GOGC": "off"},
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    # The loader in C: the other one takes ten times as long as the build.
    objects = yaml.load_all(done.stdout, yaml.CSafeLoader)
    return Manifests(tuple(one for one in objects if one))


@cache
def overlay(name):
    return build(K8S / "overlays" / name)


def combine(folder, components, start="base", **more):
    """Build the base with some components, from a kustomization in `folder`.

    `folder` must be below the checkout: a base is named by a relative path.

    :param start: another folder of deploy/k8s instead of the base.
    """
    up = Path(*[".."] * len(folder.relative_to(ROOT).parts)) / "deploy" / "k8s"
    text = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "flagon",
        "resources": [str(up / start)],
        "components": [str(up / "components" / name) for name in components],
        **more,
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(text))
    return build(folder)


def contained(name):
    """The components that an overlay names."""
    text = (K8S / "overlays" / name / "kustomization.yaml").read_text()
    return {Path(one).name for one in yaml.safe_load(text)["components"]}


@cache
def combined(components, start="base"):
    """The base, or what an overlay builds, with some components; built once for all tests.

    :param components: a tuple of names.
    """
    (ROOT / "dist").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="k8s.", dir=ROOT / "dist") as folder:
        return combine(Path(folder), components, start)
