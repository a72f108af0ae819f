"""Brings the platform into a cluster, asks it how it is, and takes it away again.

    python deploy/k8s/cluster.py up|test|down|images [--context NAME] [--overlay local]

Only a context that was named, or one that is plainly of this machine, is ever touched.
Where there is none, nothing is done and that is said.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from ipaddress import ip_address
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy" / "local"))

from flagonctl import authority, configuration, environment, image, templates, vault  # noqa: E402 (found by the path above)
from flagonctl.problem import Problem  # noqa: E402 (found by the path above)
from flagonctl.processes import OWNERS, SERVICES  # noqa: E402 (found by the path above)
from flagonctl.stack import Stack  # noqa: E402 (found by the path above)
from flagonctl.watching import redis_passwords  # noqa: E402 (found by the path above)

Object = dict[str, Any]
"""One object of Kubernetes."""

NAMESPACE = "flagon"
VERSION = "0.1.0"
"""The tag that base/ names."""
WAIT = "600s"
"""Longest wait for one process, images of others included."""

_LOCAL = re.compile(
    r"kind-.+|k3d-.+|minikube|docker-desktop|rancher-desktop|colima|orbstack|microk8s"
)
_LOADERS = {
    "kind-": ["kind", "load", "docker-image", "--name"],
    "k3d-": ["k3d", "image", "import", "--cluster"],
}


_DONE = {"job": ("job", "complete"), "cluster": ("cluster.postgresql.cnpg.io", "Ready")}
"""What is waited for, by its full name where others have the same, and until when."""


class NoCluster(Exception):
    """There is no cluster that may be used; the text says why."""


@dataclass(frozen=True)
class Cluster(Stack):
    """The stack in the cluster: names are as in containers, its state is its own."""

    folder: Path = ROOT / ".run" / "k8s"

    @property
    def state(self) -> Path:
        """Folder of its secrets."""
        return self.folder


# -- Which cluster ------------------------------------------------------------------------


def kubectl(*arguments: str, given: str = "", capture: bool = True) -> str:
    """Run kubectl and return what it printed.

    :param given: its standard input; secrets go this way, never as arguments.
    :raises Problem: it failed.
    """
    done = subprocess.run(
        [_program(), *arguments],
        check=False,
        input=given,
        text=True,
        stdout=subprocess.PIPE if capture else None,
        stderr=subprocess.PIPE if capture else None,
    )
    if done.returncode != 0:
        words = (done.stderr or "").strip()
        message = f"`kubectl {' '.join(arguments[:4])} …` failed: {words}"
        raise Problem(message, "kubectl get events --namespace flagon")
    return done.stdout or ""


def _program() -> str:
    # The one of the lock is as new as the manifests; one of the machine fits its cluster.
    own = Path(sysconfig.get_path("scripts")) / "kubectl"
    return os.environ.get("KUBECTL") or (str(own) if own.exists() else "kubectl")


def choose(named: str) -> str:
    """Return the context to use.

    :param named: what the caller asked for; empty: the current one, if it is local.
    :raises NoCluster: there is none that may be used.
    """
    configured: Object = json.loads(kubectl("config", "view", "--output", "json"))
    contexts = {one["name"]: one for one in configured.get("contexts") or []}
    if named:
        if named not in contexts:
            raise NoCluster(f"There is no context {named}.")
        return named
    current = configured.get("current-context") or ""
    if current not in contexts:
        raise NoCluster("No cluster is configured: `kind create cluster`, for one.")
    clusters = {one["name"]: one for one in configured.get("clusters") or []}
    found = clusters.get(contexts[current]["context"]["cluster"], {})
    if not is_local(current, found.get("cluster", {}).get("server", "")):
        raise NoCluster(
            f"The current context {current} is not plainly of this machine; "
            f"to use it, name it: CONTEXT={current}"
        )
    return str(current)


def is_local(context: str, server: str) -> bool:
    """Say whether a context is plainly one of this machine.

    The name alone is not enough, since anybody can give it; nor is the address, since a
    tunnel to any cluster ends at one like that.
    """
    if not _LOCAL.fullmatch(context):
        return False
    host = urlsplit(server).hostname or ""
    if host in {"localhost", "kubernetes.docker.internal"}:
        return True
    try:
        return ip_address(host).is_private
    except ValueError:
        return False


# -- What is applied ----------------------------------------------------------------------


def build(overlay: str) -> list[Object]:
    """Return the objects of an overlay."""
    text = kubectl("kustomize", str(ROOT / "deploy" / "k8s" / "overlays" / overlay))
    return [one for one in yaml.load_all(text, yaml.CSafeLoader) if one]


def secrets(stack: Stack, objects: list[Object]) -> list[Object]:
    """Return the secrets of the demonstration, made where missing.

    :param objects: what is rolled out, which says where its data is.
    :return: Secret objects, each with the names of files that containers mount too.
    """
    several = _has(objects, "StatefulSet", "redis-sentinel")
    keepers = tuple(f"redis_{name}_password" for name in vault.REDIS_KEEPERS)
    keeper = vault.Vault(stack.secrets)
    keeper.fill(keepers if several else ())
    authority.ensure(stack.tls)
    accounts = stack.secrets / "auth_accounts.json"
    vault.accounts(accounts)
    configuration.redis_files(stack, keeper, 0o600)
    values = {
        service: environment.confidential(service, stack, keeper)
        for service in SERVICES
    }
    for owner in OWNERS:
        values[f"{owner}-owner"] = environment.migration(owner, stack, keeper)
    values["auth-seed"] = {
        "auth_clients.json": json.dumps(vault.clients(stack, keeper)),
        "auth_accounts.json": accounts.read_text(),
    }
    values["postgres"] = {
        path.name: path.read_text() for path in stack.secrets.glob("*postgres_password")
    }
    values["redis-admin"] = {"redis_admin_password": keeper["redis_admin_password"]}
    values["redis-acl"] = {
        f"{name}.acl": (stack.config / f"redis-{name}.acl").read_text()
        for name in ("store", "cache")
    }
    if several:
        values["redis-sentinel"] = {name: keeper[name] for name in keepers}
        values["redis-acl"] |= _replicated(stack, keeper)
    if _has(objects, "Deployment", "postgres-exporter"):
        values |= _monitored(keeper, _asked(objects))
    values = _elsewhere(values, objects)
    made = [
        _secret(name, {key.lower(): value for key, value in one.items()})
        for name, one in values.items()
    ]
    pair = {
        "tls.crt": (stack.tls / "server.pem").read_text(),
        "tls.key": (stack.tls / "server.key").read_text(),
    }
    return [*made, _secret("gateway-tls", pair) | {"type": "kubernetes.io/tls"}]


def _has(objects: list[Object], kind: str, name: str) -> bool:
    return any(
        (one["kind"], one["metadata"]["name"]) == (kind, name) for one in objects
    )


def _replicated(stack: Stack, keeper: vault.Vault) -> dict[str, str]:
    """Return the rights in several Redis, and those of who asks their Sentinels."""
    users = (*vault.REDIS_USERS, *vault.REDIS_KEEPERS)
    variables = vault.redis_variables(stack, keeper, users)
    store, keepers, sentinel = (
        templates.fill_file(
            stack.root / "deploy" / "redis" / f"{name}.acl.template", variables
        )
        for name in ("store", "replicated", "sentinel")
    )
    return {"replicated.acl": store + keepers, "sentinel.acl": sentinel}


def _asked(objects: list[Object]) -> list[str]:
    """Return the addresses of Redis that the monitor of their exporter names."""
    return [
        urlsplit(target).netloc
        for one in objects
        if (one["kind"], one["metadata"]["name"]) == ("PodMonitor", "redis-exporter")
        for endpoint in one["spec"]["podMetricsEndpoints"]
        for target in endpoint["params"]["target"]
    ]


def _monitored(keeper: vault.Vault, addresses: list[str]) -> dict[str, dict[str, str]]:
    """Return what the exporters of data stores sign in with, and where."""
    return {
        "postgres-monitor": {
            "monitor_postgres_uri": "postgres:5432/postgres?sslmode=disable",
            "monitor_postgres_password": keeper["monitor_postgres_password"],
        },
        "redis-monitor": {
            "redis_monitor_passwords.json": redis_passwords(keeper, addresses)
        },
    }


SENTINELS = ",".join(f"redis-sentinel-{n}.redis-sentinel:26379" for n in range(3))


def _elsewhere(
    values: dict[str, dict[str, str]], objects: list[Object]
) -> dict[str, dict[str, str]]:
    """Return secrets with the addresses of the data stores that are there."""
    several = _has(objects, "StatefulSet", "redis-sentinel")
    operated = _has(objects, "Cluster", "postgres")

    def moved(url: str) -> str:
        if operated and url.startswith("postgresql"):
            return url.replace("@postgres:", "@postgres-rw:")
        if operated and url.startswith("postgres:"):
            # How it is encrypted is said to each pod.
            return url.replace("postgres:", "postgres-rw:").partition("?")[0]
        if several and url.endswith("@redis-store:6379/0"):
            account = url.removeprefix("redis://").rpartition("@")[0]
            return f"redis+sentinel://{account}@{SENTINELS}/store/0"
        return url

    return {
        name: {key: moved(value) for key, value in one.items()}
        for name, one in values.items()
    }


def _secret(name: str, values: dict[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "stringData": values,
    }


PHASES = ("namespace", "ground", "roles", "migrate", "seed", "rest")
"""The order of a rollout: data and settings, roles, tables, clients, then processes."""


def phase(one: Object) -> str:
    """Return when an object is applied."""
    kind = one["kind"]
    if kind == "Namespace":
        return "namespace"
    labels = one["metadata"].get("labels", {})
    if kind == "Job":
        return str(labels["flagon.market/phase"])
    scales = kind in {"HorizontalPodAutoscaler", "ScaledObject"}
    runs = kind == "Deployment" and labels["app.kubernetes.io/component"] != "data"
    return "rest" if scales or runs else "ground"


TABLE = ROOT / "docs" / "patterns" / "network-policies.md"
WATCHED = "catalog"
"""The process that comes and goes while requests are sent."""
ATTEMPTS = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def reached(address):
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 3).close()
    except OSError:
        return False
    return True
asked = sys.argv[1:]
with ThreadPoolExecutor() as pool:
    print(json.dumps([one for one, is_ in zip(asked, pool.map(reached, asked)) if is_]))
"""
"""Run inside a pod, whose image has Python and no shell: which addresses it reaches."""


def edges(text: str) -> Iterator[tuple[tuple[str, str, int], str]]:
    """Yield each edge in the table of a document, and why it is there.

    An edge is caller, callee and port; a row holds those of all callers to all callees.
    """
    words = re.compile("`([a-z-]+)`")
    for row in re.findall(
        r"^\| (`.+) \| (`.+) \| (\d+) \| (.+) \|$", text, re.MULTILINE
    ):
        callers, callees, port, why = row
        for caller, callee in product(words.findall(callers), words.findall(callees)):
            yield (caller, callee, int(port)), why


# -- The commands -------------------------------------------------------------------------


class Rollout:
    """What is done to one cluster, always by its name."""

    def __init__(self, context: str) -> None:
        self.context = context

    def run(self, *arguments: str, given: str = "", capture: bool = True) -> str:
        """Run kubectl against the cluster, in the namespace."""
        return kubectl(
            *("--context", self.context, "--namespace", NAMESPACE),
            *arguments,
            given=given,
            capture=capture,
        )

    def apply(self, objects: list[Object]) -> None:
        """Apply objects as the server does: nothing of a secret goes to annotations."""
        if objects:
            self.run(
                *("apply", "--server-side", "--force-conflicts"),
                *("--field-manager", "flagon", "--filename", "-"),
                given=json.dumps(
                    {"apiVersion": "v1", "kind": "List", "items": objects}
                ),
            )

    def wait(self, objects: list[Object]) -> None:
        """Wait until processes run and jobs have ended well."""
        for one in objects:
            kind, name = one["kind"].lower(), one["metadata"]["name"]
            if kind in {"deployment", "statefulset"}:
                self.run("rollout", "status", f"{kind}/{name}", f"--timeout={WAIT}")
            elif kind in _DONE:
                resource, condition = _DONE[kind]
                self.run(
                    *("wait", f"--for=condition={condition}"),
                    *(f"{resource}/{name}", f"--timeout={WAIT}"),
                )

    def up(self, objects: list[Object], confidential: list[Object]) -> None:
        """Bring everything up, in the order of PHASES; safe to repeat."""
        by_phase = {
            one: [each for each in objects if phase(each) == one] for one in PHASES
        }
        for name, some in by_phase.items():
            print(f"{name}: {len(some)} objects")
            if name in {"roles", "migrate", "seed"}:
                for one in some:
                    # A job cannot be changed, and an old one has done its work.
                    self.run(
                        *("delete", "job", one["metadata"]["name"]),
                        *("--ignore-not-found", "--wait"),
                    )
            self.apply(some)
            if name == "namespace":
                self.apply(confidential)
            self.wait(some)

    def down(self) -> None:
        """Take everything away, its data included."""
        self.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait")

    def test(self) -> None:
        """Ask the gateway how everything is, also while pods come and go.

        :raises Problem: something is not ready, a request failed, or somebody reaches
            another one whom the table of edges does not name.
        """
        with self.forward() as port:
            if ask(port, "/healthz") is None:
                raise Problem("The gateway does not answer.", "make k8s-up")
            status = json.loads(ask(port, "/status") or b"{}")
            if status.get("status") != "ready":
                raise Problem(f"Not everything is ready: {status}", "kubectl get pods")
            print("everything is ready")
            for what, change in (
                ("is replaced", self._replace),
                ("has one pod more, then one less", self._scale),
                ("loses a pod, which drains", self._end_one),
            ):
                failed, asked = _meanwhile(change, port)
                print(f"{WATCHED} {what}: {asked} requests, {failed} failed")
                if failed:
                    message = f"{failed} of {asked} requests failed."
                    raise Problem(message, "make k8s-test")
        self._try_policies()

    def _replace(self) -> None:
        self.run("rollout", "restart", f"deployment/{WATCHED}")
        self._settled()

    def _scale(self) -> None:
        number = int(self._asked("get", f"deployment/{WATCHED}")["spec"]["replicas"])
        for replicas in (number + 1, number):
            self.run("scale", f"deployment/{WATCHED}", f"--replicas={replicas}")
            self._settled()

    def _end_one(self) -> None:
        chosen = f"app.kubernetes.io/name={WATCHED}"
        # One that a smaller number ended a moment ago may be listed still.
        live = [
            pod["metadata"]["name"]
            for pod in self._asked("get", "pods", "--selector", chosen)["items"]
            if "deletionTimestamp" not in pod["metadata"]
        ]
        if not live:
            raise Problem(f"There is no pod of {WATCHED}.", "make k8s-up")
        self.run("delete", "pod", live[0], "--wait")
        self._settled()

    def _settled(self) -> None:
        self.run("rollout", "status", f"deployment/{WATCHED}", f"--timeout={WAIT}")

    def _asked(self, *arguments: str) -> Object:
        found: Object = json.loads(self.run(*arguments, "--output", "json"))
        return found

    def _try_policies(self) -> None:
        """Try from inside each process whom it reaches, and compare with the table."""
        if not self._asked("get", "networkpolicies")["items"]:
            print("skipped: there are no network policies")
            return
        known = {edge for edge, _why in edges(TABLE.read_text())}
        there = {
            (one["metadata"]["name"], port["port"])
            for one in self._asked("get", "services")["items"]
            for port in one["spec"]["ports"]
        } & {(callee, port) for _caller, callee, port in known}
        tried, wrong = 0, []
        selector = ("--selector", "flagon.market/service")
        for one in self._asked("get", "deployments", *selector)["items"]:
            name = one["metadata"]["name"]
            asked = sorted(f"{host}:{port}" for host, port in there if host != name)
            said = self.run(
                *("exec", f"deployment/{name}", "--container", "flagon", "--"),
                *("python", "-IS", "-c", ATTEMPTS, *asked),
            )
            reached = set(json.loads(said))
            allowed = {f"{to}:{port}" for by, to, port in known if by == name}
            tried += len(asked)
            wrong += [f"{name} reaches {each}" for each in reached - allowed]
            wrong += [
                f"{name} does not reach {each}"
                for each in (allowed & set(asked)) - reached
            ]
        if wrong:
            # All of them: of a network that enforces nothing that is told at a glance.
            message = f"{len(wrong)} of {tried}: {', '.join(sorted(wrong))}"
            raise Problem(message, "kubectl get networkpolicies --namespace flagon")
        print(f"policies: {tried} connections tried, each as in the table")

    @contextmanager
    def forward(self) -> Iterator[int]:
        """Give a port of this machine that leads to the gateway."""
        process = subprocess.Popen(
            [
                *(_program(), "--context", self.context, "--namespace", NAMESPACE),
                *("port-forward", "service/gateway-public", ":80"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            line = process.stdout.readline() if process.stdout else ""
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            if not found:
                raise Problem("The gateway cannot be reached.", "make k8s-up")
            yield int(found[1])
        finally:
            process.terminate()
            process.communicate()


def _meanwhile(change: Callable[[], None], port: int) -> tuple[int, int]:
    """Send requests while something changes; how many failed, of how many."""
    failed = asked = 0
    with ThreadPoolExecutor(max_workers=1) as pool:
        changing = pool.submit(change)
        while not asked or not changing.done():
            asked += 1
            # Not from the micro-cache.
            failed += ask(port, "/api/v1/products?limit=1", fresh=True) is None
        changing.result()
    return failed, asked


def ask(port: int, path: str, *, fresh: bool = False) -> bytes | None:
    """Return what the gateway answers to a GET; None unless it is a 200."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Host": "localhost", "Accept": "application/json"}
    if fresh:
        headers["Cache-Control"] = "no-cache"
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, HTTPException):
        return None
    else:
        return body if answer.status == HTTPStatus.OK else None
    finally:
        connection.close()


def images() -> list[str]:
    """Build every image as the base names it and return the names."""
    names = {one: f"flagon-{one}:{VERSION}" for one in (*SERVICES, "gateway")}
    for one, name in names.items():
        image.build(one, "--load", "--tag", name)
    return list(names.values())


def load(context: str, names: list[str]) -> None:
    """Give images to the nodes of a local cluster; others share the engine's."""
    for prefix, command in _LOADERS.items():
        if context.startswith(prefix):
            subprocess.run([*command, context.removeprefix(prefix), *names], check=True)
    if context == "minikube":
        for name in names:
            subprocess.run(["minikube", "image", "load", name], check=True)


def main() -> int:
    """Carry out one command and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=["up", "test", "down", "images"])
    parser.add_argument("--context", default="")
    parser.add_argument("--overlay", default="local")
    parser.add_argument(
        "--state", type=Path, default=ROOT / ".run" / "k8s", help="folder of secrets"
    )
    chosen = parser.parse_args()
    try:
        if chosen.command == "images":
            images()
            return 0
        context = choose(chosen.context)
        print(f"context: {context}")
        rollout = Rollout(context)
        if chosen.command == "up":
            local = chosen.overlay == "local"
            if local and shutil.which("docker"):
                load(context, images())
            # Other overlays bring secrets of their own.
            stack = Cluster("docker", 8080, ROOT, chosen.state)
            objects = build(chosen.overlay)
            rollout.up(objects, secrets(stack, objects) if local else [])
            if local:
                print(
                    f"kubectl --context {context} --namespace {NAMESPACE} port-forward"
                    f" service/gateway-public 8080:80   then {stack.http_url}"
                )
        elif chosen.command == "test":
            rollout.test()
        else:
            rollout.down()
    except NoCluster as reason:
        print(f"skipped: {reason}")
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
