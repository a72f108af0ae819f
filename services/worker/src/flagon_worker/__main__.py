"""How a worker process starts: `python -m flagon_worker <command>`."""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .domain import schedule
from .settings import EVENTS, SOURCE, Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from flagon_chassis import streams

_API = "flagon_worker.app:create_app()"
_TASKS = "flagon_worker.app:create_tasks()"
_CLOCK = "flagon_worker.__main__:create_clock()"
_MIGRATIONS = Path(__file__).parent / "migrations"


def main(arguments: list[str] | None = None) -> int:
    """Run one command until it ends and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m flagon_worker")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help_ in (
        ("serve", "the jobs API"),
        ("relay", "sends what the outbox holds"),
        ("migrate", "brings the database to the newest revision"),
        ("beat", "sends what is due"),
        ("consumer", "archives the platform's events, writes webhooks, follows prices"),
    ):
        commands.add_parser(name, help=help_)
    celery = commands.add_parser("celery", help="runs tasks")
    celery.add_argument("--queues", required=True, help="separated by commas")
    celery.add_argument("--concurrency", type=int, help="tasks at a time")
    commands.add_parser("rq", help="runs the tasks of `mail`, where RQ has them")
    chosen = parser.parse_args(arguments)
    # Each process imports what it needs and no more: memory counts.
    return {
        "serve": _serve,
        "relay": _relay,
        "migrate": _migrate,
        "beat": _beat,
        "consumer": _consume,
        "celery": _celery,
        "rq": _rq,
    }[chosen.command](Settings(), chosen)


def _serve(settings: Settings, _chosen: argparse.Namespace) -> int:
    from flagon_chassis import server  # noqa: PLC0415 (only this command needs it)

    server.serve(settings, _API)
    return 0


def _relay(settings: Settings, _chosen: argparse.Namespace) -> int:
    from flagon_chassis import relay  # noqa: PLC0415 (only this command needs it)

    relay.run(settings, "worker", errands=("worker.tell_price",))
    return 0


def _migrate(settings: Settings, _chosen: argparse.Namespace) -> int:
    from flagon_chassis import db  # noqa: PLC0415 (only this command needs it)

    db.migrate(settings, _MIGRATIONS)
    return 0


def _beat(settings: Settings, _chosen: argparse.Namespace) -> int:
    from flagon_chassis import queue  # noqa: PLC0415 (only this command needs it)

    queue.run_beat(settings, _CLOCK)
    return 0


class Clock:
    """What beat needs of an app: a Celery app, and where the schedules are.

    A Flask app with its database would take twice the memory and do nothing here.
    """

    def __init__(self, settings: Settings) -> None:
        from flagon_chassis import logs, metrics, queue  # noqa: PLC0415 (only this command needs it)

        from . import beat  # noqa: PLC0415 (only this command needs it)

        logs.configure("worker", settings.log_level)
        metrics.say_build(settings, "worker")
        celery = queue.publisher(settings, "worker")
        celery.conf.beat_schedule = schedule.entries(settings.reap_seconds)
        clock = beat.Clock(
            settings.database_url.get_secret_value(), celery.conf.beat_schedule
        )
        self.extensions = {
            "celery": celery,
            "flagon.scheduler": partial(beat.DatabaseScheduler, clock=clock),
            "flagon.checks": {"postgres": (clock.probe, True)},
        }


def create_clock() -> Clock:
    """Return what beat runs."""
    return Clock(Settings())


def _consume(settings: Settings, _chosen: argparse.Namespace) -> int:
    from flask import Flask  # noqa: PLC0415 (in no other process' memory)

    from flagon_chassis import consumer, events  # noqa: PLC0415 (in no other process' memory)

    from .domain import archive, profiles, watches, webhooks  # noqa: PLC0415 (in no other process' memory)

    # As little of an app as events need: that a price fell is told.
    app = Flask(__package__)
    events.init_app(app, SOURCE, EVENTS)

    def take(session: "Session", taken: "Sequence[streams.Event]") -> None:
        # One group and one inbox for all effects: no second process, and no second
        # reading of the stream.
        envelopes = [event.envelope for event in taken]
        archive.archive_events(session, envelopes)
        webhooks.take_events(session, envelopes)
        profiles.take_events(session, envelopes)
        with app.app_context():
            watches.take_events(session, envelopes)

    consumer.run(settings, "worker", "worker-archive", take)
    return 0


def _celery(settings: Settings, chosen: argparse.Namespace) -> int:
    from flagon_chassis import queue  # noqa: PLC0415 (only this command needs it)

    if settings.metrics_dir is None:
        # The children count, this process is asked: without files nothing would show.
        folder = Path(tempfile.mkdtemp(prefix="flagon-metrics-"))
        settings = settings.model_copy(update={"metrics_dir": folder})
    return queue.run_worker(
        settings,
        _TASKS,
        queues=chosen.queues.split(","),
        concurrency=chosen.concurrency or settings.concurrency,
        tasks_per_process=settings.tasks_per_process,
    )


def _rq(settings: Settings, _chosen: argparse.Namespace) -> int:
    from flagon_chassis.redis_queue import RedisQueue  # noqa: PLC0415 (only this command needs it)

    source = RedisQueue(settings.redis_store_url.get_secret_value(), "worker", "mail")

    from flagon_chassis import redis_worker  # noqa: PLC0415 (after the prefix is known)

    return redis_worker.run(
        settings, _TASKS, source, hard_seconds=settings.hard_limit_seconds
    )


if __name__ == "__main__":
    raise SystemExit(main())
