"""The recipes as committed, and what each says about every process, in the same words."""

import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml
from flagonctl.templates import fill

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

DIGEST = f"registry.example.com/flagon@sha256:{'0' * 64}"
FILLED = {
    "PROJECT": "market",
    "PROJECT_NUMBER": "42",
    "REGION": "europe-west1",
    "HOST": "shop.example.com",
    "BUCKET": "pictures",
    "FILES": "10.30.0.2",
    **{
        f"{name}_IMAGE": f"{name.lower()} {DIGEST}"
        for name in ("AUTH", "CATALOG", "GATEWAY", "REALTIME", "WEB", "WORKER")
    },
}
"""What rollout.sh fills in."""


@dataclass
class Run:
    """One container of a recipe."""

    name: str
    image: str
    """The service and its image, as `auth registry…@sha256:…`."""
    command: list
    settings: dict
    secrets: dict
    """What each secret setting is taken from, by the setting."""
    account: str
    grace: float = 0
    health: set = field(default_factory=set)
    """Pairs of port and path."""
    reached: str = ""
    """By whom: `world`, `inside` or nobody."""
    most: int = 1
    """How many there may be at once, also during a rollout."""
    lasting: bool = True
    files: tuple = ()
    """Secrets that it gets as files."""

    @property
    def service(self):
        """Whose image it is."""
        return self.image.split()[0]


@dataclass
class Recipe:
    """The documents of a place, and their containers."""

    place: str
    documents: dict

    @property
    def runs(self):
        """Every container."""
        return list(READERS[self.place](self.documents))


# -- AWS ----------------------------------------------------------------------------------

_AWS = {
    "HostName": "shop.example.com",
    "BucketRegion": "eu-central-1",
    "BucketName": "pictures",
}


def plain(value):
    """The text of a value with what CloudFormation puts in."""
    if isinstance(value, dict):
        key, inner = next(iter(value.items()))
        if key == "Ref":
            return _AWS.get(inner, inner)
        if key == "Fn::Sub" and isinstance(inner, list):
            return inner[0].replace("${Arn}", plain(inner[1]["Arn"]))
        if key == "Fn::GetAtt":
            return inner[0]
        text = inner if key == "Fn::Sub" else inner["Fn::Sub"].split("-", 1)[1]
        return re.sub(r"\$\{(\w+)\}", lambda found: _AWS.get(found[1], found[0]), text)
    return str(value)


def aws(documents):
    """Containers of both templates."""
    for name, template in documents.items():
        resources = template["Resources"]
        for key, one in resources.items():
            if one["Type"] != "AWS::ECS::TaskDefinition":
                continue
            task = one["Properties"]
            service = resources.get(key.removesuffix("Task") + "Service")
            for container in task["ContainerDefinitions"]:
                yield _aws(task, container, service, name)


def _aws(task, container, service, document):
    given = container["Image"]
    image = given["Ref"] if isinstance(given, dict) else ""
    checked = " ".join(container.get("HealthCheck", {}).get("Command", []))
    asked = re.search(r"http://127\.0\.0\.1:(\d+)(/[a-z]+)", checked)
    secrets = {
        one["Name"]: plain(one["ValueFrom"]) for one in container.get("Secrets", [])
    }
    files = tuple(secrets.pop(name) for name in ("AUTH_CLIENTS",) if name in secrets)
    run = Run(
        name=container["Name"],
        image=f"{image.removesuffix('Image').lower()} {DIGEST if image else ''}",
        command=[*container.get("EntryPoint", []), *container.get("Command", [])],
        settings={one["Name"]: plain(one["Value"]) for one in container["Environment"]},
        secrets=secrets,
        account=plain(task["ExecutionRoleArn"]).removesuffix("Arn"),
        grace=container["StopTimeout"],
        health={(int(asked[1]), asked[2])} if asked else set(),
        lasting=document == "services.yaml",
        files=files,
    )
    if service:
        said = service["Properties"]
        if "LoadBalancers" in said:
            run.reached = "world"
        elif "ServiceRegistries" in said:
            run.reached = "inside"
        if said["NetworkConfiguration"]["AwsvpcConfiguration"]["AssignPublicIp"] != (
            "DISABLED"
        ):
            run.reached = "world"
        share = said["DeploymentConfiguration"]["MaximumPercent"]
        run.most = said["DesiredCount"] * share // 100
    return run


# -- Google Cloud -------------------------------------------------------------------------


def gcp(documents):
    """Containers of every object."""
    for one in documents["objects"].values():
        template = one["spec"]["template"]
        lasting = one["kind"] != "Job"
        spec = template["spec"] if lasting else template["spec"]["template"]["spec"]
        notes = one["metadata"].get("annotations", {})
        reached = {"all": "world", "internal": "inside"}.get(
            notes.get("run.googleapis.com/ingress"), ""
        )
        volumes = {each["name"]: each for each in spec.get("volumes", [])}
        for container in spec["containers"]:
            # Only the first of an instance hears requests from outside of it.
            heard = reached if "ports" in container else ""
            yield Run(
                name=container["name"],
                image=container["image"],
                command=[*container.get("command", []), *container.get("args", [])],
                settings={
                    each["name"]: each["value"]
                    for each in container["env"]
                    if "value" in each
                },
                secrets={
                    each["name"]: each["valueFrom"]["secretKeyRef"]["name"]
                    for each in container["env"]
                    if "valueFrom" in each
                },
                account=spec["serviceAccountName"].split("@")[0],
                grace=10,
                health={
                    (probe["httpGet"]["port"], probe["httpGet"]["path"])
                    for key, probe in container.items()
                    if key.endswith("Probe")
                },
                reached=heard,
                most=int(notes.get("run.googleapis.com/manualInstanceCount", 4)),
                lasting=lasting,
                files=tuple(
                    volumes[each["name"]]["secret"]["secretName"]
                    for each in container.get("volumeMounts", [])
                    if "secret" in volumes[each["name"]]
                ),
            )


# -- Azure --------------------------------------------------------------------------------

_AZURE = {
    "hostName": "shop.example.com",
    "bucketHost": "store.example.com",
    "bucketName": "pictures",
    "registry": "flagon",
}


def evaluated(text):
    """The text of an expression that only puts texts together."""
    if not text.startswith("[concat("):
        return text
    words = re.findall(r"'([^']*)'|parameters\('(\w+)'\)", text)
    return "".join(word or _AZURE.get(name, name) for word, name in words)


def azure(documents):
    """Containers of apps and jobs."""
    for template in documents.values():
        for one in template["resources"]:
            if one["type"] in {"Microsoft.App/containerApps", "Microsoft.App/jobs"}:
                yield _azure(one)


def _azure(one):
    said, inside = one["properties"]["configuration"], one["properties"]["template"]
    container = inside["containers"][0]
    image = re.fullmatch(r"\[parameters\('(\w+)Image'\)\]", container["image"])
    hidden = {each["name"]: each["keyVaultUrl"] for each in said["secrets"]}
    named = {
        each["name"]: each["secretRef"]
        for each in container["env"]
        if "secretRef" in each
    }
    ingress = said.get("ingress")
    account = next(iter(one["identity"]["userAssignedIdentities"]))
    return Run(
        name=one["name"],
        image=f"{image[1] if image else ''} {DIGEST if image else container['image']}",
        command=[*container.get("command", []), *container.get("args", [])],
        settings={
            each["name"]: evaluated(each["value"])
            for each in container["env"]
            if "value" in each
        },
        secrets={name: hidden[key] for name, key in named.items()},
        account=re.search(r"'(flagon-[a-z-]+)'", account)[1],
        grace=inside.get("terminationGracePeriodSeconds", 30),
        health={
            (probe["httpGet"]["port"], probe["httpGet"]["path"])
            for probe in container.get("probes", [])
        },
        reached="" if not ingress else "world" if ingress["external"] else "inside",
        most=inside.get("scale", {}).get("maxReplicas", 1),
        lasting=one["type"].endswith("Apps"),
        files=tuple(
            hidden[each["secretRef"]]
            for volume in inside.get("volumes", [])
            for each in volume.get("secrets", [])
        ),
    )


READERS = {"aws": aws, "gcp": gcp, "azure": azure}


@cache
def text_of(name):
    """A file below deploy/, read once."""
    return (DEPLOY / name).read_text()


def loaded(text):
    """A document of YAML, by the loader in C."""
    return yaml.load(text, yaml.CSafeLoader)


def recipe(place):
    """A place's documents, fresh: who breaks them breaks nobody else's."""
    if place == "aws":
        names = ("platform.yaml", "services.yaml")
        documents = {name: loaded(text_of(f"aws/{name}")) for name in names}
    elif place == "azure":
        names = ("platform.json", "apps.json")
        documents = {name: json.loads(text_of(f"azure/{name}")) for name in names}
    else:
        paths = sorted((DEPLOY / "gcp" / "objects").glob("*.template"))
        objects = {
            path.name.split(".")[0]: loaded(
                fill(text_of(f"gcp/objects/{path.name}"), FILLED)
            )
            for path in paths
        }
        documents = {"objects": objects, "access": text_of("gcp/access.txt")}
    return Recipe(place, documents)
