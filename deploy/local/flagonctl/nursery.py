"""The supervisor of local mode, with the libraries in memory that its processes use.

Each Python process is a fork of it instead of an interpreter of its own. What they have
in common, about 50 MB, is there once instead of a dozen times, and none of them waits for
imports. Our own code is not part of that: a restarted process has the newest.
"""

import atexit
import gc
import importlib
import io
import json
import os
import runpy
import shlex
import signal
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

from . import launch
from .sockets import Sockets

with warnings.catch_warnings():
    # It uses modules that newer versions of Python lack.
    warnings.simplefilter("ignore")
    from supervisor import supervisord
    from supervisor.options import ProcessConfig, ServerOptions
    from supervisor.process import Subprocess

_SHARED = (
    "apiflask",
    "celery.app.base",
    "celery.apps.worker",
    "celery.concurrency.prefork",
    "flask_jwt_extended",
    "flask_limiter",
    "gunicorn.app.base",
    "gunicorn.arbiter",
    "gunicorn.workers.gthread",
    "http.server",
    "httpx2",
    "kombu.transport.redis",
    "opentelemetry.instrumentation.psycopg",
    "opentelemetry.sdk.trace",
    "psycopg",
    "pydantic_settings",
    "redis",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.orm",
    "structlog",
)
"""What several processes use, but for what looks at its process when it is imported:
`prometheus_client` asks there whether metrics are shared through files."""


class Options(ServerOptions):  # type: ignore[misc]  # supervisor has no types
    """The supervisor's own options; only how a program starts is different."""

    def execve(self, filename: str, argv: list[str], env: dict[str, str]) -> None:
        """Become the program, in the process that was forked for it."""
        specification = Path(argv[-1])
        if json.loads(specification.read_text())["forked"]:
            become(launch.prepare(specification))
        os.execve(filename, argv, env)  # noqa: S606 (no shell wanted)


class Program(Subprocess):  # type: ignore[misc]  # supervisor has no types
    """A process that finds its socket, if it serves, in place of its standard input."""

    sockets = Sockets()

    def spawn(self) -> int | None:
        """Start the process, with the socket of its address ready."""
        specification = Path(shlex.split(self.config.command)[-1])
        address = json.loads(specification.read_text()).get("listen")
        self.socket = self.sockets.take(address, self.config.name) if address else None
        pid: int | None = super().spawn()
        return pid

    def _prepare_child_fds(self) -> None:
        if self.socket is not None:
            self.pipes["child_stdin"] = self.socket
        super()._prepare_child_fds()

    def finish(self, pid: int, sts: int) -> None:
        """Note its end: the socket is closed when nobody is left who serves there."""
        super().finish(pid, sts)
        self.sockets.leave(self.config.name)


def _make_process(self: ProcessConfig, group: object = None) -> Program:
    program = Program(self)
    program.group = group
    return program


def become(wanted: dict[str, Any]) -> NoReturn:
    """Do what `python -m` would do in a new interpreter, in this one, and end."""
    _forget_supervisor()
    os.environ.clear()
    os.environ.update(wanted["env"])
    _python, _option, module, *arguments = wanted["argv"]
    sys.argv = [module, *arguments]
    own = str(Path(__file__).parents[1])
    first = wanted["env"]["PYTHONPATH"].split(os.pathsep)
    sys.path[:] = [*first, *(folder for folder in sys.path if folder != own)]
    # Listings show it instead of the name of the interpreter.
    Path("/proc/self/comm").write_text(wanted["env"]["FLAGON_PROCESS"])
    status = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = _status(end.code)
    # The top of the process: nobody is left to raise to, and below it `_exit` would end
    # the process without a word. What the interpreter would print is printed.
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        # The interpreter's end: what was left to do is of this process alone.
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001
        atexit._run_exitfuncs()  # noqa: SLF001
        os._exit(status)


def _status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code
    print(code, file=sys.stderr)
    return 1


def _forget_supervisor() -> None:
    """Take back what the supervisor set for itself, as `exec` would."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # As a daemon it has other streams than those that it gave to this process.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 (open until the end)
    sys.stdout, sys.stderr = _stream(1), _stream(2)


def _stream(descriptor: int) -> io.TextIOWrapper:
    raw = open(descriptor, "wb", buffering=0, closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(
        raw, encoding="utf-8", errors="backslashreplace", write_through=True
    )


def main() -> None:
    """Load what is shared, then supervise."""
    ProcessConfig.make_process = _make_process
    options = Options()
    options.realize()
    options.first, options.test = True, False
    # The worker's image holds all of these, and none of the tools that some would load.
    hidden = str(Path(options.configfile).parent / "hidden" / "worker")
    sys.path.insert(0, hidden)
    for name in _SHARED:
        importlib.import_module(name)
    sys.path.remove(hidden)
    # What is collected no more stays shared with the processes to come.
    gc.collect()
    gc.freeze()
    supervisord.go(options)


if __name__ == "__main__":
    main()
