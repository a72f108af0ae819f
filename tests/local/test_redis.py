"""Redis users: what each may do, and that a restart keeps everything."""

import subprocess
from uuid import uuid4

import pytest
import redis
from flagonctl import configuration, programs
from flagonctl.stack import Stack
from flagonctl.vault import Vault

from flagon_chassis.redis_queue import RedisQueue
from flagon_realtime.clients import EventLog
from flagon_realtime.rooms import Rooms, Seats

from .conftest import ROOT, free_port, listens, wait_for


class Server:
    def __init__(self, folder, kind, **chosen):
        self.stack = Stack("local", 8080, folder)
        self.stack.state.mkdir(parents=True)
        for what, choice in chosen.items():
            (self.stack.state / what).write_text(choice)
        self.vault = Vault(folder / "secrets")
        self.vault.fill()
        # The rendering reads its templates from the checkout.
        (folder / "deploy").symlink_to(ROOT / "deploy")
        configuration.redis_files(self.stack, self.vault, 0o600)
        self.port = free_port()
        self.folder = folder
        self.kind = kind
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [
                programs.find("redis-server"),
                ROOT / "deploy" / "redis" / f"{self.kind}.conf",
                *("--bind", "127.0.0.1", "--port", str(self.port)),
                *("--dir", self.folder),
                *("--aclfile", self.stack.config / f"redis-{self.kind}.acl"),
            ],
            stdout=subprocess.DEVNULL,
        )
        wait_for(lambda: listens(self.port))

    def stop(self, *, hard=False):
        (self.process.kill if hard else self.process.terminate)()
        self.process.wait(60)

    def connect(self, user):
        return redis.Redis(
            port=self.port,
            username=user,
            password=self.vault[f"redis_{user}_password"],
            decode_responses=True,
        )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("store"), "store")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def rq_store(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("rq"), "store", mail_queue="rq")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("cache"), "cache")
    yield server
    server.stop()


@pytest.fixture
def as_user(store):
    opened = []

    def connect(user):
        opened.append(store.connect(user))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


class TestUsersOfRQ:
    """Where `MAIL_QUEUE=rq`: the real sender, as the user that its relay is."""

    @pytest.fixture
    def queue_of(self, rq_store):
        def queue_of(user):
            password = rq_store.vault[f"redis_{user}_password"]
            url = f"redis://{user}:{password}@127.0.0.1:{rq_store.port}/0"
            opened.append(RedisQueue(url, "worker", "mail"))
            return opened[-1]

        opened = []
        yield queue_of
        for each in opened:
            each.connection.close()

    @staticmethod
    def send(queue):
        task_id = str(uuid4())
        queue.publish(
            "worker.send_mail", kwargs={"mail_id": "1"}, headers={}, task_id=task_id
        )
        return f"worker:rq:job:{task_id}"

    def test_auth_may_add_a_mail_and_neither_read_nor_take_one(self, queue_of):
        auth, worker = queue_of("auth"), queue_of("worker")

        job = self.send(auth)

        assert worker.look()[0] == 1
        assert worker.connection.exists(job)
        mine, waiting = auth.connection, "worker:rq:queue:mail"
        for refused in (
            auth.look,
            lambda: mine.hgetall(job),
            lambda: mine.delete(job),
            lambda: mine.lrange(waiting, 0, -1),
            lambda: mine.lpop(waiting),
            lambda: mine.blmove(waiting, "auth:mine", 1),
            lambda: mine.rpush("worker:rq:queue:other", "1"),
            lambda: mine.zadd("worker:rq:scheduled:mail", {"1": 1}),
            lambda: mine.hset("worker:rq:worker:1", "state", "idle"),
            lambda: mine.publish("worker:rq:pubsub:1", '{"command": "shutdown"}'),
            lambda: mine.lpush("worker:mail", "task"),
            lambda: mine.lpush("worker:bulk", "task"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                refused()

    @pytest.mark.parametrize("user", ["catalog", "realtime", "web"])
    def test_others_may_not(self, queue_of, user):
        with pytest.raises(redis.exceptions.RedisError):
            self.send(queue_of(user))
        assert queue_of("worker").look()[0] <= 1


class TestUsers:
    def test_catalog_may_not_write_keys_of_realtime(self, as_user):
        with pytest.raises(redis.exceptions.NoPermissionError):
            as_user("catalog").set("realtime:presence:1", "x")

    def test_auth_may_hand_the_worker_mails_and_nothing_else(self, as_user):
        auth = as_user("auth")

        assert auth.lpush("worker:mail", "task") == 1
        assert as_user("worker").lpop("worker:mail") == "task"
        for refused in (
            lambda: auth.lrange("worker:mail", 0, -1),
            lambda: auth.rpop("worker:mail"),
            lambda: auth.lpush("worker:bulk", "task"),
            lambda: auth.sadd("worker:_kombu.binding.tasks", "task"),
            lambda: as_user("catalog").lpush("worker:mail", "task"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                refused()

    def test_auth_may_not_touch_what_rq_has_where_it_has_nothing(self, as_user):
        with pytest.raises(redis.exceptions.NoPermissionError):
            as_user("auth").rpush("worker:rq:queue:mail", "task")

    @pytest.mark.parametrize("user", ["auth", "catalog", "worker", "realtime", "web"])
    def test_each_may_use_its_own_keys_only(self, as_user, user):
        mine = as_user(user)
        other = "web" if user != "web" else "auth"

        assert mine.set(f"{user}:thing", "x")
        with pytest.raises(redis.exceptions.NoPermissionError):
            mine.get(f"{other}:thing")

    @pytest.mark.parametrize("user", ["catalog", "worker", "realtime", "web"])
    def test_the_denylist_is_read_by_all_and_written_by_auth(self, as_user, user):
        as_user("auth").set("denylist:jti:1", "1", ex=60)

        assert as_user(user).get("denylist:jti:1") == "1"
        with pytest.raises(redis.exceptions.NoPermissionError):
            as_user(user).delete("denylist:jti:1")

    @pytest.mark.parametrize("user", ["auth", "catalog"])
    def test_publishers_may_add_events_and_not_read_them(self, as_user, user):
        mine = as_user(user)

        mine.xadd("events", {"id": "1"}, minid="0", approximate=True)
        with pytest.raises(redis.exceptions.NoPermissionError):
            mine.xrange("events")
        with pytest.raises(redis.exceptions.NoPermissionError):
            mine.delete("events")

    def test_catalog_may_read_as_a_group_and_take_nothing_away(self, as_user):
        mine, group = as_user("catalog"), f"group-{uuid4()}"
        identity = mine.xadd("events", {"id": "1"})

        mine.xgroup_create("events", group, "0", mkstream=True)
        assert mine.xreadgroup(group, "me", {"events": ">"})
        assert mine.xpending_range("events", group, "-", "+", 9)
        assert mine.xautoclaim("events", group, "you", 0)
        assert mine.xinfo_consumers("events", group)
        with mine.pipeline(transaction=True) as both:
            both.xadd("events:dead", {"id": "1"}, maxlen=10, approximate=True)
            both.xack("events", group, identity).execute()
        mine.xgroup_delconsumer("events", group, "me")
        for refused in (
            lambda: mine.xread({"events": "0"}),
            lambda: mine.xrange("events"),
            lambda: mine.xdel("events", identity),
            lambda: mine.xgroup_destroy("events", group),
            lambda: mine.xgroup_setid("events", group, "$"),
            lambda: mine.xrange("events:dead"),
            lambda: mine.xtrim("events:dead", maxlen=0),
            lambda: mine.xgroup_create("events:dead", group, mkstream=True),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                refused()

    def test_realtime_may_read_and_add_events_and_change_none(self, as_user):
        identity = as_user("worker").xadd("events", {"id": "1"})
        mine = as_user("realtime")

        assert mine.xread({"events": "0"})
        assert mine.xadd("events", {"id": "2"})
        for refused in (
            lambda: mine.xtrim("events", maxlen=0),
            lambda: mine.xdel("events", identity),
            lambda: mine.delete("events"),
            lambda: mine.xgroup_create("events", "mine"),
            lambda: mine.xadd("events:dead", {"id": "3"}),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                refused()
        # A script has no more rights than who runs it.
        with pytest.raises(redis.exceptions.ResponseError, match="can't access"):
            mine.eval("return redis.call('del', 'events')", 0)
        assert mine.xlen("events")

    def test_realtime_keeps_rooms_with_no_more_rights_than_these(self, cache):
        of = {user: cache.connect(user) for user in ("realtime", "web", "worker")}
        rooms = Rooms(
            f"redis://realtime:{cache.vault['redis_realtime_password']}"
            f"@127.0.0.1:{cache.port}/0",
            entry_seconds=60,
            lock_seconds=60,
        )

        changes = rooms.changes()
        assert next(changes) is None
        assert rooms.update("products/1", Seats(strangers=["s"])).count == 1
        assert next(changes) == "products/1"
        assert rooms.take_lock("products/1", token="t", account="a", name=None)[0]
        assert rooms.free_lock("products/1", "t")
        for refused in (
            lambda: of["realtime"].publish("web:rooms", "x"),
            lambda: of["realtime"].get("web:thing"),
            lambda: of["web"].publish("realtime:rooms", "products/1"),
            lambda: of["worker"].zadd("realtime:room:strangers:products/1", {"x": 1}),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                refused()
        changes.close()
        rooms.close()
        for connection in of.values():
            connection.close()

    def test_realtime_publishes_with_no_more_rights_than_these(self, store):
        password = store.vault["redis_realtime_password"]
        log = EventLog(f"redis://realtime:{password}@127.0.0.1:{store.port}", "events")

        added = log.append({"id": "4"}, names=["a", "b"], digest="d")

        assert added[0]
        assert log.append({"id": "4"}, names=["b"], digest="d") == (False, added[1])
        log.close()

    def test_strangers_may_do_nothing(self, store):
        with (
            redis.Redis(port=store.port) as stranger,
            pytest.raises(redis.exceptions.AuthenticationError),
        ):
            stranger.ping()

    def test_nobody_may_turn_the_server_upside_down(self, as_user):
        for command in ("FLUSHALL", "KEYS *", "CONFIG GET *", "ACL LIST", "SHUTDOWN"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                as_user("worker").execute_command(*command.split())

    def test_celery_may_listen_to_its_commands(self, as_user):
        with as_user("worker").pubsub() as listener:
            listener.psubscribe("worker:/0.celery.pidbox")
            assert listener.get_message(timeout=60)["type"] == "psubscribe"


class TestMonitor:
    def test_sees_figures(self, as_user):
        assert as_user("monitor").info("memory")["used_memory"] > 0

    def test_touches_no_key_and_no_setting(self, as_user):
        as_user("worker").xadd("events", {"id": "1"})
        for command in (
            "GET auth:x",
            "XRANGE events - +",
            "SET monitor:x 1",
            "KEYS *",
            "SCAN 0",
            "CONFIG GET *",
            "CLIENT LIST",
            "MONITOR",
            "SUBSCRIBE auth:x",
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                as_user("monitor").execute_command(*command.split())


class TestRestart:
    @pytest.mark.parametrize("hard", [False, True])
    def test_keeps_transactions(self, tmp_path, hard):
        server = Server(tmp_path, "store")
        with server.connect("worker") as mine, mine.pipeline(transaction=True) as both:
            both.lpush("worker:queue", "job").hset(
                "worker:unacked", "1", "job"
            ).execute()
        wait_for(
            lambda: b"job" in b"".join(p.read_bytes() for p in tmp_path.rglob("*.aof"))
        )

        server.stop(hard=hard)
        server.start()

        with server.connect("worker") as mine:
            wait_for(mine.ping)
            kept = (mine.llen("worker:queue"), mine.hlen("worker:unacked"))
        server.stop()
        assert kept == (1, 1)
