import os
import signal
import time

import psutil
import pytest
import redis
from kombu.exceptions import OperationalError

from flagon_chassis import brokers, queue
from flagon_chassis.relay import Relay
from flagon_chassis.testing import start_rabbitmq

from .conftest import eventually, sample
from .test_queue import publish
from .test_relay import put_event, put_task, waiting
from .things_app import create_app

NOWHERE = "amqp://things:none@127.0.0.1:1"


@pytest.fixture(scope="module")
def rabbitmq():
    """A RabbitMQ for the module."""
    yield from start_rabbitmq()


@pytest.fixture
def broker(rabbitmq, make_settings):
    """What sends tasks there, with empty queues."""
    celery = queue.publisher(make_settings(broker_url=rabbitmq.url), "things")
    with celery.connection_for_read() as connection:
        channel = connection.default_channel
        for name in queue.QUEUES:
            while (message := channel.basic_get(name, no_ack=True)) is not None:
                assert message
    return celery


class TestChoice:
    def test_is_the_redis_that_keeps_unless_said_otherwise(self, make_settings):
        settings = make_settings(redis_store_url="redis://store:6379/0")

        assert settings.broker == "redis"
        assert brokers.url(settings) == "redis://store:6379/0"
        assert brokers.of(brokers.url(settings)).name == "redis"

    def test_follows_the_scheme(self, make_settings):
        settings = make_settings(broker_url=NOWHERE)

        assert settings.broker == brokers.of(brokers.url(settings)).name == "rabbitmq"


class TestCheckOfRabbitMQ:
    def test_lets_the_platforms_own_configuration_pass(self, make_settings):
        app = create_app(make_settings(broker_url=NOWHERE))

        queue.check(app.extensions["celery"], 209)

    def test_refuses_limits_that_outlast_the_consumers_time(self, make_settings):
        app = create_app(make_settings(broker_url=NOWHERE))

        with pytest.raises(queue.QueueUnfit, match="less than the 300 s"):
            queue.check(app.extensions["celery"], 210)


class TestSending:
    def test_has_each_message_confirmed_and_kept(self, broker):
        publish(broker, "things.note", key="a")

        with broker.connection_for_read() as connection:
            message = connection.default_channel.basic_get("bulk", no_ack=True)
        assert message.properties["delivery_mode"] == 2
        assert message.headers["id"] == "1"

    def test_fails_soon_when_rabbitmq_is_frozen(self, broker, rabbitmq):
        publish(broker, "things.note")
        rabbitmq.process.send_signal(signal.SIGSTOP)
        frozen = psutil.Process(rabbitmq.process.pid)
        eventually(lambda: frozen.status() == psutil.STATUS_STOPPED)
        try:
            began = time.monotonic()
            with pytest.raises(OperationalError):
                publish(broker, "things.note")
            assert time.monotonic() - began < 10
        finally:
            rabbitmq.process.send_signal(signal.SIGCONT)

        # The confirmations that were late count for nothing.
        publish(broker, "things.note", queue_name="mail")
        assert queue.depths(broker, ["mail"]) == {"mail": 1}

    def test_fails_where_there_is_no_right_to_send(self, rabbitmq, make_settings):
        # Auth may send mails and nothing else, and take nothing.
        url = rabbitmq.url.replace("//things:", "//auth:")
        auth = queue.publisher(make_settings(broker_url=url), "things")
        publish(auth, "things.note", queue_name="mail")

        with pytest.raises(OperationalError, match="ACCESS_REFUSED"):
            publish(auth, "things.note", queue_name="bulk")
        with (
            pytest.raises(OperationalError, match="ACCESS_REFUSED"),
            queue._channel(auth) as channel,
        ):
            channel.basic_get("mail")
        publish(auth, "things.note", queue_name="mail")

    def test_leaves_making_queues_to_the_broker(self, broker):
        with (
            pytest.raises(OperationalError, match="ACCESS_REFUSED"),
            queue._channel(broker) as channel,
        ):
            channel.queue_declare("another")


class TestLooking:
    def test_tells_how_many_tasks_wait_and_how_long(self, broker):
        for task_id in ("1", "2"):
            publish(broker, "things.note", task_id=task_id)

        queue.measure(broker, ["bulk", "mail"])

        assert sample("flagon_queue_depth", queue="bulk") == 2
        assert sample("flagon_queue_oldest_seconds", queue="bulk") > 1e6
        assert sample("flagon_queue_depth", queue="mail") == 0
        assert sample("flagon_queue_oldest_seconds", queue="mail") == 0

    def test_leaves_every_task_in_its_place(self, broker):
        for task_id in ("1", "2", "3"):
            publish(broker, "things.note", task_id=task_id)

        for _ in range(30):
            queue.look(broker, ["bulk"])

        with broker.connection_for_read() as connection:
            channel = connection.default_channel
            found = [channel.basic_get("bulk", no_ack=True) for _ in range(3)]
        assert [message.headers["id"] for message in found] == ["1", "2", "3"]

    def test_says_that_nobody_answers(self, make_settings):
        away = queue.publisher(make_settings(broker_url=NOWHERE), "things")

        with pytest.raises(OperationalError):
            queue.depths(away, ["bulk"])


class TestRunWorker:
    def test_runs_tasks_within_its_rights(self, worker, redis_url, store, broker):
        url = broker.conf.broker_url.removesuffix("/things")
        process = worker(redis_url, broker_url=url)
        publish(broker, "things.note", key="a")
        publish(broker, "things.again", key="b", task_id="2")

        noted = eventually(lambda: store.lrange("things:noted:a", 0, -1))
        assert noted[0].decode().split()[:2] == ["things", "request-1"]
        eventually(lambda: store.llen("things:noted:b") == 2)
        eventually(lambda: process.get("/readyz")[0] == 200)
        eventually(
            lambda: 'flagon_queue_depth{queue="bulk"}' in process.get("/metrics")[1]
        )

        assert process.stop() == 0
        assert set(queue.depths(broker, queue.QUEUES).values()) == {0}

    def test_a_killed_worker_loses_no_task(self, worker, redis_url, store, broker):
        url = broker.conf.broker_url.removesuffix("/things")
        first = worker(redis_url, broker_url=url)
        publish(broker, "things.hold", key="a", seconds=1)
        eventually(lambda: store.llen("things:noted:a") == 1)
        first.process.kill()

        # At once: it knows that the connection is gone.
        worker(redis_url, broker_url=url)

        eventually(lambda: store.lindex("things:noted:a", -1) == b"ended")

    def test_a_killed_child_loses_no_task(self, worker, redis_url, store, broker):
        url = broker.conf.broker_url.removesuffix("/things")
        process = worker(redis_url, broker_url=url)
        publish(broker, "things.hold", key="a", seconds=1)
        begun = eventually(lambda: store.lrange("things:noted:a", 0, 0))
        os.kill(int(begun[0].split()[1]), signal.SIGKILL)

        eventually(lambda: store.lindex("things:noted:a", -1) == b"ended")
        assert process.stop() == 0

    def test_goes_on_when_rabbitmq_died_while_a_task_ran(
        self, worker, redis_url, store, broker, rabbitmq
    ):
        url = broker.conf.broker_url.removesuffix("/things")
        process = worker(redis_url, broker_url=url)
        publish(broker, "things.hold", key="a", seconds=3)
        eventually(lambda: store.llen("things:noted:a") == 1)
        rabbitmq.process.kill()
        rabbitmq.process.wait()
        eventually(lambda: "Trying to re-establish" in process.output())

        rabbitmq.start()

        # It was not finished as far as RabbitMQ knows, and is given out again.
        eventually(lambda: store.lrange("things:noted:a", 0, -1).count(b"ended") == 2)
        publish(broker, "things.note", key="b", task_id="2")
        eventually(lambda: store.llen("things:noted:b") == 1)
        assert process.process.poll() is None
        assert process.stop() == 0

    def test_gives_a_running_task_back_at_sigterm(
        self, worker, redis_url, store, broker
    ):
        url = broker.conf.broker_url.removesuffix("/things")
        process = worker(redis_url, broker_url=url)
        publish(broker, "things.hold", key="a", seconds=30)
        eventually(lambda: store.llen("things:noted:a") == 1)

        assert process.stop() == 0

        eventually(lambda: queue.depths(broker, ["bulk"]) == {"bulk": 1})


class TestRelay:
    def test_hands_tasks_to_rabbitmq(
        self, make_settings, database_url, redis_url, rabbitmq, broker, rows
    ):
        settings = make_settings(
            database_url=database_url,
            redis_store_url=redis_url,
            broker_url=rabbitmq.url,
        )
        put_task(rows)

        Relay(settings, "things").step(rows)

        assert waiting(rows) == 0
        assert queue.depths(broker, ["bulk"]) == {"bulk": 1}

    def test_lets_events_go_on_while_rabbitmq_is_away(
        self, make_settings, database_url, redis_url, rabbitmq, broker, rows
    ):
        settings = make_settings(
            database_url=database_url, redis_store_url=redis_url, broker_url=NOWHERE
        )
        relay = Relay(settings, "things")
        put_task(rows)
        put_event(rows)

        assert relay.step(rows) == 2
        with pytest.raises(ConnectionError):
            relay.probe("rabbitmq")
        put_event(rows)
        relay.step(rows)

        assert waiting(rows) == 1
        with redis.Redis.from_url(redis_url) as store:
            assert store.xlen("events") == 2

        relay.settings = settings.model_copy(
            update={"broker_url": type(settings.broker_url)(rabbitmq.url)}
        )
        relay._publishers.clear()
        eventually(lambda: relay.step(rows) is not None and waiting(rows) == 0)
        relay.probe("rabbitmq")
        assert queue.depths(broker, ["bulk"]) == {"bulk": 1}
