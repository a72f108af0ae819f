"""A single machine: what its Compose file says otherwise than docker-compose.yml."""

from .platform import Object, Part, yaml_text

_HOST = "${FLAGON_HOST:?the name that people type}"
_OWN = "${FLAGON_STATE}/vm"
# docker-compose.yml widens these for a demonstration that comes from one address.
_NARROW = {
    "auth": {"AUTH_LOGIN_ADDRESS_LIMIT": "100", "AUTH_REGISTER_LIMIT": "30"},
    "realtime": {"REALTIME_CONNECTIONS_PER_ADDRESS": "500"},
}


def files(found: tuple[Part, ...]) -> dict[str, str]:
    """Return the override, with the settings of production for every process."""
    services: Object = {one.name: _service(one) for one in found}
    services["door"] = _door()
    return {"vm/compose.yml": yaml_text({"services": services})}


def _service(part: Part) -> Object:
    prefix = (part.service or "gateway").upper()
    values = {
        # Compose has names of its own with a dollar, and nginx too.
        key: value.replace("$", "$$").replace("shop.example.com", _HOST)
        for key, value in part.settings.items()
        # One machine has one disk: pictures stay in the volume of docker-compose.yml.
        if not key.startswith(("CATALOG_IMAGES_", "WEB_PROMETHEUS_"))
    }
    found: Object = {
        "image": f"${{FLAGON_{prefix}_IMAGE:-{part.image}:local}}",
        "stop_grace_period": f"{part.grace}s",
        "environment": values,
    }
    if part.kind == "gateway":
        values |= {
            "GATEWAY_BUCKET": "127.0.0.1:1",
            "GATEWAY_BUCKET_SCHEME": "http",
            "GATEWAY_BUCKET_TLS": "",
        }
        return found | {
            "build": {
                "context": ".",
                "dockerfile": "deploy/k8s/images/gateway.Dockerfile",
                "additional_contexts": {"pages": "${FLAGON_STATE}/config/pages"},
            },
            "entrypoint": ["sh", "/etc/flagon/gateway.sh"],
            "command": ["/etc/flagon/source", "/tmp/flagon", "/etc/flagon/render.sh"],  # noqa: S108 (a container's own)
            "ports": ["443:8443"],
            "volumes": [_read(f"{_OWN}/tls", "/etc/nginx/tls")],
        }
    values[f"{prefix}_RATE_LIMIT"] = "1200 per minute"
    values |= _NARROW.get(part.service, {})
    if part.files:
        # With the name that people type; up.sh writes them.
        values["AUTH_CLIENTS_FILE"] = "/run/flagon/clients.json"
        found["volumes"] = [_read(f"{_OWN}/clients.json", "/run/flagon/clients.json")]
    return found


def _read(source: str, target: str) -> Object:
    return {"type": "bind", "source": source, "target": target, "read_only": True}


def _door() -> Object:
    """Return who answers in clear: Let's Encrypt, and everybody else with the way to TLS."""
    return {
        "image": "${FLAGON_DOOR_IMAGE:-nginx:1.26}",
        "user": "101:101",
        "restart": "unless-stopped",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "tmpfs": ["/tmp:size=4m,mode=1777,nosuid,nodev,noexec"],  # noqa: S108 (as above)
        "mem_limit": "32m",
        "pids_limit": 16,
        "command": [
            *("nginx", "-e", "stderr", "-c", "/etc/flagon/door.conf"),
            *("-g", "daemon off;"),
        ],
        "ports": ["80:8080"],
        "networks": ["public"],
        "volumes": [
            _read("./deploy/vm/door.conf", "/etc/flagon/door.conf"),
            _read(f"{_OWN}/challenges", "/srv/challenges"),
        ],
    }
