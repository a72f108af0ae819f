"""The archive, the purge, the command line and the settings."""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import pytest
from alembic import command
from flask import Flask
from pydantic import ValidationError
from sqlalchemy import func, select, update
from uuid_utils.compat import uuid7

import flagon_worker.__main__ as commands
from flagon_chassis import consumer, db, metrics, queue, relay, server, streams, tables
from flagon_worker import app as apps
from flagon_worker import tasks
from flagon_worker.domain import archive
from flagon_worker.models import ArchivedEvent, Base, Job
from flagon_worker.settings import Settings


def event(subject="p1", type_="market.flagon.product.changed.v1"):
    return {
        "specversion": "1.0",
        "id": str(uuid7()),
        "source": "/services/catalog",
        "type": type_,
        "subject": subject,
        "time": "2026-01-02T03:04:05.678Z",
        "data": {"name": "Käse"},
    }


class TestArchive:
    def test_keeps_an_event_once(self, begin):
        first, other = event(), event("p2")
        with begin() as session:
            archive.archive_events(session, [first])
        with begin() as session:
            archive.archive_events(session, [first, other])
            archive.archive_events(session, [])

            found = archive.list_events(session, limit=10)
        assert [entry.event for entry in found] == [first, other]

    def test_is_printed_by_subject_and_type(self, app, begin):
        mine = [event("x"), event("x"), event("x", "market.flagon.other.v1")]
        with begin() as session:
            archive.archive_events(session, [*mine, event("y")])
        run = app.test_cli_runner()

        by_subject = run.invoke(args=["events", "list", "--subject", "x"])
        by_type = run.invoke(args=["events", "list", "--type", mine[0]["type"]])
        newest = run.invoke(args=["events", "list", "--subject", "x", "--limit", "1"])

        assert [json.loads(line) for line in by_subject.output.splitlines()] == mine
        assert len(by_type.output.splitlines()) == 3
        assert json.loads(newest.output) == mine[-1]


class TestDeadEvents:
    def test_are_printed_with_their_errors(self, app, redis_url):
        with streams.connect(redis_url) as store:
            store.xadd(streams.DEAD, {"type": "t", "error": "ValueError: no"})

        said = app.test_cli_runner().invoke(args=["events", "dead"])

        assert json.loads(said.output) == {"type": "t", "error": "ValueError: no"}


class TestPurge:
    def test_forgets_what_is_old(self, app, begin, submit, run, settings):
        old, new = submit().json["id"], submit().json["id"]
        long_ago = datetime.now(UTC) - timedelta(days=31)
        run(old)
        run(new)
        with begin() as session:
            archive.archive_events(session, [event("old")])
            session.execute(update(ArchivedEvent).values(received_at=long_ago))
            archive.archive_events(session, [event("new")])
            session.execute(
                update(Job).where(Job.id == UUID(old)).values(finished_at=long_ago)
            )

        tasks.purge.apply().get()

        with begin() as session:
            assert session.scalars(select(ArchivedEvent.subject)).all() == ["new"]
            assert session.scalars(select(Job.id)).all() == [UUID(new)]
        assert not (settings.files_dir / old).exists()
        assert (settings.files_dir / new).exists()

    def test_removes_orphans_of_crashed_requests(self, app, submit, settings):
        kept = settings.files_dir / submit().json["id"]
        folder = settings.files_dir / str(uuid7())
        young = settings.files_dir / str(uuid7())
        spool = settings.files_dir / "incoming" / "abc"
        stray = settings.files_dir / str(uuid7())
        for path in (folder, young):
            path.mkdir()
        for path in (spool, stray):
            path.touch()
        past = time.time() - 7200
        for path in (kept, folder, spool, stray):
            os.utime(path, (past, past))

        tasks.purge.apply().get()

        assert kept.exists()
        assert young.exists()
        assert not folder.exists()
        assert not spool.exists()
        assert not stray.exists()


class TestMigrations:
    def test_add_up_to_the_models(self, migrated):

        command.check(
            db.config(
                migrated,
                commands._MIGRATIONS,
                Base.metadata,
                tables.METADATA,
            )
        )

    def test_can_be_taken_back_and_repeated(self, make_database):

        url = make_database()
        settings = Settings(
            secret_key="s" * 32,
            database_url=url,
            owner_database_url=url,
            files_dir="/tmp/none",
        )

        commands._migrate(settings, None)
        command.downgrade(db.config(url, commands._MIGRATIONS), "base")
        assert commands._migrate(settings, None) == 0


class TestCommands:
    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch, tmp_path):
        monkeypatch.setenv("WORKER_SECRET_KEY", "s" * 32)
        monkeypatch.setenv("WORKER_DATABASE_URL", "postgresql+psycopg://x/y")
        monkeypatch.setenv("WORKER_FILES_DIR", str(tmp_path))

    @pytest.fixture
    def called(self, monkeypatch):
        found = []

        def fake(name):
            def call(*given, **named):
                found.append((name, given[1:], named))
                return 0

            return call

        for module, name in (
            (server, "serve"),
            (relay, "run"),
            (queue, "run_beat"),
            (queue, "run_worker"),
            (consumer, "run"),
        ):
            monkeypatch.setattr(module, name, fake(f"{module.__name__}.{name}"))
        return found

    @pytest.mark.parametrize("name", ["serve", "relay", "beat", "consumer"])
    def test_start_a_process(self, called, name):
        assert commands.main([name]) == 0

        assert len(called) == 1

    def test_the_consumer_archives(self, called, begin):
        commands.main(["consumer"])
        handle = called[0][1][-1]

        with begin() as session:
            taken = event(type_="market.flagon.tag.changed.v1")
            handle(session, [SimpleNamespace(envelope=taken)])
            count = session.scalar(select(func.count()).select_from(ArchivedEvent))
        assert count == 1

    @pytest.mark.parametrize(
        ("more", "concurrency"), [([], 2), (["--concurrency", "7"], 7)]
    )
    def test_celery_takes_queues(self, called, more, concurrency):
        commands.main(["celery", "--queues", "bulk,maintenance", *more])

        _, _, named = called[0]
        assert named == {
            "queues": ["bulk", "maintenance"],
            "concurrency": concurrency,
            "tasks_per_process": 5000,
        }

    def test_celery_keeps_the_metrics_folder_it_is_given(self, monkeypatch, tmp_path):
        seen = []
        monkeypatch.setenv("WORKER_METRICS_DIR", str(tmp_path))
        monkeypatch.setattr(
            queue, "run_worker", lambda found, *_, **__: seen.append(found)
        )

        commands.main(["celery", "--queues", "bulk"])

        assert seen[0].metrics_dir == tmp_path

    def test_beat_knows_the_schedule(self):
        clock = commands.create_clock()

        celery = clock.extensions["celery"]
        assert set(celery.conf.beat_schedule) == {"reap", "purge", "webhooks"}

    @pytest.mark.parametrize("arguments", [[], ["celery"], ["dance"]])
    def test_say_how_they_are_used(self, arguments, capsys):
        with pytest.raises(SystemExit):
            commands.main(arguments)

        assert "usage: python -m flagon_worker" in capsys.readouterr().err


class TestCreateTasks:
    def test_has_no_api(self, settings):
        app = apps.create_tasks(settings.model_copy(update={"release": "1.2.3"}))

        assert type(app) is Flask
        assert not [rule for rule in app.url_map.iter_rules() if "/api/" in rule.rule]
        assert "worker.run_job" in app.extensions["celery"].tasks
        said = 'flagon_build_info{release="1.2.3",service="worker"} 1.0'
        assert said in metrics.exposition().decode()
        app.extensions["flagon.sessions"].kw["bind"].dispose()


class TestSettings:
    @pytest.mark.parametrize(
        "values",
        [
            {"soft_limit_seconds": 20},
            {"hard_limit_seconds": 120},
            {"slice_seconds": 500},
            {"import_batch_rows": 1001},
            {"import_batch_rows": 0},
        ],
    )
    def test_refuse_what_cannot_work(self, settings, values):
        with pytest.raises(ValidationError):
            Settings(**{**settings.model_dump(), **values})
