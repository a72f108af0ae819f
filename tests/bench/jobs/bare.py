"""Celery and nothing else: what a job costs without rows, events and leases."""

import os

import redis
from celery import Celery

app = Celery("bare", broker=os.environ["BARE_BROKER"])
# As the platform's workers, so that the difference is the platform's own work.
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    broker_transport_options={"global_keyprefix": "bare:"},
    worker_hijack_root_logger=False,
)
counter = redis.Redis.from_url(os.environ["BARE_BROKER"])


@app.task(name="bare.nothing")
def nothing():
    """Do nothing, and count it."""
    counter.incr("bare-done")
