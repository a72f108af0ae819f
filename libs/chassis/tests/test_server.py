import os
import re
import signal
import sys
import threading
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace

import pytest
from flask import Flask
from sqlalchemy import event

from flagon_chassis import db, health, server
from flagon_chassis.keyring import KeyRing
from flagon_chassis.testing import free_port

from .conftest import eventually


class TestShareMetrics:
    def test_empties_the_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "old")
        folder = tmp_path / "metrics"
        folder.mkdir()
        (folder / "counter_1.db").write_text("of an earlier run")

        server.share_metrics(folder)

        assert list(folder.iterdir()) == []
        assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(folder)

    def test_does_nothing_for_a_single_process(self, monkeypatch):
        monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)

        server.share_metrics(None)

        assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ


class TestForgetMetrics:
    def test_removes_the_live_gauges_of_a_dead_worker(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
        (tmp_path / "gauge_livesum_7.db").touch()
        (tmp_path / "counter_7.db").touch()

        server._forget_metrics(None, SimpleNamespace(pid=7))

        assert [path.name for path in tmp_path.iterdir()] == ["counter_7.db"]

    def test_does_nothing_for_a_single_process(self, monkeypatch):
        monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)

        server._forget_metrics(None, SimpleNamespace(pid=7))


class TestWarmUp:
    def test_fetches_the_keys_of_tokens(self):
        app = Flask("things")
        asked = []
        app.extensions["flagon.keys"] = KeyRing(lambda: asked.append(1) or {})

        server.warm_up(app)

        assert asked == [1]

    def test_leaves_no_connection_open(self, settings):
        app = Flask("things")
        db.init_app(app, settings)
        pool = app.extensions["flagon.sessions"].kw["bind"].pool
        opened = []
        event.listen(pool, "connect", lambda *_: opened.append(1))

        server.warm_up(app)

        assert opened == [1]
        assert pool.checkedin() == 0

    def test_a_dependency_that_is_down_delays_the_start_at_most(self):
        app = Flask("things")

        def probe():
            raise ConnectionError

        health.check(app, "redis", probe)

        server.warm_up(app)

    def test_needs_no_database(self, monkeypatch):
        monkeypatch.delitem(sys.modules, "sqlalchemy.orm")

        server.warm_up(Flask("things"))


class TestSidecar:
    @pytest.fixture
    def ask(self):
        broken = []

        def probe():
            if broken:
                raise ConnectionError

        bind = f"127.0.0.1:{free_port()}"
        running = server.sidecar(bind, {"postgres": probe})

        def ask(path):
            connection = HTTPConnection(*bind.split(":"), timeout=5)
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode()
            connection.close()
            return response.status, body

        ask.broken = broken
        yield ask
        running.shutdown()
        running.server_close()

    def test_serves_health_and_metrics(self, ask):
        assert ask("/livez")[0] == 200
        assert ask("/readyz")[0] == 200
        assert ask("/metrics")[0] == 200
        assert ask("/else")[0] == 404

    def test_is_not_ready_without_a_dependency(self, ask):
        ask.broken.append(1)

        status, body = ask("/readyz")

        assert status == 503
        assert "ConnectionError" in body
        assert ask("/livez")[0] == 200

    def test_needs_no_dependencies(self):
        running = server.sidecar(f"127.0.0.1:{free_port()}")
        running.shutdown()
        running.server_close()


class TestBind:
    def test_may_be_several_addresses_and_sockets(self, make_settings):
        settings = make_settings(bind="127.0.0.1:8000,fd://3")

        found = server._gunicorn(settings, "gthread", True)

        assert found["bind"] == ["127.0.0.1:8000", "fd://3"]


class TestLetGo:
    def test_keeps_no_connection_while_it_drains(self, make_settings):
        let_go = server._gunicorn(make_settings(), "gthread", True)["pre_request"]
        closed = []
        request = SimpleNamespace(force_close=lambda: closed.append(1))

        let_go(None, request)
        assert closed == []
        health.drain()
        try:
            let_go(None, request)
        finally:
            health.reset()

        assert closed == [1]


class TestServe:
    @pytest.fixture
    def gunicorn(self, make_settings, service_process, tmp_path):
        def start(**options):
            settings = make_settings(
                metrics_dir=str(tmp_path / "metrics"),
                grace_seconds=5,
                drain_seconds=0.5,
            )
            return service_process(
                "from flagon_chassis import server;"
                "server.serve(settings, 'slow_app:create_app()', **"
                f"{options!r})",
                settings,
                PYTHONPATH=str(Path(__file__).parent),
            )

        return start

    @pytest.mark.parametrize(
        "options", [{}, {"preload": False, "options": {"workers": 1}}]
    )
    def test_drains_at_sigterm(self, gunicorn, options):
        process = gunicorn(**options)
        workers = 1 if options else 2
        found = eventually(
            lambda: (
                (pids := {process.get("/pid")[1] for _ in range(20)}),
                pids if len(pids) == workers else None,
            )[1]
        )
        assert len(found) == workers
        slow = []
        thread = threading.Thread(target=lambda: slow.append(process.get("/slow")))
        thread.start()
        eventually(lambda: "slow_begun" in process.output())

        process.process.send_signal(signal.SIGTERM)

        # Readiness fails while requests are still taken; those in flight finish.
        _, body = eventually(
            lambda: found if (found := process.get("/readyz"))[0] == 503 else None
        )
        assert '"draining"' in body
        assert process.get("/pid")[0] == 200
        thread.join(10)
        assert slow == [(200, "done")]
        assert process.process.wait(15) == 0

    def test_adds_the_metrics_of_all_workers_up(self, gunicorn):
        process = gunicorn()
        for _ in range(20):
            process.get("/pid")

        shown = process.get("/metrics")[1]

        total = re.search(
            r'flask_http_request_total\{.*service="slow".*status="200".*\} (\d+)', shown
        )
        assert total, shown
        assert int(total[1]) == 20
