"""Google Cloud: Cloud Run with Cloud SQL and Memorystore, a file for each object.

Requests go to one service of six containers: Cloud Run routes by host name, and what it
puts between two services would hide from the second who asked the first. What the worker
pools call is there a second time, for callers of the network alone.
"""

from .platform import PORT, STREAM_SECONDS, Object, Part, behind, moved, yaml_text

INSIDE = ("auth", "catalog", "web")
"""What processes without a gateway call: tokens and mails, products, ended sessions."""
GRACE = 10
"""Seconds from SIGTERM to SIGKILL, here for everybody."""
_PORTS = {"auth": 8001, "catalog": 8002, "realtime": 8003, "worker": 8004, "web": 8005}
_NETWORK = "projects/${PROJECT}/global/networks/flagon"
_SUBNET = "projects/${PROJECT}/regions/${REGION}/subnetworks/flagon"


def files(found: tuple[Part, ...]) -> dict[str, str]:
    """Return the objects, and who may read which secret."""
    parts = {one.name: one for one in found}
    together = [one for one in found if one.kind in {"gateway", "http"}]
    made = {"flagon": _front(together)}
    for name in INSIDE:
        made[f"inside-{name}"] = _inside(parts[name])
    for one in found:
        if one.kind == "process":
            made[one.name] = _pool(one)
        if one.kind == "job":
            made[one.name] = _job(one)
    texts = {
        f"gcp/objects/{name}.yaml.template": yaml_text(one)
        for name, one in made.items()
    }
    return texts | {"gcp/access.txt": _access(found, together)}


def _account(part: Part) -> str:
    """Return whose rights a process has: those that read the owner's password are apart."""
    if part.kind in {"gateway", "http"}:
        return "flagon-front"
    return f"flagon-{part.name if part.kind == 'job' else part.service}"


def _access(found: tuple[Part, ...], together: list[Part]) -> str:
    """Return a line for each account and secret that it may read."""
    lines = {
        f"{_account(one)} {name.lower()}"
        for one in found
        for name in (*one.secrets, *map(_file_secret, one.files))
    }
    lines |= {
        f"flagon-inside-{one.name} {name.lower()}"
        for one in together
        if one.name in INSIDE
        for name in one.secrets
    }
    head = "# Made by `make places`: account, and a secret that it may read.\n"
    return head + "".join(f"{line}\n" for line in sorted(lines))


def _file_secret(name: str) -> str:
    return name.replace(".", "_")


def _url(name: str) -> str:
    """Return where others find a service; only callers of the network are answered."""
    return f"https://inside-{name}-${{PROJECT_NUMBER}}.${{REGION}}.run.app"


def _short(part: Part) -> dict[str, str]:
    """Return settings with which a process ends before it is killed."""
    if part.kind == "gateway":
        return {}
    return {"GRACE_SECONDS": "7", "DRAIN_SECONDS": "1"}


def _outside(part: Part) -> Part:
    return moved(part, _url, lambda name: f"127.0.0.1:{_PORTS[name]}", **_short(part))


def _container(part: Part, **more: object) -> Object:
    found: Object = {
        "name": part.name,
        "image": f"${{{(part.service or 'gateway').upper()}_IMAGE}}",
    }
    found |= part.start
    values = {
        key: value.replace("shop.example.com", "${HOST}")
        for key, value in part.settings.items()
    }
    if part.service == "catalog":
        values["CATALOG_IMAGES_URL"] = "https://storage.googleapis.com/${BUCKET}"
        values["CATALOG_IMAGES_REGION"] = "${REGION}"
    if part.kind == "gateway":
        values["GATEWAY_BUCKET"] = "storage.googleapis.com:443"
    if part.files:
        values["AUTH_CLIENTS_FILE"] = "/run/flagon/auth_clients.json"
    found["env"] = [
        {"name": key, "value": value} for key, value in sorted(values.items())
    ]
    found["env"] += [
        {
            "name": name,
            "valueFrom": {"secretKeyRef": {"name": name.lower(), "key": "latest"}},
        }
        for name in part.secrets
    ]
    # The second generation, which mounts NFS, wants 512 MiB; six containers want more.
    found["resources"] = {
        "limits": {"cpu": "1", "memory": f"{max(part.memory, 768)}Mi"}
    }
    mounts = [
        {"name": name, "mountPath": path} for name, path in part.folders.items()
    ] + [{"name": "clients", "mountPath": "/run/flagon"} for _ in part.files]
    if mounts:
        found["volumeMounts"] = mounts
    return found | more


def _probes(part: Part, port: int) -> Object:
    def asks(path: str) -> Object:
        return {"path": path, "port": port}

    return {
        "startupProbe": {
            # Requests come when all have started.
            "httpGet": asks(part.health),
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "failureThreshold": 60,
        },
        "livenessProbe": {
            "httpGet": asks(part.alive),
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
    }


def _volumes(parts: list[Part]) -> list[Object]:
    names = sorted({name for one in parts for name in one.folders})
    found: list[Object] = [
        {"name": name, "nfs": {"server": "${FILES}", "path": f"/flagon/{name}"}}
        for name in names
    ]
    for one in parts:
        for name in one.files:
            item = {"key": "latest", "path": name}
            secret = {"secretName": _file_secret(name), "items": [item]}
            found.append({"name": "clients", "secret": secret})
    return found


def _annotations(**more: str) -> Object:
    return {
        # The way to Postgres and Redis, and to services that answer the network alone.
        "run.googleapis.com/network-interfaces": (
            f'[{{"network":"{_NETWORK}","subnetwork":"{_SUBNET}"}}]'
        ),
        "run.googleapis.com/vpc-access-egress": "all-traffic",
        "run.googleapis.com/execution-environment": "gen2",
        **more,
    }


def _pod(parts: list[Part], containers: list[Object], account: str) -> Object:
    found: Object = {
        "serviceAccountName": f"{account}@${{PROJECT}}.iam.gserviceaccount.com",
        "containers": containers,
    }
    volumes = _volumes(parts)
    return found | ({"volumes": volumes} if volumes else {})


def _service(
    name: str, ingress: str, annotations: Object, spec: Object, least: int
) -> Object:
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "annotations": {
                "run.googleapis.com/ingress": ingress,
                # The platform asks for its own tokens, not for those of Google.
                "run.googleapis.com/invoker-iam-disabled": "true",
            },
        },
        "spec": {
            "template": {
                "metadata": {
                    "annotations": _annotations(
                        **{
                            "autoscaling.knative.dev/minScale": str(least),
                            "autoscaling.knative.dev/maxScale": "4",
                            # Streams and threads live between requests.
                            "run.googleapis.com/cpu-throttling": "false",
                        }
                        | annotations
                    )
                },
                "spec": spec,
            },
            "traffic": [{"percent": 100, "latestRevision": True}],
        },
    }


def _front(together: list[Part]) -> Object:
    containers, waits = [], {}
    for one in together:
        if one.kind == "gateway":
            # Every request comes through Google's own front, which says whose it is.
            part = moved(
                one,
                _url,
                lambda name: f"127.0.0.1:{_PORTS[name]}",
                **behind("0.0.0.0/0"),
            )
            ports: Object = {"ports": [{"name": "http1", "containerPort": 8080}]}
            containers.append(_container(part, **ports, **_probes(part, 8080)))
            waits[one.name] = sorted(_PORTS)
            continue
        port = _PORTS[one.service]
        more = {"BIND": f"0.0.0.0:{port}"} | _short(one)
        if one.service == "web":
            more["GATEWAY_URL"] = "http://127.0.0.1:8081"
        part = moved(one, lambda name: f"http://127.0.0.1:{_PORTS[name]}", _url, **more)
        containers.append(_container(part, **_probes(part, port)))
    order = (
        "{"
        + ",".join(
            f'"{name}":[{",".join(f"{chr(34)}{one}{chr(34)}" for one in others)}]'
            for name, others in waits.items()
        )
        + "}"
    )
    spec = _pod(together, containers, "flagon-front") | {
        # Streams count as requests for as long as they are open.
        "containerConcurrency": 1000,
        "timeoutSeconds": 3600,
    }
    annotations = {"run.googleapis.com/container-dependencies": order}
    return _service("flagon", "all", annotations, spec, least=1)


def _inside(part: Part) -> Object:
    own = _outside(part)
    ports: Object = {"ports": [{"name": "http1", "containerPort": PORT}]}
    container = _container(own, **ports, **_probes(own, PORT))
    spec = _pod([part], [container], f"flagon-inside-{part.name}")
    spec["timeoutSeconds"] = STREAM_SECONDS
    return _service(f"inside-{part.name}", "internal", {}, spec, least=1)


def _pool(part: Part) -> Object:
    own = _outside(part)
    # Only one works; a second one would wait for it, or, of the clock, count twice.
    copies = 1 if part.single else part.copies
    return {
        "apiVersion": "run.googleapis.com/v1",
        "kind": "WorkerPool",
        "metadata": {
            "name": part.name,
            "annotations": {
                "run.googleapis.com/scalingMode": "manual",
                "run.googleapis.com/manualInstanceCount": str(copies),
            },
        },
        "spec": {
            "template": {
                "metadata": {"annotations": _annotations()},
                "spec": _pod(
                    [part],
                    [_container(own, **_probes(own, PORT))],
                    _account(part),
                ),
            }
        },
    }


def _job(part: Part) -> Object:
    own = _outside(part)
    return {
        "apiVersion": "run.googleapis.com/v1",
        "kind": "Job",
        "metadata": {"name": part.name},
        "spec": {
            "template": {
                "metadata": {"annotations": _annotations()},
                "spec": {
                    "parallelism": 1,
                    "taskCount": 1,
                    "template": {
                        "spec": _pod([part], [_container(own)], _account(part))
                        | {"maxRetries": 3, "timeoutSeconds": "1800"}
                    },
                },
            }
        },
    }
