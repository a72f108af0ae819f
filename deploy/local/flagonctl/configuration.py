"""Renders every configuration file of a stack from the sources in the repository."""

import json
import re
import resource
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from . import apache, authority, environment, haproxy, vault, watching
from .files import write
from .problem import Problem
from .processes import (
    APACHE,
    BY_NAME,
    HAPROXY,
    HTTPS_OFFSET,
    INTERNAL_OFFSET,
    NGINX,
    RABBITMQ,
    SINK,
)
from .programs import nginx_version, rabbitmq_version
from .stack import Stack
from .templates import fill_file
from .vault import Vault

_SERVICES = ("auth", "catalog", "realtime", "worker", "web")


def prepare(
    stack: Stack, *, watched: bool = False, traced: bool | None = None
) -> Vault:
    """Make what a stack needs before its first process starts; safe to repeat.

    Secrets, accounts and certificates stay as they are once made; all else is rendered
    anew, so that a changed source counts at the next start.

    :param watched: whether exporters and Alertmanager run as well.
    :param traced: whether spans go to the sink; as before by default.
    """
    if traced is not None:
        _note_traced(stack, traced=traced)
    containers = stack.mode == "docker"
    # Containers read mounted files as another user than the one who made them. The folder
    # keeps others on this machine out; a mount does not pass through it.
    mode = 0o444 if containers else 0o600
    stack.state.mkdir(parents=True, exist_ok=True)
    stack.state.chmod(0o700)
    keeper = Vault(stack.secrets, mode)
    keeper.fill()
    authority.ensure(stack.tls, mode)
    vault.accounts(stack.secrets / "auth_accounts.json", mode)
    write(
        stack.secrets / "auth_clients.json",
        json.dumps(vault.clients(stack, keeper), indent=2) + "\n",
        mode,
    )
    redis_files(stack, keeper, mode)
    rabbitmq_files(stack, keeper, mode)
    public = 0o444 if containers else 0o600
    watching.secrets(stack, keeper)
    prometheus_files(stack, public, watched=watched)
    _write_folder(stack.config / "observability", watching.files(stack), public)
    gateway_files(
        stack.config / "gateway",
        docker_gateway(stack) if containers else local_gateway(stack),
        stack.root,
        public,
        program=stack.gateway,
        inside=Path("/etc/flagon") if containers else None,
    )
    page_files(stack.config / "pages", stack.root, public)
    if containers:
        environment.write_secret_files(stack, keeper)
        write(stack.state / "compose.env", compose_env(stack, watched=watched))
        for folder in stack.config.rglob("*/"):
            folder.chmod(0o755)
        stack.config.chmod(0o755)
    return keeper


def _note_traced(stack: Stack, *, traced: bool) -> None:
    stack.config.mkdir(parents=True, exist_ok=True)
    note = stack.config / "traced"
    if traced:
        note.touch()
    else:
        note.unlink(missing_ok=True)


def redis_files(stack: Stack, keeper: Vault, mode: int) -> None:
    """Write the ACL files of both Redis instances."""
    variables = vault.redis_variables(stack, keeper)
    for name in ("store", "cache"):
        template = stack.root / "deploy" / "redis" / f"{name}.acl.template"
        write(stack.config / f"redis-{name}.acl", fill_file(template, variables), mode)


def rabbitmq_files(stack: Stack, keeper: Vault, mode: int) -> None:
    """Write what RabbitMQ reads at its start, where there is one."""
    if not stack.has_rabbitmq:
        return
    source = stack.root / "deploy" / "rabbitmq"
    folder = stack.config / "rabbitmq"
    inside = Path("/etc/flagon") if stack.mode == "docker" else folder
    port = stack.port(RABBITMQ.name)
    listen = str(port) if stack.mode == "docker" else f"127.0.0.1:{port}"
    # Celery limits by channel what a worker takes; newer servers want to be told that this
    # is meant, older ones do not know the word.
    asked = stack.mode == "docker" or rabbitmq_version() >= _ASKS_FOR_PERMITS
    variables = {
        "RABBITMQ_LISTEN": listen,
        "RABBITMQ_DEFINITIONS": str(inside / "definitions.json"),
        "RABBITMQ_PERMITS": "deprecated_features.permit.global_qos = true"
        if asked
        else "",
    }
    files = {
        "rabbitmq.conf": fill_file(source / "rabbitmq.conf.template", variables),
        "definitions.json": fill_file(
            source / "definitions.json.template", vault.rabbitmq_variables(keeper)
        ),
    }
    _write_folder(folder, files, mode)


_ASKS_FOR_PERMITS = (3, 13)


def prometheus_files(stack: Stack, mode: int, *, watched: bool) -> None:
    """Write Prometheus' configuration: the one source plus this mode's addresses."""
    source = stack.root / "deploy" / "observability"
    targets = [
        {
            "targets": [stack.address(process.name)],
            "labels": {"process": process.name, "service": process.service},
        }
        for process in (*stack.processes, *((SINK,) if stack.traced else ()))
        if process.kind in {"python", SINK.kind}
    ]
    itself = {
        "targets": [f"localhost:{stack.port('prometheus')}"],
        "labels": {"process": "prometheus", "service": "prometheus"},
    }
    files = {
        "prometheus.yml": (source / "prometheus.yml").read_text(),
        "targets.json": json.dumps([*targets, itself], indent=2) + "\n",
        **watching.targets(stack, watched=watched),
    }
    for rules in (source / "rules").glob("*.yml"):
        files[f"rules/{rules.name}"] = rules.read_text()
    _write_folder(stack.config / "prometheus", files, mode)


def gateway_files(
    target: Path,
    variables: dict[str, str],
    root: Path,
    mode: int = 0o600,
    *,
    program: str = NGINX,
    inside: Path | None = None,
) -> None:
    """Write the gateway's configuration from the one source in `gateway/`.

    :param inside: where the program finds it, if elsewhere.
    """
    if program != NGINX:
        make = {HAPROXY: haproxy.files, APACHE: apache.files}[program]
        _write_folder(target, make(root, inside or target, variables), mode)
        return
    files = {}
    for source in (root / "gateway").iterdir():
        if source.suffix == ".sh":
            files[source.name] = source.read_text()
        elif source.suffix in {".template", ".conf"}:
            name = source.name.removesuffix(".template")
            files[name] = fill_file(source, variables)
    _write_folder(target, files, mode)


def page_files(target: Path, root: Path, mode: int = 0o600) -> None:
    """Write the pages that show the API's document, with what others wrote for them.

    Swagger UI and ReDoc come from packages of the lock, with its hashes: no machine needs
    Node, and no browser asks anybody but the gateway.
    """
    files: dict[str, bytes] = {}
    for source in (root / "gateway" / "pages").iterdir():
        folder = "" if source.suffix == ".html" else "assets/"
        files[f"{folder}{source.name}"] = source.read_bytes()
    for package, folder, names in _WRITTEN_BY_OTHERS:
        found = find_spec(package)
        if not found or not found.submodule_search_locations:
            raise Problem(f"The package {package} is not installed.", "make setup")
        place = Path(found.submodule_search_locations[0]) / folder
        for name in names:
            files[f"assets/{name}"] = (place / name).read_bytes()
    # Its sign would come from a server of others, who would learn of every reader.
    files["assets/redoc.standalone.js"] = re.sub(
        rb"https://cdn\.redoc\.ly/redoc/logo-mini(-full)?\.svg",
        b"/docs/assets/redoc.svg",
        files["assets/redoc.standalone.js"],
    )
    _write_folder(target, files, mode)


_WRITTEN_BY_OTHERS = (
    (
        "flask_swagger_ui",
        "dist",
        ("LICENSE", "oauth2-redirect.js", "swagger-ui-bundle.js", "swagger-ui.css"),
    ),
    # Its licence stands in the file.
    ("flask_openapi_redoc", "templates/redoc/js", ("redoc.standalone.js",)),
    ("flask_openapi_redoc", "templates/redoc/images", ("redoc.svg",)),
)


def _write_folder(folder: Path, files: Mapping[str, str | bytes], mode: int) -> None:
    """Make a folder hold just these files.

    The folder itself stays: made anew, it would be empty in a container that mounts it.
    """
    for path in folder.rglob("*"):
        if path.is_file() and str(path.relative_to(folder)) not in files:
            path.unlink()
    for name, text in files.items():
        write(folder / name, text, mode)


def _gateway_limits() -> dict[str, str]:
    """Return limits for development, where every client has the address of this machine.

    The production values stand in gateway/README.md.
    """
    return {
        "GATEWAY_BODY_LIMIT": "1m",
        "GATEWAY_UPLOAD_LIMIT": "256m",
        "GATEWAY_IMAGE_LIMIT": "9m",
        "GATEWAY_API_RATE": "20000r/s",
        "GATEWAY_API_BURST": "4000",
        "GATEWAY_SIGN_IN_RATE": "20r/s",
        "GATEWAY_SIGN_IN_BURST": "100",
        "GATEWAY_TOKEN_RATE": "2000r/s",
        "GATEWAY_TOKEN_BURST": "1000",
        "GATEWAY_STREAMS_PER_ADDRESS": "10000",
        "GATEWAY_MICRO_CACHE": "1s",
        "GATEWAY_HSTS": "",
        # Pictures lie in a folder: a closed port.
        "GATEWAY_BUCKET": "127.0.0.1:1",
        "GATEWAY_BUCKET_SCHEME": "http",
        "GATEWAY_BUCKET_TLS": "",
        "GATEWAY_ACCESS_LOG": "/dev/stdout",
        # Nothing is before the gateway: it sees clients and schemes itself.
        "GATEWAY_SCHEME": "$scheme",
        "GATEWAY_EDGE": "",
    }


def local_gateway(stack: Stack) -> dict[str, str]:
    """Return the gateway's variables in local mode."""
    base = stack.port_base
    # Since 1.25.1 HTTP/2 is a directive, before it was a word of `listen`.
    directive = stack.gateway == NGINX and nginx_version() >= (1, 26)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = min(hard, 65_536) if hard > 0 else 65_536
    temporary = stack.state / "gateway"
    return (
        _gateway_limits()
        | {
            "GATEWAY_WORKERS": "1",
            "GATEWAY_OPEN_FILES": str(files),
            "GATEWAY_CONNECTIONS": str(min(files - 100, 8192)),
            "GATEWAY_PID": str(temporary / "nginx.pid"),
            "GATEWAY_TEMP": str(temporary),
            "GATEWAY_UPSTREAMS": "upstreams.conf",
            "GATEWAY_HTTP_LISTEN": f"127.0.0.1:{base}",
            "GATEWAY_HTTPS_LISTEN": f"127.0.0.1:{base + HTTPS_OFFSET} ssl"
            + ("" if directive else " http2"),
            "GATEWAY_HTTP2": "http2 on;" if directive else "",
            "GATEWAY_INTERNAL_LISTEN": f"127.0.0.1:{base + INTERNAL_OFFSET}",
            "GATEWAY_SERVER_NAMES": "localhost 127.0.0.1 [::1]",
            "GATEWAY_TLS_CERTIFICATE": str(stack.tls / "server.pem"),
            "GATEWAY_TLS_KEY": str(stack.tls / "server.key"),
            "GATEWAY_STATIC": str(
                stack.root / "services" / "web" / "src" / "flagon_web" / "static"
            ),
            "GATEWAY_DOCS": str(stack.root / "docs"),
            "GATEWAY_IMAGES": str(stack.state / "images"),
            "GATEWAY_PAGES": str(stack.config / "pages"),
            "GATEWAY_SESSION_COOKIE": stack.session_cookie,
            "GATEWAY_ACCESS_LOG": _access_logs(stack),
        }
        | {f"GATEWAY_{name.upper()}": stack.address(name) for name in _SERVICES}
    )


def _access_logs(stack: Stack) -> str:
    """Return where access lines go: a name alone, or what one directive grows into."""
    if not stack.traced:
        return "/dev/stdout"
    # Datagrams: a sink that is away costs the gateway nothing.
    sink = f"syslog:server={stack.address(SINK.name)},nohostname,tag=gateway"
    return f"/dev/stdout json; access_log {sink}"


def docker_gateway(stack: Stack) -> dict[str, str]:
    """Return the gateway's variables in a container, where resolve.sh starts it."""
    tls = Path("/etc/nginx/tls") if stack.gateway == NGINX else stack.tls
    return (
        _gateway_limits()
        | {
            "GATEWAY_WORKERS": "2",
            "GATEWAY_OPEN_FILES": "20000",
            "GATEWAY_CONNECTIONS": "8192",
            "GATEWAY_PID": "/tmp/nginx.pid",  # noqa: S108 (a tmpfs of the container)
            "GATEWAY_TEMP": "/var/cache/nginx" if stack.gateway == NGINX else "/tmp",  # noqa: S108 (of its container alone)
            "GATEWAY_UPSTREAMS": "/tmp/upstreams.conf",  # noqa: S108 (of its container alone)
            "GATEWAY_HTTP_LISTEN": "8080",
            "GATEWAY_HTTPS_LISTEN": "8443 ssl",
            "GATEWAY_HTTP2": "http2 on;",
            "GATEWAY_INTERNAL_LISTEN": "8081",
            "GATEWAY_SERVER_NAMES": "localhost 127.0.0.1 [::1] gateway",
            "GATEWAY_TLS_CERTIFICATE": str(tls / "server.pem"),
            "GATEWAY_TLS_KEY": str(tls / "server.key"),
            "GATEWAY_STATIC": "/usr/share/flagon/static",
            "GATEWAY_DOCS": "/usr/share/flagon/docs",
            "GATEWAY_IMAGES": "/usr/share/flagon/images",
            "GATEWAY_PAGES": "/usr/share/flagon/pages",
            "GATEWAY_SESSION_COOKIE": stack.session_cookie,
        }
        | {f"GATEWAY_{name.upper()}": stack.address(name) for name in _SERVICES}
    )


def container_logs() -> str:
    """Return the folder where the engine keeps what containers say."""
    done = subprocess.run(
        ["docker", "info", "--format", "{{.DockerRootDir}}"],
        check=False,
        capture_output=True,
        text=True,
    )
    return f"{done.stdout.strip() or '/var/lib/docker'}/containers"


def compose_env(stack: Stack, *, watched: bool = False) -> str:
    """Return the variables that docker-compose.yml reads."""
    base = stack.port_base
    files = ["docker-compose.yml"]
    if stack.gateway != NGINX:
        files.append(f"gateway/{stack.gateway}/compose.yml")
    values = {
        "COMPOSE_FILE": ":".join(files),
        "COMPOSE_PROJECT_NAME": f"flagon-{base}",
        "PORT_BASE": str(base),
        "HTTPS_PORT": str(base + HTTPS_OFFSET),
        "PROMETHEUS_PORT": str(base + BY_NAME["prometheus"].offset),
        "GRAFANA_PORT": str(base + 19),
        "ALERTMANAGER_PORT": str(base + BY_NAME["alertmanager"].offset),
        "TRACES_PORT": str(base + SINK.offset),
        "COMPOSE_PROFILES": ",".join(
            name
            for name, wanted in (
                ("observability", watched),
                ("traces", stack.traced),
                (RABBITMQ.name, stack.has_rabbitmq),
                ("rq", stack.mail_queue == "rq"),
            )
            if wanted
        ),
        "FLAGON_TRACES": "otlp" if stack.traced else "log",
        "FLAGON_RELEASE": stack.release,
        "FLAGON_SERVER": stack.server,
        "FLAGON_MAIL_QUEUE": stack.mail_queue,
        "FLAGON_STATE": str(stack.state),
        "SESSION_COOKIE": stack.session_cookie,
    }
    if watched:
        values["FLAGON_CONTAINER_LOGS"] = container_logs()
    return "".join(f"{name}={value}\n" for name, value in values.items())
