"""Keeps from a service's processes what its image does not hold.

The one environment of a developer has the tools and every service's libraries in it, and
many libraries load what they find: structlog loads rich, OpenTelemetry loads psutil.
That is memory for nothing, and a dependency that a lock lacks would fail in containers
only.
"""

import re
import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

_STUB = """raise ModuleNotFoundError(
    "{module} is not in deploy/locks/{service}.lock: add it to the pyproject.toml of "
    "what imports it and run `make lock`.",
    name="{module}",
)
"""
# What deploy/locks/without.txt keeps out stays in a lock with a condition that never holds.
_LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==(?!.*'never')", re.MULTILINE)


def write(
    locks: Path,
    services: Iterable[str],
    folder: Path,
    *,
    more: Mapping[str, str] | None = None,
) -> None:
    """Write a folder for each service, to be searched before all installed packages.

    :param locks: the folder of the images' locks.
    :param more: what images hold beside them by choice, as lines of a lock, by service.
    """
    shutil.rmtree(folder, ignore_errors=True)
    installed = packages_distributions()
    for service in services:
        own = folder / service
        own.mkdir(parents=True)
        lock = (locks / f"{service}.lock").read_text() + (more or {}).get(service, "")
        for module in modules(lock, installed):
            stub = _STUB.format(module=module, service=service)
            (own / f"{module}.py").write_text(stub)


def modules(lock: str, installed: Mapping[str, list[str]]) -> list[str]:
    """Return what is installed and comes from no distribution of the lock.

    :param installed: by module at the top level, the distributions that hold it.
    """
    locked = {_normal(name) for name in _LOCKED.findall(lock)}
    return sorted(
        module
        for module, holders in installed.items()
        # The interpreter itself loads some of the private ones at its start.
        if module.isidentifier()
        and not module.startswith(("_", "flagon_"))
        and locked.isdisjoint(map(_normal, holders))
    )


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
