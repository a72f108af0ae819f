"""What a recipe is made of: the parts of the platform, from the sources of the other modes.

The manifests for Kubernetes say what runs with which settings, limits, probes and patience,
docker-compose.yml which secrets each process gets. Nothing is told here a second time.
"""

import re
import subprocess
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

ROOT = Path(__file__).parents[3]
Object = dict[str, Any]
Kind = Literal["gateway", "http", "process", "job"]

SERVICES = ("auth", "catalog", "realtime", "worker", "web")
JOBS = ("auth-migrate", "catalog-migrate", "worker-migrate", "auth-seed")
"""What runs before a rollout, in this order."""
LEFT_OUT = {
    "postgres": "the place's own, or one beside it",
    "redis-store": "the place's own, or one beside it",
    "redis-cache": "the place's own, or one beside it",
    "prometheus": "the place watches by its own means; /metrics is there to be scraped",
}
"""Processes of the other modes that no recipe for a cloud starts, and why."""
PORT = 8000
"""Where every process of Python answers."""
STREAM_SECONDS = 60
"""Between two signs of life of a stream the gateway waits this long (proxy_read_timeout)."""
_SHARED = "/var/lib/flagon/"


@dataclass(frozen=True)
class Part:
    """One process of the platform, in words that every place understands."""

    name: str
    kind: Kind
    service: str
    """Whose settings and code it has; empty for the gateway."""
    entrypoint: tuple[str, ...]
    """What takes the place of the image's own entrypoint; empty: nothing."""
    arguments: tuple[str, ...]
    settings: Mapping[str, str]
    """What everybody may read."""
    secrets: tuple[str, ...]
    """Names of the settings that nobody may read."""
    files: tuple[str, ...]
    """Names of secrets that are files, not settings."""
    folders: Mapping[str, str]
    """Where folders are that several processes share, by the name of the folder."""
    cpu: float
    """Cores that it asks for."""
    memory: int
    """MiB that it may take."""
    copies: int
    grace: int
    """Seconds from the signal to end to the one that kills."""

    @property
    def image(self) -> str:
        """Return the name of its image."""
        return f"flagon-{self.service or 'gateway'}"

    @property
    def start(self) -> dict[str, list[str]]:
        """Return what it starts, as Kubernetes and its kin call that."""
        if self.kind == "gateway":
            return {"command": ["sh", "/etc/flagon/gateway.sh"]}
        own = {"command": list(self.entrypoint)} if self.entrypoint else {}
        return {**own, "args": list(self.arguments)}

    @property
    def health(self) -> str:
        """Return the path that says whether requests may come: nobody asks others."""
        return "/healthz" if self.kind == "gateway" else "/readyz"

    @property
    def alive(self) -> str:
        """Return the path that says whether it lives; it touches nothing else."""
        return "/healthz" if self.kind == "gateway" else "/livez"

    @property
    def single(self) -> bool:
        """Say whether there must never be two that work."""
        return self.name == "worker-beat" or self.name.endswith("-relay")


def built() -> list[Object]:
    """Return the objects that kustomize builds; no cluster is asked."""
    kubectl = Path(sysconfig.get_path("scripts")) / "kubectl"
    done = subprocess.run(
        [str(kubectl), "kustomize", str(ROOT / "deploy" / "places")],
        check=True,
        capture_output=True,
        text=True,
    )
    return [one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one]


def parts() -> tuple[Part, ...]:
    """Return every part: the gateway, the services, the processes, the jobs."""
    objects = built()
    maps = {
        one["metadata"]["name"]: one["data"]
        for one in objects
        if one["kind"] == "ConfigMap"
    }
    found = [
        _part(one, maps, _secrets())
        for one in objects
        if one["kind"] in {"Deployment", "Job"}
    ]
    kinds = ("gateway", "http", "process", "job")
    return tuple(sorted(found, key=lambda one: (kinds.index(one.kind), _rank(one))))


def _rank(part: Part) -> tuple[int, str]:
    return (JOBS.index(part.name) if part.kind == "job" else 0, part.name)


@cache
def _secrets() -> Mapping[str, tuple[str, ...]]:
    """Return the names of the secrets of each process, as Compose gives them."""
    text = (ROOT / "docker-compose.yml").read_text()
    services: Object = yaml.safe_load(text)["services"]
    return {name: tuple(one.get("secrets", ())) for name, one in services.items()}


def _part(one: Object, maps: Object, secrets: Mapping[str, tuple[str, ...]]) -> Part:
    name, spec = one["metadata"]["name"], one["spec"]["template"]["spec"]
    labels = one["spec"]["template"]["metadata"]["labels"]
    container = spec["containers"][0]
    # The configuration of the gateway is made by an init container, of these variables.
    first = spec.get("initContainers", [container])[0]
    settings: dict[str, str] = {}
    for source in first.get("envFrom", []):
        settings |= maps[source["configMapRef"]["name"]]
    kind: Kind = labels["app.kubernetes.io/component"]
    service = labels.get("flagon.market/service", "")
    for variable in container.get("env", []):
        settings[variable["name"]] = variable["value"]
    # A broker of its own is a choice of its own (docs/patterns/swapping-the-broker.md), and
    # so are the accounts of the demonstration; nobody there tells web of alerts.
    wanted = [
        each
        for each in secrets[name]
        if not each.endswith(
            ("_broker_url", "_event_bus_url", "_alerts_token", "accounts.json")
        )
    ]
    if service == "catalog":
        wanted += ["catalog_images_key_id", "catalog_images_key"]
    return Part(
        name=name,
        kind=kind,
        service=service,
        entrypoint=tuple(container.get("command", ())) if service else (),
        arguments=tuple(container.get("args", ())) if service else (),
        settings=settings,
        secrets=tuple(each.upper() for each in wanted if "." not in each),
        files=tuple(each for each in wanted if "." in each),
        folders={
            mount["name"]: mount["mountPath"]
            for mount in container.get("volumeMounts", [])
            if mount["mountPath"].startswith(_SHARED)
            and any(
                volume["name"] == mount["name"] and "persistentVolumeClaim" in volume
                for volume in spec["volumes"]
            )
        },
        cpu=_cores(container["resources"]["requests"]["cpu"]),
        memory=_mebibytes(container["resources"]["limits"]["memory"]),
        copies=one["spec"].get("replicas", 1),
        grace=spec.get("terminationGracePeriodSeconds", 30),
    )


def _cores(text: str) -> float:
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def _mebibytes(text: str) -> int:
    number, unit = int(text[:-2]), text[-2:]
    return number * {"Mi": 1, "Gi": 1024}[unit]


_URL = re.compile(rf"\bhttp://({'|'.join(SERVICES)}):{PORT}\b")


def moved(
    part: Part,
    url: Callable[[str], str],
    place: Callable[[str], str],
    **more: str,
) -> Part:
    """Return a part whose neighbours have other addresses.

    :param url: gives the address of a service for those that call it.
    :param place: gives its host and port for the gateway.
    :param more: further settings, with the prefix of the service left away.
    """
    settings = {
        key: _URL.sub(lambda found: url(found[1]), value)
        for key, value in part.settings.items()
    }
    prefix = (part.service or "gateway").upper()
    if part.kind == "gateway":
        settings |= {f"GATEWAY_{one.upper()}": place(one) for one in SERVICES}
    settings |= {f"{prefix}_{key}": value for key, value in more.items()}
    return replace(part, settings=settings)


def behind(trusted: str, scheme: str = "https") -> dict[str, str]:
    """Return variables of a gateway before which somebody else ends TLS.

    :param trusted: addresses that may say whose request it is.
    """
    return {
        "SCHEME": scheme,
        "EDGE": f"set_real_ip_from {trusted}; real_ip_header X-Forwarded-For;",
        # Nobody speaks TLS to it: a name with a variable is first read when somebody does.
        "HTTPS_LISTEN": "127.0.0.1:8443",
        "TLS_CERTIFICATE": "$ssl_server_name.pem",
        "TLS_KEY": "$ssl_server_name.key",
    }


class _Plain(yaml.SafeDumper):
    """Writes no anchors: a reader sees each object whole."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 (as the library's)
        """Say that nothing is written as a reference."""
        return True


HEADER = (
    "# Made by `make places` of the sources in deploy/k8s and docker-compose.yml.\n"
)


def yaml_text(*objects: Object) -> str:
    """Return objects as documents, in the order of their keys."""
    documents = [
        yaml.dump(one, Dumper=_Plain, sort_keys=False, width=1000) for one in objects
    ]
    return HEADER + "---\n".join(documents)
