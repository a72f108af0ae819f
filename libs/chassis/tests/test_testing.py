import os
import shutil

import pytest
from sqlalchemy import text

from flagon_chassis import testing


class TestServers:
    def test_that_are_installed_come_first(self, monkeypatch):
        monkeypatch.delenv("FLAGON_TEST_SERVERS", raising=False)

        assert testing._containers() is False
        monkeypatch.setattr(shutil, "which", lambda _name: None)
        assert testing._containers() is True

    @pytest.mark.parametrize(
        ("said", "meant"), [("local", False), ("containers", True)]
    )
    def test_can_be_demanded(self, monkeypatch, said, meant):
        monkeypatch.setenv("FLAGON_TEST_SERVERS", said)

        assert testing._containers() is meant

    def test_are_not_run_by_root(self, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        assert testing._unprivileged() in {"postgres", "nobody"}
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert testing._unprivileged() is None
        folder = testing._private_folder(None)
        assert folder.is_dir()
        folder.rmdir()

    def test_that_are_not_installed_end_the_run(self, monkeypatch):
        monkeypatch.setattr(shutil, "which", lambda _name: None)
        monkeypatch.setattr(testing.Path, "glob", lambda *_args: iter(()))

        with pytest.raises(pytest.exit.Exception, match="Redis"):
            next(testing.start_redis())
        with pytest.raises(pytest.exit.Exception, match="Postgres"):
            next(testing.start_postgres())

    def test_waiting_for_one_has_an_end(self):
        with pytest.raises(ZeroDivisionError):
            testing._wait(lambda: 1 / 0, seconds=0.1)

    def test_postgres_is_found_on_the_path_as_well(self, monkeypatch):
        asked = []
        folder = max(testing.Path("/usr/lib/postgresql").glob("*/bin"))
        monkeypatch.setattr(testing.Path, "glob", lambda *_args: iter(()))
        monkeypatch.setattr(
            shutil, "which", lambda name: asked.append(name) or str(folder / name)
        )
        server = testing.start_postgres()

        assert next(server).url.startswith("postgresql://")
        assert asked == ["initdb"]
        server.close()


class TestLacking:
    def test_skips_where_not_everything_was_installed(self, monkeypatch):
        monkeypatch.delenv("FLAGON_LACKING", raising=False)

        with pytest.raises(pytest.skip.Exception, match="Chromium is not installed"):
            testing.lacking("Chromium", "BROWSER=1 make setup")

    def test_fails_where_it_was(self, monkeypatch):
        monkeypatch.setenv("FLAGON_LACKING", "fail")

        with pytest.raises(pytest.fail.Exception, match="BROWSER=1 make setup"):
            testing.lacking("Chromium", "BROWSER=1 make setup")


class TestSession:
    def test_leaves_nothing_behind(self, sessions):
        with sessions.begin() as session:
            session.execute(text("create table left_behind (id int)"))
        with sessions.begin() as session:
            session.execute(text("select * from left_behind"))

    def test_is_ready_to_use(self, session):
        assert session.scalar(text("select 1")) == 1
