"""What every manifest must keep to: each rule gives what breaks it, in words."""

import re
from functools import cache
from importlib import import_module
from pathlib import PurePosixPath

from pydantic import SecretStr

from .manifests import (
    WORKLOADS,
    annotations,
    component,
    containers,
    labels,
    name_of,
    pod,
    sidecars,
)
from .reach import selects

SERVICES = ("auth", "catalog", "realtime", "web", "worker")
LASTING = ("Deployment", "StatefulSet")
REPLICATED = {"redis-sentinel", "postgres-superuser", "postgres-ca", "postgres-backup"}
"""Of the components with data stores of several pods, some made by an operator."""
MONITORED = {"postgres-monitor", "redis-monitor"}
"""What exporters sign in with."""
SECRETS = {
    *("auth", "auth-owner", "auth-seed", "catalog", "catalog-owner", "realtime"),
    *("web", "worker", "worker-owner", "gateway-tls"),
    *("postgres", "redis-acl", "redis-admin"),
    *REPLICATED,
    *MONITORED,
}
"""Made by deploy/k8s/cluster.py, by an operator or by hand; never in a manifest."""

PLAIN = {"TMPDIR", "PGSSLMODE", "PGSSLROOTCERT"}
"""Variables that are no setting of ours: Python's and libpq's own."""


@cache
def settings_of(service):
    return import_module(f"flagon_{service}.settings").Settings


@cache
def confidential():
    """Names of all settings whose value is a secret."""
    return frozenset(
        f"{service}_{name}".upper()
        for service in SERVICES
        for name, field in settings_of(service).model_fields.items()
        if field.annotation in {SecretStr, SecretStr | None}
    )


def service_of(workload):
    return labels(workload).get("flagon.market/service")


def quantity(text):
    """Bytes or cores."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text)).groups()
    factors = {"": 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    return float(number) * factors[unit]


def scaled(manifests):
    """Deployments whose number is somebody else's to say, with the least of it."""
    return {
        one["spec"]["scaleTargetRef"]["name"]: one["spec"].get(
            "minReplicas", one["spec"].get("minReplicaCount", 0)
        )
        for one in manifests.of("HorizontalPodAutoscaler", "ScaledObject")
    }


def lasting(manifests):
    return manifests.of(*LASTING)


def port_of(container, wanted):
    for port in container.get("ports", []):
        if wanted in {port.get("name"), port["containerPort"]}:
            return port["containerPort"]
    return None


def probe(one, container, kind):
    """What is wrong with one probe."""
    found = container.get(f"{kind}Probe")
    if not found:
        yield "is missing"
    elif component(one) == "data":
        if "exec" not in found:
            yield "does not ask the program"
    elif component(one) == "exporter":
        if found.get("httpGet") != {"path": "/", "port": "metrics"}:
            yield "asks a data store"
    else:
        asked = found.get("httpGet", {})
        path = "/readyz" if kind == "readiness" else "/livez"
        gateway = component(one) == "gateway"
        path, port = ("/healthz", 8081) if gateway else (path, 8000)
        if asked.get("path") != path:
            yield f"asks {asked.get('path')}, not {path}"
        if port_of(container, asked.get("port")) != port:
            yield f"asks another port than {port}"


def probes(manifests):
    """Each process is asked the right question at the right port."""
    for one in lasting(manifests):
        for container in pod(one)["spec"]["containers"]:
            for kind in ("startup", "liveness", "readiness"):
                for wrong in probe(one, container, kind):
                    yield f"{name_of(one)}: {kind} probe {wrong}"
            startup = container.get("startupProbe", {})
            patience = startup.get("periodSeconds", 10)
            patience *= startup.get("failureThreshold", 3)
            if startup and patience < 60:
                yield f"{name_of(one)}: has only {patience} s to start"
        yield from (f"{name_of(one)}: {wrong}" for wrong in _beside(one))


def _beside(one):
    """What is wrong with the containers that start before the first one."""
    lasting_ones = sidecars(one)
    for container in pod(one)["spec"].get("initContainers", []):
        name = container["name"]
        if container not in lasting_ones:
            if "ports" in container:
                yield f"{name} listens, and is waited for to end"
            continue
        if "livenessProbe" not in container:
            yield f"nobody notices when {name} hangs"
        # The process itself would wait for it, and be taken for unready with it.
        if {"startupProbe", "readinessProbe"} & set(container):
            yield f"{name} keeps people out"


def resources(manifests):
    """Each container says what it needs and how much memory it may take at most."""
    for one in manifests.of(*WORKLOADS):
        for container in containers(one):
            where = f"{name_of(one)}: {container['name']}"
            asked = container.get("resources", {}).get("requests", {})
            most = container.get("resources", {}).get("limits", {})
            if not {"cpu", "memory"} <= set(asked) or "memory" not in most:
                yield f"{where} asks for no CPU or memory, or has no limit of memory"
                continue
            if "cpu" in most:
                yield f"{where} is throttled"
            if quantity(asked["memory"]) > quantity(most["memory"]):
                yield f"{where} asks for more memory than it may take"


def privileges(container):
    """What one container may do that it need not."""
    own = container.get("securityContext", {})
    if own.get("readOnlyRootFilesystem") is not True:
        yield "can write its root"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "can gain privileges"
    if own.get("capabilities") != {"drop": ["ALL"]}:
        yield "has capabilities"
    if own.get("privileged") or own.get("runAsUser") == 0:
        yield "is privileged"


def security(manifests):
    """What the standard "restricted" asks for, and a root that nobody can write."""
    for one in manifests.of(*WORKLOADS):
        spec = pod(one)["spec"]
        context = spec.get("securityContext", {})
        where = name_of(one)
        if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
            yield f"{where} may run as root"
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{where} has no seccomp profile"
        for name in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
            if spec.get(name):
                yield f"{where} has {name}"
        for volume in spec.get("volumes", []):
            if "hostPath" in volume:
                yield f"{where} mounts {volume['hostPath']} of the node"
        for container in containers(one):
            yield from (f"{where} {wrong}" for wrong in privileges(container))
    for one in manifests.of("Namespace"):
        level = "pod-security.kubernetes.io/enforce"
        if one["metadata"].get("labels", {}).get(level) != "restricted":
            yield "the namespace lets pods do more"


def tokens(manifests):
    """Each process has an account of its own, and nobody a token of the cluster."""
    accounts = {one["metadata"]["name"]: one for one in manifests.of("ServiceAccount")}
    for name, one in accounts.items():
        if one.get("automountServiceAccountToken") is not False:
            yield f"ServiceAccount {name} gives its token away"
    for one in manifests.of(*WORKLOADS):
        spec = pod(one)["spec"]
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name_of(one)} mounts a token"
        if spec.get("serviceAccountName") != one["metadata"]["name"]:
            yield f"{name_of(one)} has no account of its own"
        if spec.get("serviceAccountName") not in accounts:
            yield f"{name_of(one)}: its account does not exist"
        if spec.get("enableServiceLinks") is not False:
            yield f"{name_of(one)} gets variables that look like settings"


def spread(manifests):
    """The pods of a process are spread over nodes and zones."""
    for one in lasting(manifests):
        if component(one) in {"data", "exporter"}:
            continue
        found = {
            each["topologyKey"]
            for each in pod(one)["spec"].get("topologySpreadConstraints", [])
            if set(each["labelSelector"]["matchLabels"].items())
            <= set(labels(one).items())
            and "app.kubernetes.io/name" in each.get("matchLabelKeys", [])
        }
        if found != {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}:
            yield f"{name_of(one)} is not spread"


def disruption(manifests):
    """Of what there are several one may go, and a node can always be emptied."""
    least = scaled(manifests)
    for one in lasting(manifests):
        name = one["metadata"]["name"]
        budgets = [
            each
            for each in manifests.of("PodDisruptionBudget")
            if set(each["spec"]["selector"]["matchLabels"].items())
            <= set(labels(one).items())
        ]
        several = one["spec"].get("replicas", least.get(name, 1)) > 1
        if several and len(budgets) != 1:
            yield f"{name_of(one)} has {len(budgets)} budgets"
        for budget in budgets:
            if budget["spec"].get("maxUnavailable") != 1:
                yield f"{name_of(one)}: its budget is not one at a time"


def images(manifests):
    """Each image is a certain one."""
    for one in manifests.of(*WORKLOADS):
        for container in containers(one):
            image = container["image"]
            tag = image.rpartition("/")[2].partition(":")[2]
            if "@sha256:" not in image and tag in {"", "latest"}:
                yield f"{name_of(one)}: {image} may be any version"


def secrets(manifests):
    """No secret stands in a manifest, and each that is used is one of the list."""
    for one in manifests.of("Secret"):
        yield f"{name_of(one)} is in the manifests"
    for one in manifests.of("ConfigMap"):
        for name in confidential() & set(one["data"]):
            yield f"{name} is in {name_of(one)}"
    for one in manifests.of(*WORKLOADS):
        for container in containers(one):
            for variable in container.get("env", []):
                if variable["name"] in confidential():
                    yield f"{name_of(one)} has {variable['name']} as a variable"
        for name in used_secrets(one) - SECRETS:
            yield f"{name_of(one)} uses the unknown secret {name}"
    for one in manifests.objects:
        for text in strings(one):
            if re.search(r"\w://[^/\s:@$]*:[^/\s@$]+@", text) or "PRIVATE KEY" in text:
                yield f"{name_of(one)} holds a password or a key"


def strings(value):
    if isinstance(value, dict):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)
    elif isinstance(value, str):
        yield value


def used_secrets(workload):
    found = set()
    for volume in pod(workload)["spec"].get("volumes", []):
        sources = [volume, *volume.get("projected", {}).get("sources", [])]
        for source in sources:
            secret = source.get("secret", {})
            found |= {secret[key] for key in ("secretName", "name") if key in secret}
    for container in containers(workload):
        for source in container.get("envFrom", []):
            found |= {source["secretRef"]["name"]} if "secretRef" in source else set()
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            found |= (
                {source["secretKeyRef"]["name"]} if "secretKeyRef" in source else set()
            )
    return found


def owners(manifests):
    """The password of the role that owns the tables is for migrations alone."""
    for one in manifests.of(*WORKLOADS):
        migrates = one["metadata"]["name"].endswith("-migrate")
        for name in used_secrets(one):
            if name.endswith("-owner") and not migrates:
                yield f"{name_of(one)} could change tables"


def migrations(manifests):
    """Tables change once, in a Job; no process does it when it starts."""
    jobs = {one["metadata"]["name"] for one in manifests.of("Job")}
    for name in ("auth-migrate", "catalog-migrate", "worker-migrate"):
        if name not in jobs:
            yield f"{name} is missing"
    for one in manifests.of("Job"):
        if (
            pod(one)["spec"]["restartPolicy"] != "Never"
            or "backoffLimit" not in (one["spec"])
        ):
            yield f"{name_of(one)} may run for ever"
    for one in lasting(manifests):
        for container in containers(one):
            words = [*container.get("command", []), *container.get("args", [])]
            if any("migrate" in word or "upgrade" in word for word in words):
                yield f"{name_of(one)} migrates when it starts"


def drain(manifests):
    """Nobody is killed before the time that their settings give them is over."""
    for one in manifests.of("Deployment"):
        service, spec = service_of(one), pod(one)["spec"]
        # An exporter has nothing to end.
        if component(one) in {"data", "exporter"}:
            continue
        container = spec["containers"][0]
        pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {})
        pause = pause.get("seconds", 0)
        has = spec.get("terminationGracePeriodSeconds", 30)
        if component(one) in {"http", "gateway"} and pause < 5:
            yield f"{name_of(one)} stops while requests are still sent to it"
        if service:
            values = environment(manifests, one)
            needs = pause
            for name in ("grace", "drain"):
                default = settings_of(service).model_fields[f"{name}_seconds"].default
                key = f"{service}_{name}_seconds".upper()
                needs += float(values.get(key, default))
        else:
            # worker_shutdown_timeout of nginx.conf.template.
            text = manifests.settings("gateway-source")["nginx.conf.template"]
            found = re.search(r"^worker_shutdown_timeout (\d+)s;", text, re.MULTILINE)
            needs = pause + int(found[1])
        if has < needs + 4:
            yield f"{name_of(one)} is killed after {has} s and may need {needs} s"


def environment(manifests, workload):
    """The plain variables of a workload's first container."""
    maps = {one["metadata"]["name"]: one["data"] for one in manifests.of("ConfigMap")}
    container = first_container(workload)
    values = {}
    for source in container.get("envFrom", []):
        values |= maps.get(source["configMapRef"]["name"], {})
    return values | {
        one["name"]: one["value"] for one in container.get("env", []) if "value" in one
    }


def writable(manifests):
    """Where a process writes there is something to write on."""
    for one in lasting(manifests):
        if not service_of(one):
            continue
        container = pod(one)["spec"]["containers"][0]
        mounts = {
            PurePosixPath(mount["mountPath"])
            for mount in container.get("volumeMounts", [])
            if not mount.get("readOnly")
        }
        names = ["TMPDIR", "METRICS_DIR", "IMAGES_DIR", "SPOOL_DIR"]
        if needs_files(one):
            names.append("FILES_DIR")
        for name, value in environment(manifests, one).items():
            path = PurePosixPath(value)
            if not any(name.endswith(each) for each in names):
                continue
            # The relay of the catalog has its settings and writes no pictures.
            if name.endswith("IMAGES_DIR") and component(one) != "http":
                continue
            if not {path, *path.parents} & mounts:
                yield f"{name_of(one)} cannot write {name} ({value})"


def needs_files(workload):
    words = pod(workload)["spec"]["containers"][0]["args"]
    return words[0] in {"serve", "celery"}


def volumes(manifests, one):
    """What a workload mounts and nobody has."""
    maps = {each["metadata"]["name"] for each in manifests.of("ConfigMap")}
    claims = {
        each["metadata"]["name"] for each in manifests.of("PersistentVolumeClaim")
    }
    known = {
        each["metadata"]["name"] for each in one["spec"].get("volumeClaimTemplates", [])
    }
    for volume in pod(one)["spec"].get("volumes", []):
        known.add(volume["name"])
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim and claim not in claims:
            yield f"no claim {claim}"
        used = volume.get("configMap", {}).get("name")
        if used and used not in maps:
            yield f"no ConfigMap {used}"
    for container in containers(one):
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in known:
                yield f"no volume {mount['name']}"
        for source in container.get("envFrom", []):
            if source.get("configMapRef", {}).get("name") not in maps:
                yield "no such ConfigMap"


def chosen(manifests, selector):
    """The processes whose pods a selector means."""
    return [
        one
        for one in lasting(manifests)
        if set(selector.items()) <= set(labels(one).items())
    ]


def references(manifests):
    """Whatever is named exists, with the port that is named."""
    for one in manifests.of(*WORKLOADS):
        yield from (f"{name_of(one)}: {wrong}" for wrong in volumes(manifests, one))
        selector = one["spec"].get("selector", {}).get("matchLabels", {})
        if not set(selector.items()) <= set(labels(one).items()):
            yield f"{name_of(one)} does not select its own pods"
    for one in manifests.of("Service"):
        found = chosen(manifests, one["spec"]["selector"])
        if len(found) != 1:
            yield f"{name_of(one)} stands for {len(found)} processes"
        for each in found:
            for port in one["spec"]["ports"]:
                if not port_of(pod(each)["spec"]["containers"][0], port["targetPort"]):
                    yield f"{name_of(one)}: nobody listens at {port['targetPort']}"
    for one in manifests.of("PodDisruptionBudget"):
        if not chosen(manifests, one["spec"]["selector"]["matchLabels"]):
            yield f"{name_of(one)} is for nobody"


def scaling(manifests):
    """Who scales a process alone says how many there are, and never scales a single one."""
    targets = [
        one["spec"]["scaleTargetRef"]["name"]
        for one in manifests.of("HorizontalPodAutoscaler", "ScaledObject")
    ]
    deployments = {one["metadata"]["name"]: one for one in manifests.of("Deployment")}
    for name in targets:
        if name not in deployments:
            yield f"{name} is scaled and does not exist"
        elif "replicas" in deployments[name]["spec"]:
            yield f"{name} is scaled, and set back at each rollout"
        if targets.count(name) > 1:
            yield f"{name} is scaled twice"
        if name == "worker-beat" or name.endswith("-relay"):
            yield f"{name} must be a single one"
    yield from _rollouts(manifests, deployments)
    for name, one in deployments.items():
        alone = name == "worker-beat" or name.endswith("-relay")
        if alone and one["spec"].get("replicas") != 1:
            yield f"{name} is not a single one"
        recreate = one["spec"].get("strategy", {}).get("type") == "Recreate"
        if name == "worker-beat" and not recreate:
            yield "worker-beat may run twice during a rollout"


def _rollouts(manifests, deployments):
    judges = {one["metadata"]["name"] for one in manifests.of("AnalysisTemplate")}
    scalers = {
        one["spec"]["scaleTargetRef"]["name"]: one["spec"]["scaleTargetRef"].get("kind")
        for one in manifests.of("HorizontalPodAutoscaler", "ScaledObject")
    }
    for one in manifests.of("Rollout"):
        name = one["spec"]["workloadRef"]["name"]
        if name not in deployments:
            yield f"{name_of(one)} is of no Deployment"
            continue
        if "replicas" in deployments[name]["spec"]:
            yield f"{name} comes back beside its Rollout"
        if not set(one["spec"]["selector"]["matchLabels"].items()) <= set(
            labels(deployments[name]).items()
        ):
            yield f"{name_of(one)} does not select its own pods"
        if scalers.get(name, "Rollout") != "Rollout":
            yield f"{name} is scaled in vain: its Rollout has the pods"
        steps = one["spec"]["strategy"]["canary"]["steps"]
        asked = [step["analysis"] for step in steps if "analysis" in step]
        used = {each["templateName"] for step in asked for each in step["templates"]}
        if not used or used - judges:
            yield f"{name_of(one)} is judged by nobody"
        services = {
            each["value"]
            for step in asked
            for each in step["args"]
            if each["name"] == "service"
        }
        if services != {service_of(deployments[name])}:
            yield f"{name_of(one)} is judged by another service's requests"


def settings(manifests):
    """Each variable is one that the service knows, and each that it needs is given."""
    for one in manifests.of(*WORKLOADS):
        service = service_of(one)
        if not service:
            continue
        known = {
            f"{service}_{name}".upper() for name in settings_of(service).model_fields
        }
        for name in environment(manifests, one):
            if name not in known | PLAIN:
                yield f"{name_of(one)}: {service} knows no {name}"
        for name, field in settings_of(service).model_fields.items():
            full = f"{service}_{name}".upper()
            if (
                field.is_required()
                and full not in confidential()
                and full not in environment(manifests, one)
            ):
                yield f"{name_of(one)} is not given {full}"


def addresses(manifests):
    """Each address of a neighbour is a Service with that port."""
    ports = {
        (one["metadata"]["name"], port["port"])
        for one in manifests.of("Service")
        for port in one["spec"]["ports"]
    }
    for service in SERVICES:
        for name, value in manifests.settings(service).items():
            found = re.match(r"http://([a-z-]+):(\d+)", value)
            if not found or found[1] == "localhost":
                continue
            if (found[1], int(found[2])) not in ports:
                yield f"{name}: no Service at {value}"
    for service in SERVICES:
        host, port = manifests.settings("gateway")[f"GATEWAY_{service.upper()}"].split(
            ":"
        )
        if (host, int(port)) not in ports:
            yield f"GATEWAY_{service.upper()}: no such Service"


def replicated(manifests):
    """Of three copies one may be lost, with nothing that was acknowledged in Postgres."""
    for one in manifests.of("Cluster"):
        yield from (f"{name_of(one)} {wrong}" for wrong in _cluster(manifests, one))
    found = {one["metadata"]["name"]: one for one in manifests.of("StatefulSet")}
    for name in {"redis-nodes", "redis-sentinel"} & set(found):
        yield from (f"{name} {wrong}" for wrong in _quorum(manifests, found, name))


def _cluster(manifests, one):
    spec = one["spec"]
    sync = spec["postgresql"].get("synchronous", {})
    if spec["instances"] < 3 or sync.get("dataDurability") != "required":
        yield "may lose what it acknowledged"
    if spec.get("enablePDB") is not True:
        yield "may lose several at a time"
    if spec.get("affinity", {}).get("podAntiAffinityType") != "required":
        yield "may have all copies on one node"
    if "hostnossl all all all reject" not in spec["postgresql"].get("pg_hba", []):
        yield "takes passwords in the clear"
    if not re.search(r":[0-9]+\.[0-9]|@sha256:", spec.get("imageName", "")):
        yield "may be of any version"
    stores = {each["metadata"]["name"] for each in manifests.of("ObjectStore")}
    archivers = {
        each.get("parameters", {}).get("barmanObjectName")
        for each in spec.get("plugins", [])
        if each.get("isWALArchiver")
    }
    if len(archivers) != 1 or archivers - stores:
        yield "keeps its log nowhere else"
    if one["metadata"]["name"] not in {
        each["spec"]["cluster"]["name"] for each in manifests.of("ScheduledBackup")
    }:
        yield "is never copied"
    for process in manifests.of(*WORKLOADS):
        service = service_of(process) or process["metadata"]["name"]
        if service in {"auth", "catalog", "worker", "postgres-exporter"}:
            given = environment(manifests, process)
            mounts = {
                PurePosixPath(mount["mountPath"])
                for mount in pod(process)["spec"]["containers"][0]["volumeMounts"]
            }
            root = PurePosixPath(given.get("PGSSLROOTCERT", "/"))
            if given.get("PGSSLMODE") != "verify-full" or root.parent not in mounts:
                yield f"is not verified by {name_of(process)}"


def _quorum(manifests, found, name):
    spec = found[name]["spec"]
    addresses = environment(manifests, found["redis-nodes"])["SENTINELS"].split()
    if spec["replicas"] != 3:
        yield "are not three"
    if len(addresses) != spec["replicas"]:
        yield "are not all asked"
    for each in addresses:
        host, _, port = each.partition(":")
        if not re.fullmatch(r"redis-sentinel-[0-2]\.redis-sentinel", host):
            yield f"ask {host}, who does not exist"
        if not port_of(first_container(found["redis-sentinel"]), int(port)):
            yield f"ask at {port}, where nobody listens"
    required = (
        pod(found[name])["spec"]
        .get("affinity", {})
        .get("podAntiAffinity", {})
        .get("requiredDuringSchedulingIgnoredDuringExecution", [])
    )
    if [each["topologyKey"] for each in required] != ["kubernetes.io/hostname"]:
        yield "may be on one node, two at a time"
    if spec.get("podManagementPolicy") != "Parallel":
        yield "wait for one another for ever"
    if not spec.get("volumeClaimTemplates"):
        yield "forget who was the primary"
    if not [
        each
        for each in manifests.of("Service")
        if each["metadata"]["name"] == spec["serviceName"]
        and each["spec"].get("clusterIP") == "None"
        and each["spec"].get("publishNotReadyAddresses")
    ]:
        yield "have no names before they are ready"


MESHED = {
    "linkerd.io/inject": "enabled",
    "config.linkerd.io/default-inbound-policy": "deny",
    # Else a Job would never end, and a pod would start before its proxy.
    "config.beta.linkerd.io/proxy-enable-native-sidecar": "true",
}
_PROXY = "config.linkerd.io/proxy-"


def mesh(manifests):
    """Where there is a mesh, each pod is in it, and lets nobody in past its policies."""
    if not manifests.of("Server"):
        return
    for one in manifests.of(*WORKLOADS):
        said = annotations(one)
        for name, value in MESHED.items():
            if said.get(name) != value:
                yield f"{name_of(one)}: {name} is not {value}"
        asked, most = (
            said.get(f"{_PROXY}memory-{each}", "0") for each in ("request", "limit")
        )
        if f"{_PROXY}cpu-request" not in said or not (
            0 < quantity(asked) <= quantity(most)
        ):
            yield f"{name_of(one)}: its proxy may take what it likes"
        past = said.get("config.linkerd.io/skip-inbound-ports")
        # People are no part of the mesh, and nginx must see their addresses.
        public = "8080,8443" if component(one) == "gateway" else None
        if past != public:
            yield f"{name_of(one)} is reached past the mesh at {past}"
        if {"5432", "6379", "26379"} - set(
            said.get("config.linkerd.io/opaque-ports", "").split(",")
        ):
            yield f"{name_of(one)}: its proxy waits for requests of databases"
    for one in manifests.of("Cluster"):
        inherited = one["spec"].get("inheritedMetadata", {}).get("annotations", {})
        if inherited.get("linkerd.io/inject") != "disabled":
            yield f"{name_of(one)}: its own jobs do not end in the mesh"
    yield from _mesh_references(manifests)


def _mesh_references(manifests):
    accounts = {one["metadata"]["name"] for one in manifests.of("ServiceAccount")}
    stores = {"postgres", "redis-store", "redis-nodes", "redis-sentinel", "redis-cache"}
    stores |= {"postgres-exporter", "redis-exporter"}
    there = {
        kind: {one["metadata"]["name"] for one in manifests.of(kind)}
        for kind in ("Server", "MeshTLSAuthentication")
    }
    for one in manifests.of("AuthorizationPolicy"):
        asked = one["spec"]["requiredAuthenticationRefs"]
        for each in (one["spec"]["targetRef"], *asked):
            if each["name"] not in there[each["kind"]]:
                yield f"{name_of(one)}: there is no {each['kind']} {each['name']}"
    for one in manifests.of("MeshTLSAuthentication"):
        for each in one["spec"]["identityRefs"]:
            # Data stores and exporters come with components of their own.
            if "namespace" not in each and each["name"] not in accounts | stores:
                yield f"{name_of(one)}: there is no account {each['name']}"


def monitors(manifests):
    """Who is scraped listens, is named as in the other modes, and is there once."""
    for one in manifests.of("PodMonitor"):
        endpoints = one["spec"]["podMetricsEndpoints"]
        yield from (f"{name_of(one)}: {wrong}" for wrong in _heard(manifests, one))
        # The pods of CloudNativePG have no labels of ours, and its monitor its own job.
        if "cnpg.io/cluster" in one["spec"]["selector"].get("matchLabels", {}):
            continue
        for endpoint in endpoints:
            given = {each["targetLabel"] for each in endpoint["relabelings"]}
            if given != {"job", "process", "service", "instance"}:
                yield f"{name_of(one)} gives {sorted(given)}"
            asked = endpoint.get("params", {}).get("target", [])
            if ("redis" in one["metadata"]["name"]) != (len(asked) == 1):
                yield f"{name_of(one)} asks {asked}"
    for one in manifests.of("Deployment"):
        if component(one) == "exporter" and (
            one["spec"].get("replicas") != 1
            or one["spec"].get("strategy", {}).get("type") != "Recreate"
        ):
            yield f"{name_of(one)} may be there twice, as if there were copies"
    yield from _nodes_asked(manifests)


def _heard(manifests, monitor):
    """What is wrong with the pods that a monitor means."""
    selector = monitor["spec"]["selector"]
    found = [one for one in lasting(manifests) if selects(selector, labels(one))]
    if not found and "cnpg.io/cluster" not in selector.get("matchLabels", {}):
        yield "is for nobody"
    for one in found:
        named = {
            port["name"]
            for container in (first_container(one), *sidecars(one))
            for port in container.get("ports", [])
        }
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            if endpoint["port"] not in named:
                yield f"{name_of(one)} has no port {endpoint['port']}"


def _nodes_asked(manifests):
    """Which of several Redis nobody asks, where there is an exporter."""
    nodes = [
        f"redis://redis-nodes-{number}.{one['spec']['serviceName']}:6379"
        for one in manifests.of("StatefulSet")
        if one["metadata"]["name"] == "redis-nodes"
        for number in range(one["spec"]["replicas"])
    ]
    for one in manifests.of("PodMonitor"):
        asked = [
            target
            for endpoint in one["spec"]["podMetricsEndpoints"]
            for target in endpoint.get("params", {}).get("target", [])
        ]
        if not asked:
            continue
        if set(nodes) - set(asked) or len(asked) != max(len(nodes), 1) + 1:
            yield f"{name_of(one)} asks {asked}, and not {nodes}"
        if nodes and any("redis-store" in each for each in asked):
            yield f"{name_of(one)} asks the one that is gone"


def first_container(workload):
    return pod(workload)["spec"]["containers"][0]


WAYS_IN = {
    "Certificate": lambda spec: [spec["dnsNames"]],
    "Ingress": lambda spec: [
        *(one["hosts"] for one in spec["tls"]),
        *([one["host"]] for one in spec["rules"]),
    ],
    "Gateway": lambda spec: [[one["hostname"]] for one in spec["listeners"]],
    "HTTPRoute": lambda spec: [spec["hostnames"]],
    "BackendTLSPolicy": lambda spec: [[spec["validation"]["hostname"]]],
}
"""The lists of names that objects before the gateway have."""


def agreement(manifests):
    """Values that several processes must agree on are the same."""
    urls = {manifests.settings(one)[f"{one.upper()}_PUBLIC_URL"] for one in SERVICES}
    if len(urls) != 1:
        yield f"the platform has several names: {sorted(urls)}"
    host = re.match(r"https?://([^/:]+)", min(urls))[1]
    gateway = manifests.settings("gateway")
    if host not in gateway["GATEWAY_SERVER_NAMES"].split():
        yield f"the gateway does not serve {host}"
    web = manifests.settings("web")
    if gateway["GATEWAY_SESSION_COOKIE"] != web["WEB_SESSION_COOKIE"]:
        yield "the gateway looks for another session cookie"
    for one in manifests.of(*WAYS_IN):
        if any(names != [host] for names in WAYS_IN[one["kind"]](one["spec"])):
            yield f"{name_of(one)} is not for {host}"


RULES = {
    rule.__name__: rule
    for rule in (
        *(probes, resources, security, tokens, spread, disruption, images, secrets),
        *(owners, migrations, drain, writable, references, scaling, settings),
        *(addresses, agreement, replicated, mesh, monitors),
    )
}


def broken(manifests):
    """Everything that breaks any rule."""
    return [
        f"{name}: {found}" for name, rule in RULES.items() for found in rule(manifests)
    ]
