"""The programs that this machine has: where they are and which version."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .problem import Problem

PACKAGES = {
    "postgres": "postgresql",
    "redis-server": "redis-server",
    "nginx": "nginx",
    "haproxy": "haproxy",
    "apache2": "apache2 libapache2-mod-qos lua-socket",
    "prometheus": "prometheus",
}
"""By program, the Debian package that brings it."""

GATEWAYS = {"nginx": "nginx", "haproxy": "haproxy", "apache": "apache2"}
"""The program of each gateway."""


_POSTGRES = Path("/usr/lib/postgresql")
# Daemons are often outside the PATH of ordinary users.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find(program: str) -> Path:
    """Return the path of a program.

    :raises Problem: it is not installed.
    """
    path = shutil.which(program) or shutil.which(program, path=_PATH)
    if path is None:
        package = PACKAGES.get(program, program)
        raise Problem(
            f"{program} is not installed.", f"sudo apt-get install -y {package}"
        )
    return Path(path)


def gateway_options(gateway: str, folder: Path) -> list[str]:
    """Return how a gateway is started with its configuration, in the foreground."""
    return {
        # Before it has read where to log, nginx would try a file of the system.
        "nginx": [
            *("-c", str(folder / "nginx.conf")),
            *("-e", "stderr"),
            *("-g", "daemon off;"),
        ],
        # With a master process, which starts another worker when it is told to reload.
        "haproxy": ["-W", "-f", str(folder / "haproxy.cfg")],
        "apache": ["-D", "FOREGROUND", "-f", str(folder / "httpd.conf")],
    }[gateway]


@dataclass(frozen=True)
class Postgres:
    """One installed Postgres."""

    version: int
    folder: Path

    def program(self, name: str) -> Path:
        """Return the path of one of its programs."""
        return self.folder / name


def installed_postgres() -> list[Postgres]:
    """Return every installed Postgres server, the newest first."""
    found = [
        Postgres(int(folder.parent.name), folder)
        for folder in _POSTGRES.glob("*/bin")
        if folder.parent.name.isdecimal() and (folder / "initdb").exists()
    ]
    if not found and (initdb := shutil.which("initdb")):
        folder = Path(initdb).resolve().parent
        said = _ask(str(folder / "postgres"), "--version")
        version = re.search(r"(\d+)", said)
        if version:
            found.append(Postgres(int(version[1]), folder))
    return sorted(found, key=lambda postgres: -postgres.version)


def postgres_for(data: Path) -> Postgres:
    """Return the Postgres that can read a data folder, or the newest for a new one.

    :raises Problem: none is installed, or only others than the data was made by.
    """
    found = installed_postgres()
    if not found:
        raise Problem(
            "No Postgres server is installed.", "sudo apt-get install -y postgresql"
        )
    marker = data / "PG_VERSION"
    if not marker.exists():
        return found[0]
    made_by = int(marker.read_text())
    for postgres in found:
        if postgres.version == made_by:
            return postgres
    have = ", ".join(str(postgres.version) for postgres in found)
    message = (
        f"The data in {data} was made by Postgres {made_by}, installed here is {have}: "
        "one major version cannot read another's files."
    )
    raise Problem(
        message,
        f"sudo apt-get install -y postgresql-{made_by}   "
        "(or `make reset`, which forgets all data)",
    )


def rabbitmq_version() -> tuple[int, ...]:
    """Return the version of the installed RabbitMQ.

    :raises Problem: none is installed.
    """
    found = [
        tuple(map(int, version[1].split(".")))
        for folder in Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*")
        if (version := re.search(r"-([\d.]+)$", folder.name))
    ]
    if not found:
        raise Problem(
            "RabbitMQ is not installed.",
            "sudo sh deploy/local/packages.sh rabbitmq-server",
        )
    return max(found)


@cache
def nginx_version() -> tuple[int, int]:
    """Return major and minor version of nginx."""
    said = _ask(str(find("nginx")), "-v")
    version = re.search(r"nginx/(\d+)\.(\d+)", said)
    return (int(version[1]), int(version[2])) if version else (0, 0)


def _ask(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr
