"""How a process starts: a WSGI server for the services, a small HTTP port for the others."""

import gc
import os
import shutil
import sys
import threading
from collections.abc import Mapping
from http.server import ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import plain, shared
from .settings import ServiceSettings

if TYPE_CHECKING:
    from flask import Flask

    from .wsgi import Started


def share_metrics(folder: Path | None) -> None:
    """Let several processes add up their metrics in files below `folder`.

    Must come before anything imports `prometheus_client`, which decides at import. The
    folder is emptied: files of an earlier run would be counted again.
    """
    if folder is None:
        return
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)  # noqa: TID251 (the library reads it there)


def serve(
    settings: ServiceSettings,
    app: str,
    *,
    started: "Started | None" = None,
    preload: bool = True,
    gunicorn: Mapping[str, Any] | None = None,
) -> None:
    """Serve a WSGI app with the server that the settings name, until SIGTERM.

    On SIGTERM `/readyz` fails first, for `drain_seconds`; then the listener closes and
    requests in flight have `grace_seconds` to finish.

    :param app: where the app is made, `package.module:factory()`.
    :param started: called with the app in each worker process, before it serves.
    :param preload: load the app before forking the workers, which shares its memory; False
        where what it loads does not survive a fork.
    :param gunicorn: settings of gunicorn without which the service cannot run: it stays
        with gunicorn then, whatever is chosen, and logs that it does.
    """
    shared.share()
    share_metrics(settings.metrics_dir)
    from . import health, wsgi  # noqa: PLC0415 (after share_metrics)

    health.reset()
    if settings.server == "waitress" and gunicorn is None:
        wsgi.waitress(settings, app, started, preload=preload)
    elif settings.server == "uwsgi" and gunicorn is None:
        wsgi.uwsgi(settings, app, started, preload=preload)
    else:
        options = {"preload_app": preload, **(gunicorn or {})}
        wsgi.gunicorn(settings, app, started, options)


def make_app(app: str) -> Any:  # noqa: ANN401 (a Flask app, or what has its extensions)
    """Return what a factory makes.

    :param app: `package.module:factory()`.
    """
    module, _, factory = app.partition(":")
    return getattr(import_module(module), factory.removesuffix("()"))()


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


def forget_metrics(pid: int) -> None:
    """Forget what a process that is gone showed of itself; what it counted stays."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # noqa: TID251 (as in `share_metrics`)
        from prometheus_client import multiprocess  # noqa: PLC0415

        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def forget_lost_metrics() -> None:
    """Forget what processes showed of themselves that ended without a word.

    Who was killed, or ran out of memory, could not say so. Comes after the dead were waited
    for and before another process starts, which could get the number of one of them.
    """
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")  # noqa: TID251 (as in `share_metrics`)
    for path in Path(folder).glob("gauge_live*.db") if folder else ():
        pid = int(path.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        # The number may be somebody else's by now.
        except (ProcessLookupError, PermissionError):
            forget_metrics(pid)


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
