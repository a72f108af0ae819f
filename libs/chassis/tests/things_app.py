"""A service as the processes under test load it; set up by environment variables."""

import os
import time

from billiard.exceptions import SoftTimeLimitExceeded
from celery import shared_task
from celery.exceptions import Ignore
from flask import current_app

from flagon_chassis import db, logs, queue, stores, tracing, web
from flagon_chassis.settings import DatabaseSettings


class Settings(DatabaseSettings, env_prefix="THINGS_"):
    """The settings of the service."""


def create_app(settings=None):
    settings = settings or Settings()
    app = web.create_app(__name__, settings, name="things")
    if "nobody@" not in settings.database_url.get_secret_value():
        db.init_app(app, settings)
    celery = queue.init_app(app, settings)
    celery.conf.beat_schedule = {
        "often": {
            "task": "things.note",
            "schedule": 0.2,
            "kwargs": {"key": "beat"},
            "options": {"queue": "maintenance"},
        }
    }
    if os.environ.get("BROKEN_START"):
        queue.on_process_start(app, lambda: 1 / 0)
    return app


def _note(key, value):
    settings = current_app.extensions["flagon.settings"]
    with stores.client(settings.redis_store_url.get_secret_value()) as client:
        client.rpush(f"things:noted:{key}", value)


@shared_task(name="things.note")
def note(*, key):
    """Write down in what surroundings the task runs."""
    traceparent = tracing.current_traceparent() or "none"
    _note(key, f"{current_app.name} {logs.request_id()} {traceparent} {os.getpid()}")


@shared_task(name="things.hold")
def hold(*, key, seconds):
    """Take a while."""
    from flagon_chassis import metrics

    metrics.gauge("things_held", "Tasks that take a while.", "child").labels(
        os.getpid()
    ).set(1)
    _note(key, f"begun {os.getpid()}")
    time.sleep(seconds)
    _note(key, "ended")


@shared_task(name="things.deaf")
def deaf(*, key):
    """Take long, whatever is asked of it."""
    _note(key, "begun")
    while True:
        try:
            time.sleep(30)
        except SoftTimeLimitExceeded:
            continue


@shared_task(name="things.again", bind=True, max_retries=3)
def again(self, *, key):
    """Fail at first, and succeed when tried again."""
    _note(key, f"{logs.request_id()} {self.request.retries}")
    if self.request.retries < 1:
        raise self.retry(countdown=0)


@shared_task(name="things.never", bind=True, max_retries=1)
def never(self, *, key):
    """Fail as often as may be."""
    _note(key, str(self.request.retries))
    raise self.retry(countdown=0)


@shared_task(name="things.fail")
def fail():
    """Fail."""
    raise ValueError("on purpose")


@shared_task(name="things.ignore")
def ignore():
    """Give up quietly."""
    raise Ignore
