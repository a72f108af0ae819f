import os
import subprocess
import sys
from http.client import HTTPConnection

import pytest
from flask import Flask
from sqlalchemy import event

from flagon_chassis import db, health, server
from flagon_chassis.keyring import KeyRing
from flagon_chassis.testing import free_port


class TestShareMetrics:
    def test_empties_the_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "old")
        folder = tmp_path / "metrics"

        for _start in range(2):
            server.share_metrics(folder)

            assert list(folder.iterdir()) == []
            (folder / "counter_1.db").write_text("of an earlier run")

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

        server.forget_metrics(7)

        assert [path.name for path in tmp_path.iterdir()] == ["counter_7.db"]

    def test_does_nothing_for_a_single_process(self, monkeypatch):
        monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)

        server.forget_metrics(7)


class TestForgetLostMetrics:
    def test_removes_the_live_gauges_of_all_that_are_gone(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
        gone = subprocess.Popen(["true"])
        gone.wait()
        for pid in (gone.pid, os.getpid()):
            (tmp_path / f"gauge_livemax_{pid}.db").touch()
            (tmp_path / f"histogram_{pid}.db").touch()

        server.forget_lost_metrics()

        assert {path.name for path in tmp_path.iterdir()} == {
            f"gauge_livemax_{os.getpid()}.db",
            f"histogram_{os.getpid()}.db",
            f"histogram_{gone.pid}.db",
        }

    def test_does_nothing_for_a_single_process(self, monkeypatch):
        monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)

        server.forget_lost_metrics()


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
