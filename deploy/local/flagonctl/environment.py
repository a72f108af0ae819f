"""The environment of every Python process, in one readable place.

Plain values and secrets are apart: local mode gives both as variables, containers get the
secrets as files of the same names in lower case.
"""

import os
from pathlib import Path

from .processes import NGINX, OWNERS, SERVICES, SINK, Process
from .stack import Stack
from .vault import (
    RABBITMQ_USERS,
    Vault,
    broker_url,
    database_url,
    event_bus_url,
    redis_url,
)

_CALLERS = ("worker",)
"""Services that call others with a token of their own (client credentials)."""


def plain(
    process: Process, stack: Stack, folder: Path, code: Path | None = None
) -> dict[str, str]:
    """Return the settings of a process that may be read by everybody.

    :param folder: of files that this process may write.
    :param code: another release's tree, where it runs that.
    """
    service = process.service
    common = {
        "ENVIRONMENT": "development",
        "LOG_LEVEL": "INFO",
        "RELEASE": code.name if code else stack.release,
        "BIND": stack.bind(process.name),
        "SERVER": stack.server,
        "PUBLIC_URL": stack.http_url,
        "JWKS_URL": f"http://{stack.address('auth')}/.well-known/jwks.json",
        "TOKEN_URL": f"http://{stack.address('auth')}/oauth/token",
        "METRICS_DIR": str(folder / "metrics" / process.name),
        "TRACES": "otlp" if stack.traced else "log",
        "OTLP_URL": f"http://{stack.address(SINK.name)}",
        "TRACE_RATIO": "1.0",
        # As Compose passes it on.
        "SENTRY_DSN": os.environ.get("FLAGON_SENTRY_DSN", ""),
        # The demonstration is loaded from one address; production keeps the default.
        "RATE_LIMIT": "60000 per minute",
    }
    own: dict[str, dict[str, str]] = {
        "auth": {
            "WORKERS": "1",
            "SESSION_COOKIE": f"flagon_login_{stack.port_base}",
            # Tests sign in often, all from one address.
            "LOGIN_ADDRESS_LIMIT": "1000",
            "REGISTER_LIMIT": "1000",
        },
        "catalog": {
            "WORKERS": "2",
            "IMAGES_DIR": str(folder / "images"),
            **({} if stack.gateway == NGINX else {"IMAGES_BY_GATEWAY": "false"}),
        },
        "realtime": {
            "WORKERS": "1",
            "CONNECTIONS_PER_ADDRESS": "10000",
            "AUTH_URL": f"http://{stack.address('auth')}",
        },
        "worker": {
            "WORKERS": "1",
            "CONCURRENCY": "1",
            "CLIENT_ID": "worker",
            # Who tries webhooks here has a receiver on this machine.
            "WEBHOOK_LOOPBACK": "true",
            "FILES_DIR": str(folder / "files"),
            "CATALOG_URL": f"http://{stack.address('catalog')}",
            "AUTH_URL": f"http://{stack.address('auth')}",
        },
        "web": {
            "WORKERS": "1",
            "CLIENT_ID": "web",
            "AUTH_URL": f"http://{stack.address('auth')}",
            "CATALOG_URL": f"http://{stack.address('catalog')}",
            "WORKER_URL": f"http://{stack.address('worker')}",
            "REALTIME_URL": f"http://{stack.address('realtime')}",
            "GATEWAY_URL": f"http://{stack.internal_address}",
            "PROMETHEUS_URL": f"http://{stack.address('prometheus')}",
            "TRACES_URL": f"http://{stack.address(SINK.name)}" if stack.traced else "",
            "SESSION_COOKIE": stack.session_cookie,
            "SPOOL_DIR": str(folder / "spool"),
        },
    }
    if service in OWNERS and stack.mail_queue != "celery":
        common["MAIL_QUEUE"] = stack.mail_queue
    return _prefixed(service, common | own[service])


def confidential(service: str, stack: Stack, vault: Vault) -> dict[str, str]:
    """Return the settings of a service that hold a secret."""
    values = {
        "SECRET_KEY": vault[f"{service}_secret_key"],
        "REDIS_STORE_URL": redis_url(stack, vault, service, "redis-store"),
        "REDIS_CACHE_URL": redis_url(stack, vault, service, "redis-cache"),
    }
    if service in OWNERS:
        values["DATABASE_URL"] = database_url(stack, vault, service, as_owner=False)
        values["BROKER_URL"] = broker_url(stack, vault, service)
    if service in RABBITMQ_USERS:
        values["EVENT_BUS_URL"] = event_bus_url(stack, vault, service)
    if service in {"web", *_CALLERS}:
        values["CLIENT_SECRET"] = vault[f"{service}_client_secret"]
    if service == "web":
        values["ALERTS_TOKEN"] = vault["web_alerts_token"]
    if service == "auth":
        values["KEY_ENCRYPTION_KEY"] = vault["auth_key_encryption_key"]
    return _prefixed(service, values)


def migration(service: str, stack: Stack, vault: Vault) -> dict[str, str]:
    """Return what `migrate` needs on top: the login that may change tables."""
    url = database_url(stack, vault, service, as_owner=True)
    return _prefixed(service, {"OWNER_DATABASE_URL": url})


def seeding(accounts: Path, clients: Path) -> dict[str, str]:
    """Return what auth's `seed` needs on top: who exists at first start."""
    return {"AUTH_ACCOUNTS_FILE": str(accounts), "AUTH_CLIENTS_FILE": str(clients)}


def write_secret_files(stack: Stack, vault: Vault) -> None:
    """Write every secret setting as a file of its own, as containers mount them."""
    for service in SERVICES:
        values = confidential(service, stack, vault)
        if service in OWNERS:
            values |= migration(service, stack, vault)
        for name, value in values.items():
            vault.put(name.lower(), value)


def _prefixed(service: str, values: dict[str, str]) -> dict[str, str]:
    return {f"{service.upper()}_{name}": value for name, value in values.items()}
