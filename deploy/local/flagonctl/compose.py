"""The containers mode: the same commands through `docker compose`."""

import json
import os
import subprocess
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from .configuration import prepare
from .problem import Problem
from .stack import Stack


def run(
    stack: Stack, *arguments: str, capture: bool = False, code: Path | None = None
) -> str:
    """Run `docker compose` for a stack and return what it printed when captured.

    :param code: another release's tree, whose images are meant instead of the checkout's.
    :raises Problem: it failed; its own words have been shown.
    """
    if not (stack.state / "compose.env").exists():
        prepare(stack)
    done = subprocess.run(
        [
            *("docker", "compose", "--env-file", str(stack.state / "compose.env")),
            *arguments,
        ],
        check=False,
        text=True,
        stdout=subprocess.PIPE if capture else None,
        cwd=stack.root,
        # Whatever it was when the stack was started: the checkout may have gone on.
        env=os.environ
        | (_release(stack, code) if code else {"FLAGON_RELEASE": stack.release}),
    )
    if done.returncode != 0:
        message = f"`docker compose {arguments[0]}` failed ({done.returncode})."
        raise Problem(message, "make logs MODE=docker   or   make doctor MODE=docker")
    return done.stdout or ""


def _release(stack: Stack, code: Path) -> dict[str, str]:
    """Return what docker-compose.yml takes its own images by, and what they are built of."""
    return {
        "FLAGON_TAG": f"{stack.name}-{code.name}",
        "FLAGON_SOURCE": str(code),
        "FLAGON_RELEASE": code.name,
    }


def forget_releases(stack: Stack) -> None:
    """Remove the images of other releases that ran in a stack."""
    images = ["docker", "image"]
    found = subprocess.run(
        [
            *(*images, "ls", "--filter", f"reference=flagon-*:{stack.name}-*"),
            *("--format", "{{.Repository}}:{{.Tag}}"),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    if found:
        subprocess.run([*images, "rm", *found], check=True, stdout=subprocess.DEVNULL)


def up(
    stack: Stack,
    *,
    watched: bool = False,
    traced: bool = False,
    code: Path | None = None,
) -> None:
    """Build what changed and start everything; returns when all is healthy.

    :param watched: with exporters, Alertmanager, Grafana and Jaeger.
    :param traced: with the sink of traces.
    :param code: another release's tree to run instead of the checkout (roll.py).
    """
    prepare(stack, watched=watched, traced=traced)
    run(stack, "up", "--detach", "--build", "--wait", "--remove-orphans", code=code)


def containers(stack: Stack) -> list[dict[str, Any]]:
    """Return what Compose says about each container."""
    text = run(stack, "ps", "--all", "--format", "json", capture=True).strip()
    if not text:
        return []
    # One object a line, or one list: that changed between versions.
    if text.startswith("["):
        found: list[dict[str, Any]] = json.loads(text)
        return found
    return [json.loads(line) for line in text.splitlines()]


def status(stack: Stack) -> dict[str, object]:
    """Return the same shape as local mode's status, as far as Compose knows it."""
    processes = [
        {
            "name": one.get("Service", ""),
            "state": str(one.get("State", "")).upper(),
            "health": "ready" if _healthy(one) else one.get("Health") or "-",
            "url": stack.http_url if one.get("Service") == "gateway" else "",
            "container": one.get("Name", ""),
        }
        for one in containers(stack)
    ]
    lasting = [one for one in processes if one["state"] != "EXITED"]
    return {
        "stack": stack.name,
        "mode": stack.mode,
        "ready": bool(lasting) and all(one["health"] == "ready" for one in lasting),
        "url": stack.http_url,
        "https_url": stack.https_url,
        "processes": processes,
    }


def _healthy(container: dict[str, Any]) -> bool:
    if container.get("Health"):
        return bool(container["Health"] == "healthy")
    return container.get("State") == "running"


def answers(stack: Stack) -> bool:
    """Say whether the gateway answers."""
    connection = HTTPConnection("127.0.0.1", stack.port_base, timeout=3)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200  # noqa: PLR2004 (OK)
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
