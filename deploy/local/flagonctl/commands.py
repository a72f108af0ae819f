"""The commands, one function each: they translate, the other modules work."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import cast

from . import (
    backup,
    beside,
    checks,
    compose,
    configuration,
    databases,
    device,
    invariants,
    local,
    measure,
    reach,
    roll,
    signin,
    status,
    trace,
)
from .problem import Problem
from .processes import (
    BROKERS,
    BY_NAME,
    GATEWAYS,
    MAIL_QUEUES,
    OWNERS,
    READABLE,
    SERVERS,
    SERVICES,
    Process,
)
from .stack import Mode, Stack
from .supervisor import Supervisor
from .vault import ROLES, Vault, accounts

Values = dict[str, str]
_SCOPE = (
    "openid profile email reviews:write jobs:read catalog:write jobs:write"
    " ops:read jobs:manage users:read users:write catalog:purge"
)
"""All that there is: a token holds the part that the account's roles allow."""


def choose_mode(wanted: str) -> Mode:
    """Return the mode to use: Docker when an engine answers, else local."""
    if wanted != "auto":
        return cast("Mode", wanted)
    try:
        answered = subprocess.run(
            ["docker", "info"],
            check=False,
            capture_output=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "local"
    return "docker" if answered.returncode == 0 else "local"


# -- Running ------------------------------------------------------------------------------


def up(stack: Stack, values: Values, _format: str) -> None:
    """Start everything and say where it is."""
    only = values.get("ONLY", "").split()
    for name in only:
        _process(name)
    extra = values.get("WITH", "")
    if extra not in {"", "observability", "traces"}:
        raise Problem(f"There is no {extra} to add.", "make up WITH=observability")
    # Its processes know the other one, and what waits there would be left behind.
    _choose(stack, values, "broker", BROKERS, "The tasks of this stack wait in")
    _choose(stack, values, "event_bus", BROKERS, "The events of this stack travel on")
    _choose(stack, values, "mail_queue", MAIL_QUEUES, "The mails of this stack wait in")
    # Its processes run under the other server, and those that run are not started anew.
    _choose(stack, values, "server", SERVERS, "The services of this stack run under")
    choose_gateway(stack, values)
    watched, traced = extra == "observability", bool(extra)
    if stack.mode == "docker":
        compose.up(stack, watched=watched, traced=traced)
    else:
        local.up(stack, only, watched=watched, traced=traced)
    if not only:
        _welcome(stack)


def _choose(
    stack: Stack, values: Values, what: str, choices: Sequence[str], now: str
) -> None:
    """Note what was chosen, until somebody says otherwise; never while the stack runs.

    :param what: what there is a choice of, as the stack calls it.
    :param now: a sentence about the stack as it runs, less its last word.
    """
    chosen = getattr(stack, what)
    wanted = values.get(what.upper(), chosen)
    if wanted not in choices:
        message = f"There is no {what.replace('_', ' ')} {wanted!r}."
        raise Problem(message, f"choose one of: {' '.join(choices)}")
    if wanted == chosen:
        return
    if stack.mode == "local":
        running = Supervisor(stack).pid is not None
    else:
        running = stack.state.exists() and bool(compose.containers(stack))
    if running:
        next_ = f"make down; make up {what.upper()}={wanted}"
        raise Problem(f"{now} {chosen}.", next_)
    stack.choose(what, wanted)


def choose_gateway(stack: Stack, values: Values) -> None:
    """Note what is to stand before the services, until somebody says otherwise."""
    _choose(stack, values, "gateway", GATEWAYS, "The gateway of this stack is")


def _welcome(stack: Stack) -> None:
    lines = [
        "",
        f"  Shop          {stack.http_url}",
        f"                {stack.https_url}   (trust {_shown(stack, 'tls/ca.pem')})",
        f"  API           {stack.http_url}/api/v1/products",
        f"  Status        {stack.http_url}/status",
        f"  Prometheus    http://localhost:{stack.port_base + 18}",
        "",
        "  Accounts (make accounts)",
    ]
    lines += [
        f"    {account['email']:<26} {account['password']}"
        for account in accounts(stack.secrets / "auth_accounts.json")
    ]
    base = "" if stack.port_base == 8080 else f" PORT_BASE={stack.port_base}"  # noqa: PLR2004 (the default)
    lines += [
        "",
        f"  Next: make status{base} · make logs{base} S=catalog · make down{base}",
    ]
    print("\n".join(lines))


def _shown(stack: Stack, name: str) -> str:
    return str((stack.state / name).relative_to(stack.root))


def down(stack: Stack, _values: Values, _format: str) -> None:
    """Stop everything; data stays."""
    if stack.mode == "docker":
        compose.run(stack, "down", "--remove-orphans")
    else:
        local.down(stack)


def reset(stack: Stack, _values: Values, _format: str) -> None:
    """Stop everything and forget all data of this stack."""
    if stack.mode == "docker":
        compose.run(stack, "down", "--remove-orphans", "--volumes")
        compose.forget_releases(stack)
    else:
        local.down(stack)
    shutil.rmtree(stack.state, ignore_errors=True)
    print(f"{stack.name} is forgotten.")


def show_status(stack: Stack, _values: Values, format_: str) -> int:
    """List every process, its health, address, id and memory."""
    if stack.mode == "docker":
        found = compose.status(stack)
        if format_ == "json":
            print(json.dumps(found, indent=2))
        else:
            compose.run(stack, "ps", "--all")
        return 0 if found["ready"] else 1
    lines = status.collect(stack)
    found = status.as_json(stack, lines)
    print(json.dumps(found, indent=2) if format_ == "json" else status.table(lines))
    return 0 if found["ready"] else 1


def logs(stack: Stack, values: Values, _format: str) -> None:
    """Show the log of one process or of all; `F=1` follows it.

    `REQUEST=` shows what was written about one request instead, by all processes or one.
    """
    name = values.get("S") or values.get("P")
    if "REQUEST" in values:
        process = _process(name).name if name else ""
        for line in trace.log_of(stack, values["REQUEST"], process):
            print(json.dumps(line, ensure_ascii=False))
        return
    follow = "F" in values
    if stack.mode == "docker":
        chosen = [name] if name else []
        following = ["--follow"] if follow else ["--tail", "200"]
        compose.run(stack, "logs", "--no-log-prefix", *following, *chosen)
        return
    known = {"supervisor", *BY_NAME}
    if name and name not in known:
        _process(name)
    paths = sorted(stack.logs.glob(f"{name or '*'}.log"))
    if not paths:
        raise Problem(f"{stack.name} has no logs yet.", "make up")
    command = ["tail", "-n", "200" if name else "20", *(["-F"] if follow else [])]
    subprocess.run([*command, *map(str, paths)], check=False)


# -- One process --------------------------------------------------------------------------


def _process(name: str | None) -> Process:
    if not name:
        raise Problem("Which process?", "make … P=catalog")
    if name not in BY_NAME:
        names = " ".join(BY_NAME)
        raise Problem(f"There is no process {name!r}.", f"choose one of: {names}")
    return BY_NAME[name]


def kill(stack: Stack, values: Values, _format: str) -> None:
    """Kill -9 (or SIGNAL=…) a process; the supervisor starts it again.

    `PART=child` kills one of its children instead, such as a gunicorn worker.
    """
    process = _process(values.get("P") or values.get("S"))
    number = signal.Signals[f"SIG{values.get('SIGNAL', 'KILL').removeprefix('SIG')}"]
    if stack.mode == "docker":
        container = compose.run(stack, "ps", "--quiet", process.name, capture=True)
        _kill_container(container.split()[0], number, child="PART" in values)
        return
    found = {one.name: one for one in status.collect(stack)}[process.name]
    if not found.pid:
        raise Problem(f"{process.name} does not run.", f"make start P={process.name}")
    pid = found.pid
    if values.get("PART") == "child":
        children = sorted(set(local.group_members(stack, process.name)) - {pid})
        if not children:
            raise Problem(f"{process.name} has no children.")
        pid = children[0]
    os.kill(pid, number)
    print(f"{process.name} (pid {pid}) got {number.name}")


def _kill_container(container: str, number: signal.Signals, *, child: bool) -> None:
    """Signal the process inside: `docker kill` would count as a wish to stay down."""
    said = subprocess.run(
        ["docker", "top", container, "-o", "pid"],
        check=True,
        capture_output=True,
        text=True,
    )
    pids = sorted(int(line) for line in said.stdout.split()[1:])
    pid = pids[-1] if child else pids[0]
    os.kill(pid, number)
    print(f"pid {pid} got {number.name}")


def stop(stack: Stack, values: Values, _format: str) -> None:
    """Stop one process and keep it stopped."""
    process = _process(values.get("P") or values.get("S"))
    if stack.mode == "docker":
        compose.run(stack, "stop", process.name)
    else:
        Supervisor(stack).stop_process(process.name)
    print(f"{process.name} is stopped")


def start(stack: Stack, values: Values, _format: str) -> None:
    """Start one process and wait until it is ready."""
    process = _process(values.get("P") or values.get("S"))
    if stack.mode == "docker":
        compose.run(stack, "start", process.name)
        return
    local.start(stack, process)


def restart(stack: Stack, values: Values, format_: str) -> None:
    """Stop and start one process, as after a change of its code."""
    stop(stack, values, format_)
    if stack.mode == "local":
        # With it what is said of the code: which release it is.
        local.specify(stack, _process(values.get("P") or values.get("S")))
    start(stack, values, format_)


def roll_service(stack: Stack, values: Values, _format: str) -> None:
    """Let a service run the checkout's code, beside the old one first: nobody waits."""
    service = values.get("S", "")
    if service not in SERVICES:
        raise Problem(f"There is no service {service!r}.", f"S={'|'.join(SERVICES)}")
    way = beside.of(stack)
    way.build([service], None)
    if service in OWNERS:
        way.migrate(service, None)
    roll.roll(stack, service, None)
    if stack.mode == "local":
        # And back, so that it has the name by which all commands know it.
        roll.roll(stack, service, None)
    print(f"{service} runs the checkout's code")


# -- People and services ------------------------------------------------------------------


def show_accounts(stack: Stack, _values: Values, _format: str) -> None:
    """Print the demonstration accounts as JSON."""
    path = stack.secrets / "auth_accounts.json"
    if not path.exists():
        raise Problem(f"{stack.name} has no accounts yet.", "make up")
    print(path.read_text(), end="")


def token(stack: Stack, values: Values, format_: str) -> None:
    """Print an access token, got by code + PKCE through the gateway."""
    got = _token(stack, values)
    print(json.dumps(got, indent=2) if format_ == "json" else got["access_token"])


def _token(stack: Stack, values: Values) -> dict[str, object]:
    """Return the token response for the first account of a role."""
    role = values.get("ROLE", "customer")
    if role not in ROLES:
        raise Problem(
            f"There is no role {role!r}.", f"choose one of: {' '.join(ROLES)}"
        )
    path = stack.secrets / "auth_accounts.json"
    if not path.exists():
        raise Problem(f"{stack.name} has no accounts yet.", "make up")
    account = next(a for a in accounts(path) if a["roles"] == [role])
    return signin.token(
        stack.http_url,
        str(account["email"]),
        str(account["password"]),
        values.get("SCOPE", _SCOPE),
    )


def watch(stack: Stack, values: Values, format_: str) -> None:
    """Print events as they happen until Ctrl-C; `TOPIC` may name several."""
    # It brings the client along, which no other command needs.
    from . import watch as watching  # noqa: PLC0415

    topics = values.get("TOPIC", "products").replace(",", " ").split()
    needs_account = any(
        topic.partition("/")[0] in {"jobs", "custom", "me"} for topic in topics
    )
    watching.watch(
        stack.http_url,
        topics,
        types=values.get("TYPE", "").replace(",", " ").split(),
        snapshot="SNAPSHOT" in values,
        last_id=values.get("ID", ""),
        token=(lambda: str(_token(stack, values)["access_token"]))
        if needs_account or "ROLE" in values
        else None,
        as_json=format_ == "json",
        count=int(values["N"]) if "N" in values else None,
    )


def let_device_in(stack: Stack, values: Values, format_: str) -> None:
    """Print an access token, got without a browser of our own (RFC 8628)."""
    got = device.token(stack.http_url, values.get("SCOPE", _SCOPE))
    print(json.dumps(got, indent=2) if format_ == "json" else got["access_token"])


def cli(stack: Stack, values: Values, _format: str) -> int:
    """Run a service's own `flask` commands inside the running stack."""
    service = values.get("S", "")
    if service not in SERVICES:
        message = f"There is no service {service!r}."
        raise Problem(message, f'make cli S={SERVICES[0]} C="--help"')
    arguments = ["--app", f"flagon_{service}.app", *shlex.split(values.get("C", ""))]
    prefix = service.upper()
    if stack.mode == "docker":
        done = subprocess.run(
            [
                *("docker", "compose", "--env-file", str(stack.state / "compose.env")),
                *("exec", "-T", "-e", f"{prefix}_TRACES=none"),
                *(service, "flask", *arguments),
            ],
            check=False,
            cwd=stack.root,
        )
        return done.returncode
    keeper = Vault(stack.secrets)
    variables = local.python_environment(stack, keeper, BY_NAME[service])
    # The folder of metrics is the running service's, and spans are not to be mixed with
    # what the command prints.
    del variables[f"{prefix}_METRICS_DIR"]
    variables[f"{prefix}_TRACES"] = "none"
    done = subprocess.run(
        [*local.flask(), *arguments],
        check=False,
        env=variables,
        cwd=stack.state,
        **reach.runner().options,
    )
    return int(done.returncode)


def mail(stack: Stack, values: Values, format_: str) -> int:
    """Print the newest mails, which the worker wrote to files for want of a server."""
    options = ["mails", "show", "--limit", values.get("N", "5")]
    options += ["--to", values["TO"]] if "TO" in values else []
    options += ["--json"] if format_ == "json" else []
    return cli(stack, {"S": "worker", "C": shlex.join(options)}, format_)


def psql(stack: Stack, values: Values, _format: str) -> int:
    """Open a service's tables in `psql` as its reader; `C=…` is a statement to run."""
    service = values.get("S", "")
    if service not in READABLE:
        raise Problem(
            f"Nobody may read tables of {service or 'no service'}.",
            f"choose: make psql S={READABLE[0]}",
        )
    words = [f"--command={values['C']}"] if "C" in values else []
    argv, variables = databases.command(
        stack, f"{service}_reader", service, *words, typed=not words
    )
    return subprocess.run(argv, check=False, cwd=stack.root, env=variables).returncode


def make_backup(stack: Stack, _values: Values, _format: str) -> None:
    """Copy the databases while they run; from the first time on their log is kept."""
    backup.backup(stack)


def restore(stack: Stack, values: Values, _format: str) -> None:
    """Bring everything back to a moment, the latest without `AT`."""
    backup.restore(stack, values.get("AT", ""))


def show_invariants(stack: Stack, _values: Values, format_: str) -> int:
    """Ask the databases whether what must be true is true."""
    found = invariants.check(stack)
    if format_ == "json":
        print(json.dumps([asdict(one) for one in found], indent=2))
    else:
        print(invariants.table(found))
    return 1 if any(one.broken for one in found) else 0


def migrate(stack: Stack, values: Values, _format: str) -> None:
    """Bring the tables of one service or of all up to date."""
    chosen = [values["S"]] if "S" in values else list(OWNERS)
    for service in chosen:
        if service not in OWNERS:
            raise Problem(f"{service} has no tables.", f"choose: {' '.join(OWNERS)}")
    if stack.mode == "docker":
        for service in chosen:
            compose.run(stack, "run", "--rm", f"{service}-migrate")
    else:
        local.migrate(stack, Vault(stack.secrets), reach.runner(), chosen)
    print(f"up to date: {', '.join(chosen)}")


def seed(stack: Stack, _values: Values, _format: str) -> None:
    """Make the accounts and clients of the first start where they are missing."""
    if stack.mode == "docker":
        compose.run(stack, "run", "--rm", "auth-seed")
    else:
        local.seed(stack, Vault(stack.secrets), reach.runner())
    print("accounts and clients are there")


def show_trace(stack: Stack, values: Values, format_: str) -> int:
    """Show what all processes did for one request id or trace id."""
    if "ID" not in values:
        raise Problem("Which request?", "make trace ID=<X-Request-ID of a reply>")
    lines = trace.lines_of(stack, values["ID"])
    roots = trace.tree(lines)
    if format_ == "json":
        print(json.dumps(trace.as_json(roots, lines), indent=2))
    else:
        print(trace.render(roots, lines))
    return 0 if lines else 1


def doctor(stack: Stack, _values: Values, format_: str) -> int:
    """Name what is wrong and the one next command."""
    running = stack.mode == "docker" or Supervisor(stack).pid is not None
    selected = checks.selected(stack, running=running)
    found = list(checks.findings(stack, selected))
    if format_ == "json":
        print(
            json.dumps(
                [
                    {
                        "check": name,
                        "ok": problem is None,
                        "problem": problem.what if problem else None,
                        "next": problem.next_step if problem else None,
                    }
                    for name, problem in found
                ],
                indent=2,
            )
        )
    else:
        for name, problem in found:
            print(f"{'ok   ' if problem is None else 'WRONG'}  {name}")
    wrong = [problem for _name, problem in found if problem is not None]
    if wrong and format_ != "json":
        print(f"\n{wrong[0]}", file=sys.stderr)
    if not wrong and format_ != "json":
        print("\nNothing is wrong." + ("" if running else "  Next: make up"))
    return 1 if wrong else 0


def bench(stack: Stack, values: Values, format_: str) -> int:
    """Measure start time and memory, then run the benchmarks in tests/bench."""
    name = values.get("N", "")
    if name in {"", "start"}:
        found = measure.start(stack)
        print(
            json.dumps(found, indent=2) if format_ == "json" else measure.table(found)
        )
    status_ = 0
    for program in sorted((stack.root / "tests" / "bench").glob("bench_*.py")):
        if name in {"", program.stem.removeprefix("bench_")}:
            command = [sys.executable, str(program)]
            status_ |= subprocess.run(command, check=False, cwd=stack.root).returncode
    return status_


def images(stack: Stack, _values: Values, _format: str) -> None:
    """Build every image."""
    compose.run(stack, "build")


def prepare(stack: Stack, _values: Values, _format: str) -> None:
    """Write secrets and configuration without starting anything."""
    configuration.prepare(stack)
    print(stack.state)


COMMANDS: dict[str, Callable[[Stack, Values, str], int | None]] = {
    "accounts": show_accounts,
    "backup": make_backup,
    "bench": bench,
    "cli": cli,
    "device": let_device_in,
    "doctor": doctor,
    "down": down,
    "images": images,
    "invariants": show_invariants,
    "kill": kill,
    "logs": logs,
    "mail": mail,
    "migrate": migrate,
    "prepare": prepare,
    "psql": psql,
    "reset": reset,
    "restart": restart,
    "restore": restore,
    "roll": roll_service,
    "seed": seed,
    "start": start,
    "status": show_status,
    "stop": stop,
    "token": token,
    "trace": show_trace,
    "up": up,
    "watch": watch,
}
