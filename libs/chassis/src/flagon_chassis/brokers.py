"""What differs between the brokers that tasks wait in; all of it is here.

Redis is the default; the scheme of the broker's URL says which one it is. Everything else
speaks of queues and knows no broker.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from amqp.exceptions import AMQPError, MessageNacked
from celery import Celery
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from . import stores
from .settings import DatabaseSettings

_HEARTBEAT_SECONDS = 30
_CONFIRM_SECONDS = 2.0


@dataclass(frozen=True)
class Wants:
    """What a service wants of its broker."""

    service: str
    """Whose tasks they are; others' are out of reach."""
    queues: Sequence[str]
    again_seconds: float
    """When a message that was taken and not finished is given out again, as long as its
    worker lives."""
    socket_seconds: float
    """Longest wait for the broker."""


class Broker(Protocol):
    """What the queue needs to know of its broker."""

    name: str
    """As readiness and logs call it."""
    celery: type[Celery]
    """What sends tasks."""

    def configuration(self, wants: Wants) -> dict[str, Any]:
        """Return the part of Celery's configuration that is about this broker."""
        ...

    def again_seconds(self, celery: Celery) -> float:
        """Return the like of it from a configuration."""
        ...

    def depth(self, celery: Celery, channel: Any, queue: str) -> int:  # noqa: ANN401 (each broker has its own)
        """Return how many messages wait."""
        ...

    def next_headers(self, celery: Celery, channel: Any, queue: str) -> dict[str, Any]:  # noqa: ANN401 (as above)
        """Return the headers of the message that is next; none where none waits."""
        ...


def url(settings: DatabaseSettings) -> str:
    """Return where tasks wait."""
    own = settings.broker_url.get_secret_value()
    return own or settings.redis_store_url.get_secret_value()


def of(address: str) -> Broker:
    """Return the broker that a URL is for."""
    return RabbitMQ(address) if address.startswith("amqp") else Redis(address)


class Redis:
    """A list for each queue; what was taken lies in a table until it is finished."""

    name = "redis"
    celery: type[Celery] = Celery

    def __init__(self, address: str) -> None:
        self._address = address

    def configuration(self, wants: Wants) -> dict[str, Any]:
        """Keep all keys below the service's prefix, so that an ACL can hold it."""
        transports = f"{__package__}.redis_transport"
        options: dict[str, Any] = {}
        way: dict[str, Any] = {
            "broker_url": self._address,
            "broker_transport": f"{transports}:Transport",
        }
        if self._address.startswith("rediss:"):
            # Kombu would take any certificate.
            way["broker_use_ssl"] = {
                "ssl_cert_reqs": "required",
                "ssl_check_hostname": True,
            }
        address = stores.watched(self._address)
        if address:
            options["watched"] = address
            # Kombu wants an address, and shows it; the transport goes by its options.
            host, port = address.sentinels[0]
            way = {
                "broker_url": f"sentinel://{host}:{port}",
                "broker_transport": f"{transports}:SentinelTransport",
            }
        return {
            **way,
            "task_queues": [
                Queue(name, Exchange("tasks", type="direct"), routing_key=name)
                for name in wants.queues
            ],
            "task_default_exchange": "tasks",
            "broker_transport_options": {
                **options,
                "global_keyprefix": f"{wants.service}:",
                "visibility_timeout": wants.again_seconds,
                "unacked_restore_interval": 5,
                # By default the sweep above happens at every tenth interval only.
                "unacked_restore_throttle": 1,
                "unacked_mutex_expire": 30,
                # Kombu's default, no timeout, hangs for ever on a frozen Redis.
                "socket_timeout": wants.socket_seconds,
                "socket_connect_timeout": min(1.0, wants.socket_seconds),
                "socket_keepalive": True,
                "health_check_interval": 10,
            },
        }

    def again_seconds(self, celery: Celery) -> float:
        """Return the visibility timeout."""
        return float(celery.conf.broker_transport_options["visibility_timeout"])

    def depth(self, celery: Celery, channel: Any, queue: str) -> int:  # noqa: ANN401, ARG002 (kombu's channel; as the other broker has it)
        """Return the length of the list."""
        # Not `client.llen`: only some commands know the prefix.
        return int(channel.client.execute_command("LLEN", queue))

    def next_headers(self, celery: Celery, channel: Any, queue: str) -> dict[str, Any]:  # noqa: ANN401 (kombu's channel)
        """Look at the end of the list that is taken from."""
        prefix = celery.conf.broker_transport_options["global_keyprefix"]
        found = channel.client.execute_command("LINDEX", f"{prefix}{queue}", -1)
        return dict(json.loads(found)["headers"]) if found else {}


class ConfirmedCelery(Celery):
    """Celery that has sent a task when RabbitMQ has it on its disk, and not before."""

    def send_task(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 (as Celery's own)
        """Send a task.

        :raises kombu.exceptions.OperationalError: RabbitMQ does not have it, or did not
            say so in time.
        """
        with self.producer_or_acquire(options.get("producer")) as own:
            options |= {
                "producer": own,
                # A message for no queue comes back instead of being forgotten.
                "mandatory": True,
                "confirm_timeout": _CONFIRM_SECONDS,
            }
            try:
                return super().send_task(*arguments, **options)
            except (OperationalError, AMQPError, MessageNacked) as error:
                # A confirmation that is still on its way would count for the next message.
                own.connection.collect()
                raise OperationalError(str(error)) from error


class RabbitMQ:
    """A classic durable queue for each, filled by one exchange.

    Both are the broker's own (deploy/rabbitmq): no service may make or change any.
    What belongs to one service is a virtual host of its name.
    """

    name = "rabbitmq"
    celery: type[Celery] = ConfirmedCelery

    def __init__(self, address: str) -> None:
        self._address = address

    def configuration(self, wants: Wants) -> dict[str, Any]:
        """Have each message confirmed, and make nothing in the broker."""
        patience = {"x-consumer-timeout": int(wants.again_seconds * 1000)}
        return {
            "broker_url": f"{self._address.rstrip('/')}/{wants.service}",
            "task_queues": [
                Queue(
                    name,
                    # Of this type because who may send to which queue is said by
                    # routing key there; to a direct one Celery would not send.
                    Exchange("tasks", type="topic", no_declare=True),
                    routing_key=name,
                    no_declare=True,
                    consumer_arguments=patience,
                )
                for name in wants.queues
            ],
            "task_default_exchange": "tasks",
            "broker_transport_options": {
                "confirm_publish": True,
                # Who looks into a queue must not try for ever to get there.
                "max_retries": 1,
                "interval_start": 0,
                "interval_step": 0.2,
                "interval_max": 0.2,
            },
            # A frozen worker's messages go to others after two of these.
            "broker_heartbeat": _HEARTBEAT_SECONDS,
            # It would need queues of its own, and nobody asks workers for anything.
            "worker_enable_remote_control": False,
            # They are classic, see above: nothing to find out.
            "worker_detect_quorum_queues": False,
        }

    def again_seconds(self, celery: Celery) -> float:
        """Return the shortest time that a consumer asks for."""
        return min(
            float(queue.consumer_arguments["x-consumer-timeout"]) / 1000
            for queue in celery.conf.task_queues
        )

    def depth(self, celery: Celery, channel: Any, queue: str) -> int:  # noqa: ANN401, ARG002 (kombu's channel; as the other broker has it)
        """Return how many are ready."""
        return int(channel.queue_declare(queue, passive=True).message_count)

    def next_headers(self, celery: Celery, channel: Any, queue: str) -> dict[str, Any]:  # noqa: ANN401, ARG002 (as above)
        """Take the first message and put it back: it returns to its place."""
        message = channel.basic_get(queue)
        if message is None:
            return {}
        channel.basic_reject(message.delivery_tag, requeue=True)
        return dict(message.headers)
