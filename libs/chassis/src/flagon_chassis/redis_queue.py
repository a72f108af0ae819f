"""RQ in place of Celery for one queue: sending to it and looking into it.

Tasks, their names and what runs them stay the same; only who keeps the message and gives it
out differs. `redis_worker` is the other end.
"""

import importlib
import json
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from . import streams

if TYPE_CHECKING:
    import redis
    import rq

RETRIES = 100
"""Times that a task may break, or take its worker with it, before it is given up."""
_FAILED_SECONDS = 24 * 3600
"""How long RQ keeps what was given up."""


class OtherService(RuntimeError):
    """This process uses the queues of another service; RQ knows one prefix a process."""


class RedisQueue:
    """A queue of one service that RQ keeps in Redis, all below the service's prefix.

    What is sent is JSON: RQ's own pickle would run what anyone who can write there sends.

    :param service: whose tasks they are; an ACL keeps them from others.
    """

    def __init__(self, url: str, service: str, name: str) -> None:
        prefix = f"{service}:rq"
        # RQ reads it once, when it is imported.
        os.environ["RQ_KEY_PREFIX"] = prefix  # noqa: TID251 (the library reads it there)
        if prefix != importlib.import_module("rq.defaults").RQ_KEY_PREFIX:
            message = f"The queues of another service than {service} are in use."
            raise OtherService(message)
        self.connection: redis.Redis = streams.connect(url, block_seconds=1.0)
        self.name = name

    def queue(self) -> "rq.Queue":
        """Return RQ's queue."""
        from rq import Queue  # noqa: PLC0415 (memory that only its users pay)
        from rq.serializers import JSONSerializer  # noqa: PLC0415 (as above)

        return Queue(self.name, connection=self.connection, serializer=JSONSerializer)

    def publish(
        self,
        task: str,
        *,
        kwargs: Mapping[str, object],
        headers: Mapping[str, object],
        task_id: str,
    ) -> None:
        """Hand one task over, as `queue.publish` does to Celery's broker.

        One that is sent again while the first waits takes its place.

        :raises redis.RedisError: Redis does not answer.
        """
        from rq import Retry  # noqa: PLC0415 (as in `queue`)
        from rq.job import Job  # noqa: PLC0415 (as in `queue`)

        queue = self.queue()
        job = Job.create(
            task,
            kwargs=dict(kwargs),
            id=task_id,
            # Instead of the call with its arguments, which RQ would log.
            description=task,
            meta=dict(headers),
            result_ttl=0,
            failure_ttl=_FAILED_SECONDS,
            retry=Retry(RETRIES),
            connection=self.connection,
            serializer=queue.serializer,
        )
        # All or nothing: an id without its task would be a mail that nobody sends.
        with self.connection.pipeline(transaction=True) as pipeline:
            queue.enqueue_job(job, pipeline=pipeline)
            pipeline.execute()

    def look(self) -> tuple[int, float]:
        """Return how many tasks wait, and the age of the oldest in seconds.

        :raises redis.RedisError: Redis does not answer.
        """
        from rq.job import Job  # noqa: PLC0415 (as in `queue`)

        queue = self.queue()
        depth, now = queue.count, time.time()
        oldest = 0.0
        for entry in cast("list[bytes]", self.connection.lrange(queue.key, 0, 0)):
            key = Job.key_for(entry.decode(errors="replace"))
            meta = cast("bytes | None", self.connection.hget(key, "meta"))
            try:
                sent_at = float(json.loads(meta or b"{}")["enqueued_at"])
            except (ValueError, TypeError, LookupError, RecursionError):
                # What nobody can read is the worker's to tell of.
                continue
            oldest = max(0.0, now - sent_at)
        return depth, oldest
