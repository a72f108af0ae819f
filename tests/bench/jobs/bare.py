"""Celery and nothing else: what a job costs without rows, events and leases."""

import os

import redis
from celery import Celery

from flagon_chassis import brokers

broker = os.environ["BARE_BROKER"]
app = Celery("bare", broker=broker)
# As the platform's workers, so that the difference is the platform's own work.
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    broker_transport_options={"global_keyprefix": "bare:"},
    worker_hijack_root_logger=False,
)
if broker.startswith("amqp"):
    # RabbitMQ lets nobody make a queue: one of the platform's, sent to as safely.
    app.conf.update(
        brokers.of(broker).configuration(
            brokers.Wants("worker", ["bulk"], again_seconds=300, socket_seconds=5.0)
        ),
        task_default_queue="bulk",
        task_default_routing_key="bulk",
    )
counter = redis.Redis.from_url(os.environ["BARE_COUNTER"])


@app.task(name="bare.nothing")
def nothing():
    """Do nothing, and count it."""
    counter.incr("bare-done")
