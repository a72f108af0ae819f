"""How a process starts: gunicorn for the services, a small HTTP port for the others."""

import gc
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import plain, shared
from .settings import ServiceSettings

if TYPE_CHECKING:
    from flask import Flask


def share_metrics(folder: Path | None) -> None:
    """Let several processes add up their metrics in files below `folder`.

    Must come before anything imports `prometheus_client`, which decides at import. The
    folder is emptied: files of an earlier run would be counted again.
    """
    if folder is None:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)  # noqa: TID251 (the library reads it there)


def serve(
    settings: ServiceSettings,
    app: str,
    *,
    worker_class: str = "gthread",
    preload: bool = True,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Serve a WSGI app with gunicorn until SIGTERM.

    On SIGTERM `/readyz` fails first, for `drain_seconds`; then the listener closes and
    requests in flight have `grace_seconds` to finish.

    :param app: where the app is made, `package.module:factory()`.
    :param preload: load the app before forking the workers, which shares its memory;
        never with gevent, whose patch must come first.
    :param options: further gunicorn settings.
    """
    shared.share()
    share_metrics(settings.metrics_dir)
    from gunicorn.app.base import BaseApplication  # noqa: PLC0415 (after share_metrics)
    from gunicorn.arbiter import Arbiter  # noqa: PLC0415
    from gunicorn.util import import_app  # noqa: PLC0415

    from . import health  # noqa: PLC0415 (imports the metrics library)

    class Server(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            for name, value in _gunicorn(settings, worker_class, preload).items():
                self.cfg.set(name, value)
            for name, value in (options or {}).items():
                self.cfg.set(name, value)

        def load(self) -> Any:  # noqa: ANN401 (a WSGI callable)
            loaded = import_app(app)
            if self.cfg.preload_app:
                warm_up(loaded)
            return loaded

    class DrainingArbiter(Arbiter):  # type: ignore[misc]
        def handle_term(self) -> None:
            # The workers go on serving while load balancers see the failing readiness.
            health.drain()
            time.sleep(settings.drain_seconds)
            super().handle_term()

    health.reset()
    DrainingArbiter(Server()).run()


def _gunicorn(
    settings: ServiceSettings, worker_class: str, preload: bool
) -> dict[str, Any]:
    return {
        "bind": settings.bind.split(","),
        "worker_class": worker_class,
        "workers": settings.workers,
        "threads": settings.threads,
        "preload_app": preload,
        "timeout": 30,
        "graceful_timeout": round(settings.grace_seconds),
        "keepalive": 75,
        # The gateway takes addresses and headers of 16 KiB, and what is longer it refuses
        # in our words; gunicorn's own refusal would be a page of HTML.
        "limit_request_line": 0,
        "limit_request_field_size": 0,
        # The heartbeat file must not wait for a disk.
        "worker_tmp_dir": "/dev/shm" if Path("/dev/shm").is_dir() else None,  # noqa: S108
        # Its default path is one for all services of a user, below a home that a
        # read-only container does not have.
        "control_socket_disable": True,
        # The access line is written by `logs`, with the request id and the trace.
        "accesslog": None,
        "loglevel": "warning",
        "pre_fork": lambda _arbiter, _worker: share_memory(),
        "child_exit": _forget_metrics,
        "pre_request": _let_go,
    }


def _let_go(_worker: object, request: Any) -> None:  # noqa: ANN401 (gunicorn's)
    """Keep no connection of a server that drains: its next request goes elsewhere."""
    from . import health  # noqa: PLC0415 (after share_metrics)

    if health.draining():
        request.force_close()


def warm_up(app: "Flask") -> None:
    """Do before forking what each process would do for itself at its first use.

    What that loads and compiles is then shared. No connection stays open: a connection
    belongs to one process.
    """
    from . import health  # noqa: PLC0415 (after share_metrics)

    orm = sys.modules.get("sqlalchemy.orm")
    if orm is not None:
        orm.configure_mappers()
    health.report(app.extensions.get("flagon.checks", {}))
    keys = app.extensions.get("flagon.keys")
    if keys is not None:
        keys.warm()
    sessions = app.extensions.get("flagon.sessions")
    if sessions is not None:
        sessions.kw["bind"].dispose()


def share_memory() -> None:
    """Keep what this process holds in common with those that it is about to fork."""
    gc.collect()
    # What is left would be written to at each later collection, and so copied.
    gc.freeze()


def _forget_metrics(_arbiter: object, worker: Any) -> None:  # noqa: ANN401
    forget_metrics(worker.pid)


def forget_metrics(pid: int) -> None:
    """Forget what a process that is gone showed of itself; what it counted stays."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # noqa: TID251
        from prometheus_client import multiprocess  # noqa: PLC0415

        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def sidecar(bind: str, checks: Mapping[str, Any] | None = None) -> ThreadingHTTPServer:
    """Serve `/livez`, `/readyz` and `/metrics` of a process that is no web service.

    Runs in a daemon thread; `server_close()` ends it.

    :param bind: address and port.
    :param checks: by name, a probe that raises when its dependency is down.
    """
    from . import health, metrics  # noqa: PLC0415 (after share_metrics)

    probes = {name: (probe, True) for name, probe in (checks or {}).items()}

    class Handler(plain.Handler):
        def do_GET(self) -> None:  # noqa: N802 (the library's name)
            if self.path == "/livez":
                self.answer(200, {"status": "alive", "pid": os.getpid()})
            elif self.path == "/readyz":
                found = health.report(probes)
                body = {"status": found.status, "checks": found.checks}
                self.answer(200 if found.ready else 503, body)
            elif self.path == "/metrics":
                self.send(200, metrics.CONTENT_TYPE, metrics.exposition())
            else:
                self.answer(404, {"status": "not found"})

    host, port = bind.rsplit(":", 1)
    server = ThreadingHTTPServer((host, int(port)), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="sidecar", daemon=True).start()
    return server
