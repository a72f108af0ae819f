"""The gateway's pod by Docker: its two containers, with the security of the manifest."""

import os
import re
import shutil
import subprocess
import sys
import time
import uuid

import pytest

from flagon_chassis.testing import lacking

from .manifests import ROOT, containers, overlay, pod

sys.path.insert(0, str(ROOT / "deploy" / "local"))

from flagonctl import authority
from flagonctl import image as builder


def docker(*arguments, check=True):
    return subprocess.run(
        ["docker", *arguments], check=check, capture_output=True, text=True, cwd=ROOT
    )


@pytest.fixture(scope="module")
def image():
    """The gateway's image, built from the checkout; it goes again."""
    if not shutil.which("docker") or docker("version", check=False).returncode:
        lacking("A container engine", "install Docker")
    name = f"flagon-gateway-test:{uuid.uuid4().hex}"
    builder.build("gateway", "--quiet", "--load", "--tag", name)
    yield name
    docker("rmi", "--force", name)


class Pod:
    """Runs containers of a pod, with its volumes as folders and no network."""

    def __init__(self, manifests, workload, image, folder):
        self.spec = pod(workload)["spec"]
        self.manifests = manifests
        self.image = image
        self.folder = folder
        self.name = f"flagon-gateway-test-{uuid.uuid4().hex}"
        folder.chmod(0o755)
        for volume in self.spec["volumes"]:
            path = folder / volume["name"]
            path.mkdir()
            if "configMap" in volume:
                data = manifests.find("ConfigMap", volume["configMap"]["name"])["data"]
                for name, text in data.items():
                    (path / name).write_text(text)
                    (path / name).chmod(0o644)
            # As Kubernetes makes an emptyDir.
            path.chmod(0o777)

    def options(self, container):
        """What the manifest says, in Docker's words."""
        of_pod, own = self.spec["securityContext"], container["securityContext"]
        assert own["readOnlyRootFilesystem"]
        assert not own["allowPrivilegeEscalation"]
        yield from ("--user", f"{of_pod['runAsUser']}:{of_pod['runAsGroup']}")
        yield from ("--read-only", "--security-opt", "no-new-privileges")
        for name in own["capabilities"]["drop"]:
            yield from ("--cap-drop", name)
        yield from ("--network", "none", "--entrypoint", container["command"][0])
        for mount in container["volumeMounts"]:
            way = ":ro" if mount.get("readOnly") else ""
            path = self.folder / mount["name"]
            yield from ("--volume", f"{path}:{mount['mountPath']}{way}")
        for source in container.get("envFrom", []):
            name = source["configMapRef"]["name"]
            for key, value in self.manifests.find("ConfigMap", name)["data"].items():
                yield from ("--env", f"{key}={value}")
        for one in container.get("env", []):
            yield from ("--env", f"{one['name']}={one['value']}")

    def run(self, container, *more):
        words = [*container["command"][1:], *container.get("args", [])]
        return docker("run", *more, *self.options(container), self.image, *words)

    def ask(self, *arguments):
        """The status of a request, made inside: there is no network."""
        done = docker(
            *("exec", self.name, "curl", "--silent", "--insecure"),
            *("--output", "/dev/null", "--write-out", "%{http_code}", *arguments),
            check=False,
        )
        return done.stdout


@pytest.fixture
def gateway(image):
    """The gateway's pod of the local overlay, running."""
    manifests = overlay("local")
    # Docker's volumes must be where its engine sees them: below the checkout.
    folder = ROOT / "dist" / f"k8s.pod.{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    found = Pod(manifests, manifests.find("Deployment", "gateway"), image, folder)
    authority.ensure(folder / "made", 0o644)
    for name, other in (("server.pem", "tls.crt"), ("server.key", "tls.key")):
        shutil.copy(folder / "made" / name, folder / "tls" / other)
        (folder / "tls" / other).chmod(0o444)
    render, nginx = containers(manifests.find("Deployment", "gateway"))
    try:
        found.run(render, "--rm")
        found.run(nginx, "--detach", "--name", found.name)
        deadline = time.monotonic() + 60
        while found.ask("http://127.0.0.1:8081/healthz") != "200":
            assert time.monotonic() < deadline, docker("logs", found.name).stderr
        yield found
    finally:
        docker("rm", "--force", found.name, check=False)
        # What nginx made belongs to its user.
        docker(
            *("run", "--rm", "--user", "0", "--entrypoint", "chown"),
            *("--volume", f"{folder}:/pod", image),
            *("-R", f"{os.getuid()}:{os.getgid()}", "/pod"),
            check=False,
        )
        shutil.rmtree(folder)


class TestGateway:
    def test_runs_as_the_manifest_says(self, gateway):
        host = ("--header", "Host: localhost")
        served = {
            path: gateway.ask(*host, f"http://127.0.0.1:8080{path}")
            for path in (
                *("/docs/problems", "/docs/architecture", "/docs/events"),
                "/docs/runbooks/queue-old",
                *("/docs/", "/docs/assets/swagger-ui.css", "/static/flagon.css"),
                "/api/openapi.json",
            )
        }

        assert set(served.values()) == {"200"}, served
        # No service is there: the gateway starts all the same and says so.
        assert gateway.ask(*host, "http://127.0.0.1:8080/") == "502"
        assert gateway.ask(*host, "https://127.0.0.1:8443/docs/problems") == "200"
        assert gateway.ask("--header", "Host: other", "http://127.0.0.1:8080/") == "421"

    def test_ends_gracefully_by_the_signal_of_its_image(self, gateway):
        docker("stop", "--time", "40", gateway.name)
        found = docker(
            *("inspect", "--format", "{{.State.ExitCode}} {{.Config.StopSignal}}"),
            gateway.name,
        )

        assert re.fullmatch(r"0 SIGQUIT\s*", found.stdout)
