"""Local mode: the platform as plain processes of this machine."""

import compileall
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from . import checks, environment, hidden, launch, programs, reach, watching
from .configuration import prepare
from .files import write
from .problem import Problem
from .processes import (
    BY_NAME,
    NAMES_OFFSET,
    NODES_OFFSET,
    OWNERS,
    SERVICES,
    SINK,
    TWINS,
    WATCHERS,
    Process,
)
from .stack import Stack
from .supervisor import (
    Specification,
    Supervisor,
    write_configuration,
    write_specification,
)
from .vault import Vault

_READY_SECONDS = 90
_CRASHING_SECONDS = 20
"""Time that a process has for its first tries: what it needs may still be starting."""


class Clock:
    """Says what happens, with the seconds since the start."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        """Print one line of progress."""
        seconds = time.monotonic() - self.started
        print(f"{seconds:6.1f} s  {text}", flush=True)


def up(
    stack: Stack,
    only: Iterable[str] = (),
    *,
    watched: bool = False,
    traced: bool = False,
    code: Path | None = None,
) -> None:
    """Start the stack and return when every process is ready; safe to repeat.

    :param only: names of processes; all when empty.
    :param watched: with exporters and Alertmanager.
    :param traced: with the sink of traces.
    :param code: another release's tree to run instead of the checkout (roll.py).
    :raises Problem: something must be changed by a person first.
    """
    clock = Clock()
    wanted = [BY_NAME[name] for name in only] or list(stack.processes)
    wanted += [*(stack.watchers if watched else ()), *([SINK] if traced else ())]
    supervisor = Supervisor(stack)
    who = reach.runner()
    if supervisor.pid is None:
        _end_leftovers(stack)
        checks.before_start(stack)
        if watched:
            watching.check(stack.watchers)
        keeper = prepare(stack, watched=watched, traced=traced)
        _folders(stack)
        write_configuration(
            stack,
            keeper["supervisor_password"],
            specifications(stack, keeper, watched=watched, code=code),
        )
        _compile(stack.root)
        hidden.write(
            stack.root / "deploy" / "locks",
            SERVICES,
            _hidden(stack),
            # As in docker-compose.yml: realtime stays with gunicorn.
            more=dict.fromkeys(set(SERVICES) - {"realtime"}, "pyuwsgi==2\n")
            if stack.server == "uwsgi"
            else {},
        )
        reach.give(stack.state, who)
        opened = reach.grant(stack.root, stack.state, who)
        if opened:
            names = ", ".join(map(str, opened[:3])) + (" …" if opened[3:] else "")
            clock.say(f"{who.name} may pass through {names} until `make down`")
        _init_postgres(stack, keeper, who, clock)
        supervisor.start(who)
        clock.say("supervisor started")
    else:
        for extra, named, first in (
            (watched, "observability", stack.watchers[0]),
            (traced, "traces", SINK),
        ):
            if extra and first.name not in supervisor.states():
                raise Problem(
                    f"The stack runs without {named}.",
                    f"make down; make up WITH={named}",
                )
        keeper = Vault(stack.secrets)
    _start(stack, supervisor, keeper, who, wanted, clock, code)


def _start(
    stack: Stack,
    supervisor: Supervisor,
    keeper: Vault,
    who: reach.Runner,
    wanted: list[Process],
    clock: Clock,
    code: Path | None,
) -> None:
    """Start processes: what others stand on first, everything else at once."""
    names = {process.name for process in wanted}
    for process in wanted:
        if process.kind != "python":
            supervisor.start_process(process.name)
    if "postgres" in names:
        _await(stack, supervisor, [BY_NAME["postgres"]], clock, settled=False)
        _roles(stack, keeper, who)
        clock.say("databases and roles are there")
    # These need no table: they load while the migrations run.
    early = [p for p in wanted if p.service in {"realtime", "web"}]
    for process in early:
        supervisor.start_process(process.name)
    services = {process.service for process in wanted} & set(OWNERS)
    if "postgres" in names and services:
        outdated = sorted(
            one for one in services if _changed(stack, f"{one}-tables", one)
        )
        if outdated:
            migrate(stack, keeper, who, outdated, code)
            clock.say("migrations are done")
    for process in wanted:
        if process.kind == "python" and process not in early:
            supervisor.start_process(process.name)
    if "auth" in services and "postgres" in names and _changed(stack, "seed", "auth"):
        seed(stack, keeper, who, code)
        clock.say("accounts and clients are there")
    _await(stack, supervisor, wanted, clock)


def start(
    stack: Stack, process: Process, *, crashing_seconds: float = _CRASHING_SECONDS
) -> None:
    """Start one process of a running stack and return when it is ready.

    :param crashing_seconds: how long it may end again and again.
    """
    supervisor = Supervisor(stack)
    supervisor.start_process(process.name)
    _await(stack, supervisor, [process], Clock(), crashing_seconds=crashing_seconds)


def down(stack: Stack) -> None:
    """Stop every process of the stack; data stays."""
    supervisor = Supervisor(stack)
    if supervisor.pid is not None and supervisor.answers():
        supervisor.shut_down()
    _end_leftovers(stack)
    shutil.rmtree(stack.config, ignore_errors=True)
    if closed := reach.release(stack.state):
        names = ", ".join(map(str, closed[:3])) + (" …" if closed[3:] else "")
        print(f"{reach.USER} may no longer pass through {names}")


def _end_leftovers(stack: Stack) -> None:
    """End what a killed supervisor left running."""
    groups = sorted((stack.state / "groups").glob("*"))
    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(lambda file: launch.end(file, stack.state), groups))
    for file in groups:
        file.unlink(missing_ok=True)


def _folders(stack: Stack) -> None:
    for name in (
        "alertmanager",
        "gateway",
        "groups",
        "files",
        "home",
        "logs",
        "metrics",
        "prometheus",
        "rabbitmq",
        "redis-cache",
        "redis-store",
        "schedule",
        "spool",
    ):
        (stack.state / name).mkdir(mode=0o700, exist_ok=True)


def _compile(root: Path) -> None:
    """Compile our own sources: the processes may not write next to them."""
    if os.geteuid() == 0:
        for folder in (*root.glob("libs/*/src"), *root.glob("services/*/src")):
            compileall.compile_dir(folder, quiet=2)


# -- What runs ------------------------------------------------------------------------------


def base_environment(stack: Stack) -> dict[str, str]:
    """Return the environment that every process starts from, whoever types `make up`."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "HOME": str(stack.state / "home"),
        "TMPDIR": str(stack.state / "spool"),
        "FLAGON_STACK": str(stack.state),
        # Memory given back by one burst is returned instead of kept by arenas.
        "MALLOC_ARENA_MAX": "1",
    }


def python_environment(
    stack: Stack, keeper: Vault, process: Process, code: Path | None = None
) -> dict[str, str]:
    """Return the whole environment of one Python process.

    :param code: another release's tree, searched for our packages before the checkout.
    """
    folders = [_hidden(stack) / process.service]
    if code is not None:
        folders += [code / "services" / process.service / "src"]
        folders += [code / "libs" / "chassis" / "src"]
    return {
        **base_environment(stack),
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "PYTHONUNBUFFERED": "1",
        **environment.plain(process, stack, stack.state, code),
        **environment.confidential(process.service, stack, keeper),
    }


def _hidden(stack: Stack) -> Path:
    return stack.config / "hidden"


_RUNTIMES = {
    # What is in Go collects earlier, at a little more work.
    "prometheus": {"GOGC": "40", "GOMEMLIMIT": "48MiB"},
    "alertmanager": {"GOGC": "40", "GOMEMLIMIT": "24MiB", "GOMAXPROCS": "1"},
    "exporter": {"GOGC": "40", "GOMEMLIMIT": "16MiB", "GOMAXPROCS": "1"},
}


_PATCHED = {"realtime"}
"""gevent changes the standard library, before anything has been made with it."""


def specifications(
    stack: Stack, keeper: Vault, *, watched: bool = False, code: Path | None = None
) -> dict[str, Specification]:
    """Return, by process, what the launcher executes."""
    running = [*stack.processes, *TWINS, *(stack.watchers if watched else ())]
    running += [SINK] if stack.traced else []
    return {one.name: specification(stack, keeper, one, code) for one in running}


def specify(stack: Stack, process: Process, code: Path | None = None) -> None:
    """Write anew what the launcher executes for a process when it starts next."""
    found = specification(stack, Vault(stack.secrets), process, code)
    write_specification(stack, process.name, found)
    reach.give(stack.config / "programs", reach.runner())


def specification(
    stack: Stack, keeper: Vault, process: Process, code: Path | None = None
) -> Specification:
    """Return what the launcher executes for one process.

    :param code: another release's tree to run instead of the checkout.
    """
    serving = {}
    if process.kind == "python":
        argv = [
            sys.executable,
            "-m",
            f"flagon_{process.service}",
            *process.arguments,
        ]
        variables = python_environment(stack, keeper, process, code)
        if process.own_offset:
            serving = {
                "listen": stack.address(process.name),
                "own": stack.own_address(process.name),
                "bind": f"{process.service.upper()}_BIND",
            }
    elif process.kind == "sink":
        argv = [sys.executable, "-m", "flagon_chassis.sink"]
        argv += ["--bind", stack.bind(process.name)]
        argv += ["--folder", str(stack.state / "traces")]
        # It knows no secret: nothing but what it was sent.
        variables = base_environment(stack) | {
            "PYTHONPATH": ""
            if code is None
            else str(code / "libs" / "chassis" / "src"),
            "PYTHONUNBUFFERED": "1",
        }
    else:
        argv = _program(stack, process)
        variables = base_environment(stack) | _RUNTIMES.get(process.kind, {})
        variables |= watching.variables(stack, process)
    return {
        "argv": argv,
        "env": variables | {"FLAGON_PROCESS": process.name},
        "cwd": str(stack.state),
        "group_file": str(stack.state / "groups" / process.name),
        "forked": process.kind in {"python", "sink"}
        and process.service not in _PATCHED,
        **serving,
    }


def _program(stack: Stack, process: Process) -> list[str]:
    deploy = stack.root / "deploy"
    port = str(stack.port(process.name))
    if process in WATCHERS:
        return watching.command(stack, process)
    if process.kind == "postgres":
        data = stack.state / "postgres"
        return [
            str(programs.postgres_for(data).program("postgres")),
            *("-D", str(data)),
            *("-c", f"config_file={deploy / 'postgres' / 'postgresql.conf'}"),
            *("-c", "listen_addresses=127.0.0.1"),
            *("-c", f"port={port}"),
            *("-c", f"archive_command={_archive_command(stack)}"),
            # No socket file: its path must be short, and nothing needs it.
            *("-c", "unix_socket_directories="),
        ]
    if process.kind == "redis":
        kind = process.name.removeprefix("redis-")
        return [
            str(programs.find("redis-server")),
            str(deploy / "redis" / f"{kind}.conf"),
            *("--bind", "127.0.0.1"),
            *("--port", port),
            *("--dir", str(stack.state / process.name)),
            *("--aclfile", str(stack.config / f"{process.name}.acl")),
        ]
    if process.kind == "rabbitmq":
        return [
            *("/bin/sh", str(deploy / "rabbitmq" / "server.sh")),
            str(stack.state / process.name),
            str(stack.config / "rabbitmq" / "rabbitmq.conf"),
            str(stack.port_base + NODES_OFFSET),
            str(stack.port_base + NAMES_OFFSET),
        ]
    if process.kind == "gateway":
        return [
            str(programs.find(programs.GATEWAYS[stack.gateway])),
            *programs.gateway_options(stack.gateway, stack.config / "gateway"),
        ]
    return [
        str(programs.find("prometheus")),
        f"--config.file={stack.config / 'prometheus' / 'prometheus.yml'}",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--storage.tsdb.path={stack.state / 'prometheus'}",
        "--storage.tsdb.retention.time=2d",
        "--storage.tsdb.retention.size=512MB",
        "--log.format=json",
    ]


# -- Postgres -------------------------------------------------------------------------------


def _archive_command(stack: Stack) -> str:
    """Return what Postgres runs for each file of its log that is full."""
    script = stack.root / "deploy" / "postgres" / "backup.sh"
    words = f"BACKUPS={shlex.quote(str(stack.state / 'backups'))}"
    words += f" /bin/sh {shlex.quote(str(script))} archive"
    # Of what follows a per cent sign, Postgres puts in the path and the name alone.
    return words.replace("%", "%%") + " %p %f"


def _init_postgres(
    stack: Stack, keeper: Vault, who: reach.Runner, clock: Clock
) -> None:
    data = stack.state / "postgres"
    postgres = programs.postgres_for(data)
    if (data / "PG_VERSION").exists():
        return
    kept = [*(stack.state / "backups" / "base").glob("*Z")]
    if kept or (stack.state / "postgres.left").exists():
        # An empty shop in its place would look as if all were well.
        message = f"{data} is gone: lost, or a restore was cut off."
        raise Problem(message, "make restore   (or make reset, which forgets backups)")
    # Made beside and renamed when whole: a kill half-way leaves nothing half-made.
    fresh = stack.state / "postgres.new"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(data, ignore_errors=True)
    run(
        [
            str(postgres.program("initdb")),
            f"--pgdata={fresh}",
            "--username=postgres",
            f"--pwfile={keeper.folder / 'postgres_password'}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            # Synced once below instead of file by file.
            "--no-sync",
        ],
        base_environment(stack),
        who,
        stack.state,
    )
    subprocess.run(["/bin/sync", "-f", str(fresh)], check=False)
    # What was done to earlier data says nothing about this.
    shutil.rmtree(stack.state / "done", ignore_errors=True)
    fresh.rename(data)
    clock.say(f"Postgres {postgres.version} has a data folder")


def _roles(stack: Stack, keeper: Vault, who: reach.Runner) -> None:
    variables = base_environment(stack) | {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(stack.port("postgres")),
        "PGUSER": "postgres",
        "PGPASSWORD": keeper["postgres_password"],
        "SECRETS_DIR": str(stack.secrets),
    }
    folder = programs.postgres_for(stack.state / "postgres").folder
    variables["PATH"] = f"{folder}:{variables['PATH']}"
    script = stack.root / "deploy" / "postgres" / "roles.sh"
    run(["/bin/sh", str(script)], variables, who, stack.state)


def migrate(
    stack: Stack,
    keeper: Vault,
    who: reach.Runner,
    services: list[str],
    code: Path | None = None,
) -> None:
    """Bring the tables of services up to date, all at the same time.

    :param code: another release's tree, whose revisions count instead of the checkout's.
    """

    def one(service: str) -> None:
        variables = python_environment(stack, keeper, BY_NAME[service], code)
        variables |= environment.migration(service, stack, keeper)
        command = [sys.executable, "-m", f"flagon_{service}", "migrate"]
        run(command, variables, who, stack.state)

    with ThreadPoolExecutor(max_workers=len(OWNERS)) as pool:
        list(pool.map(one, services))
    for service in services if code is None else ():
        _remember(stack, f"{service}-tables", service)


def seed(
    stack: Stack, keeper: Vault, who: reach.Runner, code: Path | None = None
) -> None:
    """Make the accounts and clients of the first start; changes nothing later."""
    variables = python_environment(stack, keeper, BY_NAME["auth"], code)
    variables |= environment.seeding(
        stack.secrets / "auth_accounts.json", stack.secrets / "auth_clients.json"
    )
    command = [*flask(), "--app", "flagon_auth.app", "seed"]
    run(command, variables, who, stack.state)
    _remember(stack, "seed", "auth")


def _digest(stack: Stack, service: str) -> str:
    """Return what tells whether migrations or seed of a service may have to run again."""
    seen = sha256()
    folders = (
        stack.root / "services" / service / "src",
        stack.root / "libs" / "chassis",
    )
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            seen.update(path.read_bytes())
    seen.update((stack.secrets / "auth_clients.json").read_bytes())
    return seen.hexdigest()


def _changed(stack: Stack, what: str, service: str) -> bool:
    """Say whether code changed since something was done: each costs seconds of a start.

    The note lies beside the data that it is about, and goes with it.
    """
    note = stack.state / "done" / what
    return not note.exists() or note.read_text() != _digest(stack, service)


def _remember(stack: Stack, what: str, service: str) -> None:
    write(stack.state / "done" / what, _digest(stack, service))


def flask() -> list[str]:
    """Return the command that starts a service's own `flask` commands."""
    return [sys.executable, "-m", "flask"]


def run(
    command: list[str], variables: dict[str, str], who: reach.Runner, folder: Path
) -> str:
    """Run a command as the stack's user and return what it printed."""
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env=variables,
        cwd=folder,
        umask=0o077,
        **who.options,
    )
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-15:]
        readable = " ".join(command[-3:])
        message = f"`{readable}` failed:\n    " + "\n    ".join(said)
        raise Problem(message, "make doctor")
    return str(done.stdout)


# -- Waiting --------------------------------------------------------------------------------


def probe(stack: Stack, process: Process) -> str:
    """Return `ready`, or in a few words what is missing."""
    if process.kind == "postgres":
        return _probe_postgres(stack)
    if process.kind == "redis":
        # Without signing in, the answer to PING tells apart "up" (NOAUTH or NOPERM) and
        # "reading its file" (LOADING).
        return _ask(stack, process, b"PING\r\n", (b"-NO", b"+PONG"))
    if process.kind == "rabbitmq":
        # The beginning of AMQP 0-9-1, and the first byte of a frame.
        return _ask(stack, process, b"AMQP\0\0\x09\x01", (b"\x01",))
    path = {
        "gateway": "/healthz",
        "prometheus": "/-/ready",
        "alertmanager": "/-/ready",
        "exporter": "/metrics",
    }.get(process.kind, "/readyz")
    address = (
        stack.internal_address
        if process.kind == "gateway"
        else stack.own_address(process.name)
    )
    connection = HTTPConnection(address, timeout=3)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, HTTPException) as error:
        return f"no answer ({type(error).__name__})"
    finally:
        connection.close()
    return "ready" if answer.status == 200 else checks.why_unready(body)  # noqa: PLR2004 (OK)


def _probe_postgres(stack: Stack) -> str:
    program = programs.postgres_for(stack.state / "postgres").program("pg_isready")
    command = [
        str(program),
        "-h",
        "127.0.0.1",
        "-p",
        str(stack.port("postgres")),
        "-t",
        "2",
    ]
    done = subprocess.run(command, check=False, capture_output=True)
    return "ready" if done.returncode == 0 else "does not accept connections"


def _ask(
    stack: Stack, process: Process, question: bytes, good: tuple[bytes, ...]
) -> str:
    """Return `ready` if a server answers to its protocol's first words as it should."""
    try:
        address = ("127.0.0.1", stack.port(process.name))
        with socket.create_connection(address, timeout=2) as connection:
            connection.sendall(question)
            answer = connection.recv(64)
    except OSError as error:
        return f"no answer ({type(error).__name__})"
    return "ready" if answer.startswith(good) else "loading"


def _await(
    stack: Stack,
    supervisor: Supervisor,
    wanted: list[Process],
    clock: Clock,
    *,
    settled: bool = True,
    crashing_seconds: float = _CRASHING_SECONDS,
) -> None:
    """Wait until all are ready, with a line for each as it becomes so.

    :param settled: whether the supervisor too must be content with them: that they have
        run for a second, and that it is they who answer.
    """
    waiting = {process.name: process for process in wanted}
    deadline = time.monotonic() + _READY_SECONDS
    reason: dict[str, str] = {}
    while waiting:
        with ThreadPoolExecutor(max_workers=8) as pool:
            names = list(waiting)
            said = pool.map(lambda name: probe(stack, waiting[name]), names)
            reason |= dict(zip(names, said, strict=True))
        if settled:
            states = supervisor.states()
            for name in names:
                state = states[name].state if name in states else "unknown"
                if reason[name] == "ready" and state != "RUNNING":
                    reason[name] = "answers, but has not run for a second"
        ready = [name for name in names if reason[name] == "ready"]
        for name in ready:
            del waiting[name]
        if ready:
            clock.say(f"ready: {', '.join(ready)}")
        if waiting and (
            time.monotonic() > deadline
            or _fails(supervisor, waiting, clock, crashing_seconds)
        ):
            raise _not_ready(stack, supervisor, list(waiting), reason)
        if waiting:
            time.sleep(0.15)


def _fails(
    supervisor: Supervisor,
    waiting: Iterable[str],
    clock: Clock,
    crashing_seconds: float,
) -> bool:
    """Say whether one of the processes ends again and again."""
    if time.monotonic() - clock.started < crashing_seconds:
        return False
    states = supervisor.states()
    return any(
        states[name].state in {"BACKOFF", "FATAL"} for name in waiting if name in states
    )


def _not_ready(
    stack: Stack, supervisor: Supervisor, names: list[str], reason: dict[str, str]
) -> Problem:
    states = supervisor.states()
    lines = []
    for name in names:
        state = states[name].state if name in states else "unknown"
        lines.append(f"  {name}: {state}, {reason[name]}")
        log = stack.logs / f"{name}.log"
        if log.exists():
            tail = log.read_text(errors="replace").splitlines()[-3:]
            lines += [f"      {line[:300]}" for line in tail]
    message = "Not ready:\n" + "\n".join(lines)
    return Problem(message, f"make logs S={names[0]}")


def group_members(stack: Stack, name: str) -> list[int]:
    """Return the ids of a process and its children."""
    try:
        group = int((stack.state / "groups" / name).read_text())
    except (FileNotFoundError, ValueError):
        return []
    return launch.members(group, stack.state)
