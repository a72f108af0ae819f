"""What watches a stack besides Prometheus: exporters and Alertmanager."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import programs
from .problem import Problem
from .processes import HAPROXY, HTTPS_OFFSET, NGINX, WATCHERS, Process
from .stack import Stack
from .templates import fill_file
from .vault import Vault

_PROGRAMS = {
    "alertmanager": "prometheus-alertmanager",
    "postgres-exporter": "prometheus-postgres-exporter",
    "redis-exporter": "prometheus-redis-exporter",
    "gateway-exporter": "prometheus-nginx-exporter",
    "probe-exporter": "prometheus-blackbox-exporter",
    "machine-exporter": "prometheus-node-exporter",
}
"""By process, Debian's program, which has the name of its package."""

_REDIS = ("redis-store", "redis-cache")


def check(watchers: Iterable[Process] = WATCHERS) -> None:
    """Refuse to begin without one of the programs.

    :param watchers: those that are wanted.
    :raises Problem: naming all that are missing.
    """
    missing = []
    for process in watchers:
        program = _PROGRAMS[process.name]
        try:
            programs.find(program)
        except Problem:
            missing.append(program)
    if missing:
        packages = " ".join(missing)
        message = f"WITH=observability needs what is not installed: {packages}."
        raise Problem(message, f"sudo sh deploy/local/packages.sh {packages}")


def command(stack: Stack, process: Process) -> list[str]:
    """Return how a watcher is started in local mode."""
    config = stack.config / "observability"
    arguments = {
        "alertmanager": (
            f"--config.file={config / 'alertmanager.yml'}",
            f"--storage.path={stack.state / 'alertmanager'}",
            # It is the only one: no port for others of its kind.
            "--cluster.listen-address=",
        ),
        "redis-exporter": (
            f"--redis.password-file={stack.secrets / 'redis_monitor_passwords.json'}",
            # Which server is asked for stands in the question.
            "--redis.addr=",
            "--redis.user=monitor",
            "--set-client-name=false",
            # Before Prometheus gives up: who does not answer is down, and not unknown.
            "--connection-timeout=2s",
        ),
        "gateway-exporter": (
            f"--nginx.scrape-uri=http://{stack.internal_address}/stub_status",
        ),
        "probe-exporter": (f"--config.file={config / 'blackbox.yml'}",),
        "machine-exporter": (
            "--collector.disable-defaults",
            *(f"--collector.{one}" for one in ("cpu", "filesystem", "meminfo")),
        ),
    }
    return [
        str(programs.find(_PROGRAMS[process.name])),
        *arguments.get(process.name, ()),
        f"--web.listen-address=127.0.0.1:{stack.port(process.name)}",
    ]


def variables(stack: Stack, process: Process) -> dict[str, str]:
    """Return what a watcher reads from its environment; no secret, but where one lies."""
    if process.name != "postgres-exporter":
        return {}
    return {
        "DATA_SOURCE_URI": f"{stack.address('postgres')}/postgres?sslmode=disable",
        "DATA_SOURCE_USER": "monitor",
        "DATA_SOURCE_PASS_FILE": str(stack.secrets / "monitor_postgres_password"),
    }


def secrets(stack: Stack, vault: Vault) -> None:
    """Write the passwords of both Redis as their exporter reads them."""
    text = redis_passwords(vault, (stack.address(name) for name in _REDIS))
    vault.put("redis_monitor_passwords.json", text)


def redis_passwords(vault: Vault, addresses: Iterable[str]) -> str:
    """Return what the exporter of Redis signs in with, by address."""
    # Older exporters look for the address alone, newer ones for it with the user.
    passwords = {
        f"redis://{user}{address}": vault["redis_monitor_password"]
        for address in addresses
        for user in ("", "monitor@")
    }
    return json.dumps(passwords) + "\n"


def targets(stack: Stack, *, watched: bool) -> dict[str, str]:
    """Return the files in which Prometheus finds the watchers; empty lists without."""
    found: dict[str, list[dict[str, Any]]] = {
        "alertmanagers.json": [{"targets": [stack.address("alertmanager")]}],
        "exporters.json": [
            _target(stack, "postgres-exporter", "postgres"),
            *_gateway(stack),
            _target(stack, "machine-exporter", "machine"),
            _target(stack, "alertmanager", "alertmanager"),
            *(
                _target(
                    stack,
                    "redis-exporter",
                    name,
                    __metrics_path__="/scrape",
                    __param_target=f"redis://{stack.address(name)}",
                )
                for name in _REDIS
            ),
        ],
        "probes.json": [
            _target(
                stack,
                "probe-exporter",
                "gateway",
                __param_module="https",
                __param_target=f"https://{_front_door(stack)}/docs/",
            )
        ],
    }
    return {
        name: json.dumps(targets if watched else [], indent=2) + "\n"
        for name, targets in found.items()
    }


def _target(stack: Stack, exporter: str, watches: str, **labels: str) -> dict[str, Any]:
    """Return a target named after what it tells of."""
    return {
        "targets": [stack.address(exporter)],
        "labels": {"process": watches, "service": watches, **labels},
    }


def _gateway(stack: Stack) -> list[dict[str, Any]]:
    """Return who tells of the gateway: nobody of Apache."""
    target = _target(stack, "gateway-exporter", "gateway")
    if stack.gateway == HAPROXY:
        target["targets"] = [stack.internal_address]
    return [target] if stack.gateway in {NGINX, HAPROXY} else []


def _front_door(stack: Stack) -> str:
    if stack.mode == "docker":
        return "gateway:8443"
    return f"127.0.0.1:{stack.port_base + HTTPS_OFFSET}"


def files(stack: Stack) -> dict[str, str]:
    """Return the configuration of Alertmanager and of the probe."""
    source = stack.root / "deploy" / "observability"
    authority = "/etc/blackbox/ca.pem"
    if stack.mode == "local":
        authority = str(stack.tls / "ca.pem")
    return {
        "alertmanager.yml": alertmanager(
            stack, os.environ.get("FLAGON_ALERT_WEBHOOK", "")
        ),
        "ca.pem": (stack.tls / "ca.pem").read_text(),
        "blackbox.yml": fill_file(
            source / "blackbox.yml.template", {"TLS_CA": authority}
        ),
    }


def alertmanager(
    stack: Stack,
    webhook: str,
    *,
    group_wait: str = "10s",
    group_interval: str = "1m",
) -> str:
    """Return Alertmanager's configuration.

    :param webhook: URL that is told of alerts beside web; empty: nobody else is.
    """
    token = stack.secrets / "web_alerts_token"
    if stack.mode == "docker":
        token = Path("/run/secrets") / token.name
    told: list[dict[str, Any]] = [
        {
            "url": f"http://{stack.address('web')}/internal/alerts",
            # Its body is limited, and nobody reads more.
            "max_alerts": 50,
            "http_config": {"authorization": {"credentials_file": str(token)}},
        }
    ]
    if webhook:
        told.append({"url": webhook})
    receiver = f"    webhook_configs: {json.dumps(told)}"
    return fill_file(
        stack.root / "deploy" / "observability" / "alertmanager.yml.template",
        {
            "PAGER": receiver,
            "TICKETS": receiver,
            "GROUP_WAIT": group_wait,
            "GROUP_INTERVAL": group_interval,
        },
    )
