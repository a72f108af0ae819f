import os
import shutil
import sys

import httpx2
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


class Echo(testing.Peer):
    def answer(self, method, path, headers, body):
        if path == "/gone":
            return 410, {"title": "Gone"}, {"X-Why": "because"}
        if path == "/nothing":
            return 204, None
        return 200, [method, path, headers["X-Said"], body.decode()]


class TestPeer:
    @pytest.fixture
    def echo(self):
        found = Echo()
        yield found
        found.close()

    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
    def test_answers_what_it_says(self, echo, method):
        url, said = f"{echo.url}/a?b=c", {"X-Said": "d"}

        answer = httpx2.request(method, url, headers=said, content=b"e")

        assert answer.json() == [method, "/a?b=c", "d", "e"]
        assert answer.headers["Content-Type"] == "application/json"

    def test_answers_problems_and_headers(self, echo):
        answer = httpx2.get(f"{echo.url}/gone")

        assert (answer.status_code, answer.json()) == (410, {"title": "Gone"})
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["X-Why"] == "because"

    def test_answers_nothing(self, echo):
        answer = httpx2.get(f"{echo.url}/nothing")

        assert (answer.status_code, answer.content) == (204, b"")

    def test_ends(self, echo):
        echo.close()

        with pytest.raises(httpx2.ConnectError):
            httpx2.get(echo.url)


class TestCalls:
    def test_are_counted_in_the_third_turn_alone(self, calls):
        turns = []

        def run():
            turns.append(1)
            for _ in range(10 if len(turns) == 3 else 1000):
                len(turns)
                str(Counted())

        # The function itself, and __init__ and __str__ ten times.
        assert calls(run) == 21
        assert len(turns) == 3

    def test_of_others_go_on_being_noted(self, calls):
        noted = []

        def note(*what):
            noted.append(what)

        sys.setprofile(note)
        calls(lambda: None)
        after = sys.getprofile()
        sys.setprofile(None)

        assert after is note


class Counted:
    def __init__(self):
        self.made = True

    def __str__(self):
        return "counted"


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
