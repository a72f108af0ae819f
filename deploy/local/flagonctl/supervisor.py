"""The supervisor of local mode: its configuration, and talking to it."""

import json
import os
import subprocess
import sys
import time
import xmlrpc.client
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, cast

from . import launch
from .files import write
from .problem import Problem
from .processes import BY_NAME
from .reach import Runner
from .stack import Stack

Specification = dict[str, Any]

_GONE = 10  # fault codes of supervisor: BAD_NAME
_NOT_RUNNING = 70
_ALREADY_STARTED = 60


@dataclass(frozen=True)
class State:
    """What the supervisor says about one process."""

    name: str
    state: str
    """RUNNING, STARTING, BACKOFF, STOPPED, EXITED, FATAL…"""
    pid: int
    """0 when it does not run."""
    since: float
    """Unix time of the last start."""


def write_configuration(
    stack: Stack, password: str, specifications: dict[str, Specification]
) -> Path:
    """Write the supervisor's configuration and return its path."""
    for name, specification in specifications.items():
        write_specification(stack, name, specification)
    launcher = Path(launch.__file__)
    sections = [
        _section(
            "inet_http_server",
            # Loopback only. A socket file would fail below deep folders (107 characters).
            port=f"127.0.0.1:{stack.supervisor_port}",
            username="flagon",
            password=password,
        ),
        _section(
            "supervisord",
            logfile=stack.logs / "supervisor.log",
            logfile_maxbytes="2MB",
            logfile_backups=1,
            pidfile=stack.state / "supervisor.pid",
            childlogdir=stack.logs,
            directory=stack.state,
            umask="077",
            minfds=1024,
        ),
        _section(
            "rpcinterface:supervisor",
            **{
                "supervisor.rpcinterface_factory": (
                    "supervisor.rpcinterface:make_main_rpcinterface"
                )
            },
        ),
    ]
    for name in specifications:
        specification_path = stack.config / "programs" / f"{name}.json"
        sections.append(
            _section(
                f"program:{name}",
                command=f'"{sys.executable}" -I -S "{launcher}" "{specification_path}"',
                # Who starts when is decided by `up`; the supervisor keeps things running.
                autostart="false",
                autorestart="true",
                startsecs=1,
                # The pause grows by a second each time: about ten minutes in all.
                startretries=35,
                stopsignal="TERM",
                stopwaitsecs=20,
                killasgroup="true",
                redirect_stderr="true",
                stdout_logfile=stack.logs / f"{name}.log",
                stdout_logfile_maxbytes="20MB",
                stdout_logfile_backups=2,
            )
        )
    return write(stack.config / "supervisor.conf", "\n".join(sections))


def write_specification(stack: Stack, name: str, specification: Specification) -> Path:
    """Write what counts at the next start of a process, and return the file."""
    text = json.dumps(specification, indent=1)
    return write(stack.config / "programs" / f"{name}.json", text)


def _section(name: str, **values: object) -> str:
    # The supervisor expands %(…)s everywhere.
    lines = [f"{key} = {value}".replace("%", "%%") for key, value in values.items()]
    return "\n".join([f"[{name}]", *lines, ""])


class Supervisor:
    """The running supervisor of a stack, or the lack of one."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    @property
    def pid(self) -> int | None:
        """Its process id; None when it does not run, whatever the pid file says."""
        try:
            pid = int((self.stack.state / "supervisor.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return None
        # The kernel uses ids again: an old file may name a stranger.
        return pid if os.fsencode(self.stack.config) in command else None

    def start(self, who: Runner) -> None:
        """Start it as a daemon of the given user."""
        # A file from before a crash would name a process that is not ours.
        (self.stack.state / "supervisor.pid").unlink(missing_ok=True)
        done = subprocess.run(
            [
                sys.executable,
                # No module comes from the folder of the state.
                "-P",
                "-m",
                "flagonctl.nursery",
                "--configuration",
                str(self.stack.config / "supervisor.conf"),
            ],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.stack.state,
            env={
                "PATH": "/usr/bin:/bin",
                "LANG": "C.UTF-8",
                "TZ": "UTC",
                "PYTHONPATH": str(Path(__file__).parents[1]),
                # Read at the start of an interpreter: it counts for what is forked, too.
                "MALLOC_ARENA_MAX": "1",
            },
            **who.options,
        )
        if done.returncode != 0:
            message = f"The supervisor did not start: {done.stderr or done.stdout}"
            raise Problem(message.strip(), "make doctor")
        deadline = time.monotonic() + 10
        while not self.answers():
            if time.monotonic() > deadline:
                log = self.stack.logs / "supervisor.log"
                message = f"The supervisor does not answer; its log is {log}."
                raise Problem(message, "make doctor")
            time.sleep(0.05)

    def answers(self) -> bool:
        """Say whether it runs and can be talked to."""
        try:
            with self._server() as server:
                server.supervisor.getState()
        except (OSError, HTTPException, xmlrpc.client.Error, Problem):
            return False
        return True

    def states(self) -> dict[str, State]:
        """Return what it says about each process; empty when it does not run."""
        if self.pid is None:
            return {}
        with self._server() as server:
            infos = cast("list[dict[str, Any]]", server.supervisor.getAllProcessInfo())
        return {
            info["name"]: State(
                info["name"], info["statename"], info["pid"], float(info["start"])
            )
            for info in infos
        }

    def start_process(self, name: str) -> None:
        """Start one process without waiting for it; nothing happens when it runs."""
        self._call("startProcess", name, False, allowed=_ALREADY_STARTED)

    def stop_process(self, name: str) -> None:
        """Stop one process and wait until it is gone."""
        self._call("stopProcess", name, True, allowed=_NOT_RUNNING)

    def shut_down(self) -> None:
        """Stop every process, services before what they need, then the supervisor."""
        # All of a kind at once: each may take its grace time.
        last = {"redis", "postgres"}
        known = self.states()
        for late in (False, True):
            names = [name for name in known if (BY_NAME[name].kind in last) is late]
            for name in names:
                self._call("stopProcess", name, False, allowed=_NOT_RUNNING)
            while any(
                state.state not in {"STOPPED", "EXITED", "FATAL"}
                for state in self.states().values()
                if state.name in names
            ):
                time.sleep(0.1)
        with self._server() as server:
            server.supervisor.shutdown()
        deadline = time.monotonic() + 30
        while self.pid is not None:
            if time.monotonic() > deadline:
                raise Problem("The supervisor does not end.", f"kill -9 {self.pid}")
            time.sleep(0.05)

    def _call(self, method: str, *arguments: object, allowed: int) -> None:
        try:
            with self._server() as server:
                getattr(server.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == _GONE:
                return
            if fault.faultCode != allowed:
                message = f"The supervisor refused: {fault.faultString}"
                raise Problem(message, "make doctor") from fault

    def _server(self) -> Any:  # noqa: ANN401 (methods are made up at run time)
        password = (self.stack.secrets / "supervisor_password").read_text().strip()
        return xmlrpc.client.ServerProxy(
            f"http://flagon:{password}@127.0.0.1:{self.stack.supervisor_port}/RPC2"
        )
