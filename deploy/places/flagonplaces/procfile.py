"""Procfile: every process a line, for runners and platforms that keep all on one machine."""

import json
import re

from flagonctl.processes import BY_NAME, INTERNAL_OFFSET

from .platform import HEADER, SERVICES, Part, behind, moved

_STATE = "${FLAGON_STATE:-/tmp/flagon}"
_FROM_OUTSIDE = re.compile(r"\$(?=\w)")


def files(found: tuple[Part, ...]) -> dict[str, str]:
    """Return the Procfile and the settings that its processes share."""
    lasting = [one for one in found if one.kind != "job"]
    jobs = [one for one in found if one.kind == "job"]
    lines = ["release: sh deploy/procfile/run.sh release"]
    lines += [
        f"{_type(one)}: sh deploy/procfile/run.sh {_words(one)}" for one in lasting
    ]
    return {
        "procfile/Procfile": "\n".join(lines) + "\n",
        "procfile/settings.sh": _settings(lasting, jobs),
        "procfile/app.json": _app(lines, found),
    }


def _app(lines: list[str], found: tuple[Part, ...]) -> str:
    """Return what platforms with an `app.json` ask people for."""
    secrets = sorted({name for one in found for name in one.secrets})
    # These are no secrets, and nobody else knows them.
    names = ["FLAGON_HOST", "AUTH_CLIENTS", "CATALOG_IMAGES_URL", *secrets]
    kinds = [line.partition(":")[0] for line in lines]
    app = {
        "name": "Flagon",
        "description": "A shop of several services, all on one machine",
        "env": {name: {"required": True} for name in names},
        "formation": {kind: {"quantity": 1} for kind in kinds if kind != "release"},
    }
    return json.dumps(app, indent=2) + "\n"


def _type(part: Part) -> str:
    """Return the word before the colon: what is called `web` gets requests and PORT."""
    if part.kind == "gateway":
        return "web"
    return "pages" if part.name == "web" else part.name


def _words(part: Part) -> str:
    if part.kind == "gateway":
        return "gateway"
    offset = BY_NAME[part.name].offset
    return " ".join((str(offset), part.service, *part.arguments))


def _plus(offset: int) -> str:
    return f"$((FLAGON_PORT_BASE + {offset}))"


def _port(name: str) -> str:
    return _plus(BY_NAME[name].offset)


def _settings(lasting: list[Part], jobs: list[Part]) -> str:
    values: dict[str, str] = {}
    for one in (*lasting, *jobs):
        more: dict[str, str] = {}
        if one.kind == "gateway":
            more = behind("${FLAGON_ROUTER:-0.0.0.0/0}", "${FLAGON_SCHEME:-https}") | {
                "HTTP_LISTEN": "$PORT",
                "HTTPS_LISTEN": f"127.0.0.1:{_plus(INTERNAL_OFFSET + 1)}",
                "INTERNAL_LISTEN": f"127.0.0.1:{_plus(INTERNAL_OFFSET)}",
                # The platform chooses the version: this is what all understand.
                "HTTP2": "",
                "OPEN_FILES": "1024",
                "CONNECTIONS": "1000",
            }
        elif one.service == "web":
            more = {"GATEWAY_URL": f"http://127.0.0.1:{_plus(INTERNAL_OFFSET)}"}
        part = moved(
            one,
            lambda name: f"http://127.0.0.1:{_port(name)}",
            lambda name: f"127.0.0.1:{_port(name)}",
            **more,
        )
        values |= {
            key: text if key.removeprefix("GATEWAY_") in more else _quoted(text)
            for key, text in part.settings.items()
        }
    # Each process has its own address and its own folder for metrics: run.sh says them.
    own = {
        f"{one.upper()}_{key}" for one in SERVICES for key in ("BIND", "METRICS_DIR")
    }
    values = {
        key: text
        for key, text in values.items()
        if key not in {*own, "TMPDIR", "AUTH_CLIENTS_FILE"}
    }
    values |= {
        "CATALOG_IMAGES_URL": "${CATALOG_IMAGES_URL?the bucket of pictures}",
        "CATALOG_IMAGES_REGION": "${CATALOG_IMAGES_REGION:-us-east-1}",
        "GATEWAY_BUCKET": "${GATEWAY_BUCKET:-127.0.0.1:1}",
        "GATEWAY_BUCKET_SCHEME": "${GATEWAY_BUCKET_SCHEME:-https}",
        "GATEWAY_SERVER_NAMES": "$FLAGON_HOST",
    }
    lines = [f'export {key}="{_placed(text)}"' for key, text in sorted(values.items())]
    # Runners give each process a PORT of its own: only the gateway listens there.
    head = HEADER + (
        ': "${FLAGON_PORT_BASE:=8080}" "${FLAGON_HOST:?the name that people type}"\n'
        ': "${PORT:=$FLAGON_PORT_BASE}"\n'
    )
    return head + "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return a text in which nginx's own names are no variables of the shell."""
    return text if "$((" in text else _FROM_OUTSIDE.sub(r"\\$", text)


def _placed(text: str) -> str:
    moved_to = {
        "https://shop.example.com": "${FLAGON_URL:-https://$FLAGON_HOST}",
        "/var/lib/flagon": f"{_STATE}",
        "/usr/share/flagon/static": "$PWD/services/web/src/flagon_web/static",
        "/usr/share/flagon/docs": "$PWD/docs",
        "/usr/share/flagon/images": f"{_STATE}/images",
        "/usr/share/flagon/pages": f"{_STATE}/pages",
        "/tmp/nginx.pid": f"{_STATE}/nginx.pid",  # noqa: S108 (a place in a container)
        "/tmp/upstreams.conf": f"{_STATE}/upstreams.conf",  # noqa: S108 (as above)
        "/var/cache/nginx": f"{_STATE}/gateway-cache",
        "$ssl_server_name": "\\$ssl_server_name",
    }
    for before, after in moved_to.items():
        text = text.replace(before, after)
    return text
