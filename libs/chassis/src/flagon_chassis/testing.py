"""Pytest fixtures for every service: a real Postgres and a real Redis.

Installed ones are started as private instances on free ports, which end with the test
run; where none are installed they are containers (testcontainers). Load with
`-p flagon_chassis.testing`.
"""

import hashlib
import json
import logging
import os
import pwd
import queue
import re
import shutil
import signal
import socket
import socketserver
import ssl
import string
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NoReturn, cast
from uuid import uuid4

import jwt as pyjwt
import psycopg
import pytest
import redis
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import MetaData, NullPool, create_engine, func, select
from sqlalchemy.orm import Session, sessionmaker

from . import dpop
from .auth import AUDIENCE
from .tables import errand

ISSUER = "http://issuer.test"


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _unprivileged() -> str | None:
    """Return the user to run servers as when the tests run as root: Postgres refuses it."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


def _wait(ready: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            ready()
        # Not up yet, in whatever way its client says so; raised again at the end.
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


@dataclass
class Server:
    """A private server of the test run."""

    url: str
    """How to connect to it as its administrator."""
    process: subprocess.Popen[bytes] | None = None
    """The process, to be stopped or killed by a test that started it."""
    start: Callable[[], None] | None = None
    """Starts it again with what it has on its disk."""


def _private_folder(user: str | None) -> Path:
    folder = Path(mkdtemp(prefix="flagon-test-"))
    if user:
        shutil.chown(folder, user)
    return folder


def start_postgres(port: int | None = None, **settings: str) -> Iterator[Server]:
    """Yield a private Postgres whose writes need not survive anything.

    :param settings: of Postgres, over those that make it fast.
    """
    user, port = _unprivileged(), port or free_port()
    folder = _private_folder(user)
    binaries = max(
        Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda path: int(path.parent.name),
        default=None,
    )
    if binaries is None:
        found = shutil.which("initdb")
        if not found:
            pytest.exit("Postgres is not installed: run `make setup`.", 3)
        binaries = Path(found).resolve().parent
    data = folder / "data"
    subprocess.run(  # noqa: S603 (no shell, our own words)
        [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N"],
        check=True,
        user=user,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        env={"LC_ALL": "C.UTF-8"},
    )
    options = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": folder,
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
        "shared_buffers": "64MB",
        **settings,
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 (no shell, our own words)
            [
                binaries / "postgres",
                "-D",
                data,
                *(f"--{name}={value}" for name, value in options.items()),
            ],
            user=user,
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    try:
        _wait(lambda: psycopg.connect(url, connect_timeout=2).close())
        yield Server(url, process)
    finally:
        # The fast shutdown: SIGTERM would wait for whoever is still connected.
        process.send_signal(signal.SIGINT)
        process.wait(20)
        shutil.rmtree(folder)


def start_redis(*options: str, port: int | None = None) -> Iterator[Server]:
    """Yield a private Redis without persistence; `options` are added to its command."""
    user, port = _unprivileged(), port or free_port()
    folder = _private_folder(user)
    binary = shutil.which("redis-server")
    if not binary:
        pytest.exit("Redis is not installed: run `make setup`.", 3)
    process = subprocess.Popen(  # noqa: S603 (no shell, our own words)
        [
            binary,
            *("--port", str(port), "--bind", "127.0.0.1", "--save", ""),
            *("--dir", str(folder)),
            *options,
        ],
        user=user,
        stdout=subprocess.DEVNULL,
    )
    url = f"redis://127.0.0.1:{port}/0"
    client = redis.Redis.from_url(url, retry=None)
    try:
        _wait(client.ping)
        yield Server(url, process)
    finally:
        client.close()
        process.kill()
        process.wait(20)
        shutil.rmtree(folder)


_REDIS = Path(__file__).parents[4] / "deploy" / "redis"


class Replicated:
    """Three Redis and three Sentinels, started as in a cluster; any may be killed.

    Each has the host name `localhost`, and is told apart by its port.

    :param service: whose rights the user of `url` has, in the place of the worker's.
    """

    password = "replicated"  # noqa: S105 (may be read by everybody)

    def __init__(self, service: str = "things") -> None:
        self._user = _unprivileged()
        self._folder = _private_folder(self._user)
        self.ports = [free_port() for _ in range(3)]
        self.sentinels = [free_port() for _ in range(3)]
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        """By port."""
        hashed = hashlib.sha256(self.password.encode()).hexdigest()
        texts = {
            name: re.sub(
                r"#\$\{\w+\}",
                f"#{hashed}",
                (_REDIS / f"{name}.acl.template").read_text(),
            )
            .replace("worker", service)
            .replace("${REDIS_AUTH_MAILS}", "")
            for name in ("store", "replicated", "sentinel")
        }
        (self._folder / "store.acl").write_text(texts["store"] + texts["replicated"])
        (self._folder / "sentinel.acl").write_text(texts["sentinel"])
        for name in ("replica", "sentinel"):
            secret = self._folder / f"redis_{name}_password"
            secret.write_text(self.password)
        places = ",".join(f"localhost:{port}" for port in self.sentinels)
        self.url = f"redis+sentinel://{service}:{self.password}@{places}/store/0"

    def start(self, port: int) -> None:
        """Start one server, or start it again with the files that it left."""
        own = self._folder / str(port)
        own.mkdir(exist_ok=True)
        if self._user:
            shutil.chown(own, self._user)
        sentinel = port in self.sentinels
        acl = self._folder / f"{'sentinel' if sentinel else 'store'}.acl"
        script = (
            ("sentinel.sh",) if sentinel else ("replicated.sh", _REDIS / "store.conf")
        )
        kind = "SENTINEL" if sentinel else "REDIS"
        with (own / "log").open("ab") as log:
            self.processes[port] = subprocess.Popen(  # noqa: S603 (no shell, our own words)
                ["/bin/sh", _REDIS / script[0], *script[1:], acl, own],
                user=self._user,
                stdout=log,
                stderr=log,
                env={
                    "PATH": os.defpath,
                    "SECRETS_DIR": str(self._folder),
                    "REDIS_BIND": "127.0.0.1",
                    f"{kind}_HOST": "localhost",
                    f"{kind}_PORT": str(port),
                    "REDIS_FIRST": f"localhost {self.ports[0]}",
                    "SENTINELS": " ".join(f"localhost:{one}" for one in self.sentinels),
                    # A cluster has more patience.
                    "SENTINEL_DOWN_MILLISECONDS": "1000",
                    "SENTINEL_FAILOVER_MILLISECONDS": "2000",
                },
            )

    def admin(self, port: int) -> Any:  # noqa: ANN401 (untyped in the library, in part)
        """Return an administrator's connection to one server."""
        return redis.Redis.from_url(
            f"redis://admin:{self.password}@127.0.0.1:{port}",
            retry=None,
            decode_responses=True,
        )

    def role(self, port: int) -> str:
        """Return what one server says that it is: `master` or `slave`."""
        with closing(self.admin(port)) as client:
            return str(client.execute_command("ROLE")[0])

    def primary(self) -> int:
        """Return the port of the server that the Sentinels call the primary.

        :raises ConnectionError: they do not agree yet.
        """
        found = set()
        for port in self.sentinels:
            if self.processes[port].poll() is None:
                with closing(self.admin(port)) as client:
                    reply = client.execute_command("SENTINEL", "MASTER", "store")
                    found.add(int(reply["port"]))
        if len(found) != 1:
            raise ConnectionError("the Sentinels do not agree")
        return found.pop()

    def settled(self) -> None:
        """Raise unless everybody knows everybody, and both replicas follow.

        :raises ConnectionError: they do not yet.
        """
        for port in self.sentinels:
            with closing(self.admin(port)) as client:
                seen = client.execute_command("SENTINEL", "MASTER", "store")
            if (int(seen["num-slaves"]), int(seen["num-other-sentinels"])) != (2, 2):
                raise ConnectionError(f"{port} knows too few")
        with closing(self.admin(self.primary())) as client:
            found = client.info("replication").get("min_slaves_good_slaves")
            if found != len(self.ports) - 1:
                raise ConnectionError("a replica is not ready")

    def stop(self) -> None:
        """End all of them."""
        for process in self.processes.values():
            process.kill()
            process.wait(20)
        shutil.rmtree(self._folder)


def start_replicated() -> Iterator[Replicated]:
    """Yield replicated servers that know each other."""
    servers = Replicated()
    try:
        for port in (*servers.ports, *servers.sentinels):
            servers.start(port)
            _wait(partial(servers.role, port))
        _wait(servers.settled, 60)
        yield servers
    finally:
        servers.stop()


_PASSWORD = "rabbit"  # noqa: S105 (may be read by everybody)
_RABBITMQ = Path(__file__).parents[4] / "deploy" / "rabbitmq"


def start_rabbitmq(
    service: str = "things", *, change: tuple[str, str] = ("", ""), **settings: str
) -> Iterator[Server]:
    """Yield a private RabbitMQ as the platform runs it; `url` is the service's user's.

    :param service: whose tasks wait there, instead of the worker's.
    :param change: what to replace in the definitions, a pattern, and by what.
    :param settings: of rabbitmq.conf, with `__` for each dot.
    """
    if not any(Path("/usr/lib/rabbitmq/lib").glob("*/sbin")):
        lacking("RabbitMQ", "BROKER=rabbitmq make setup")
    user, port = _unprivileged(), free_port()
    folder = _private_folder(user)
    definitions = (_RABBITMQ / "definitions.json.template").read_text()
    hashed = r'"password_hash": "[^"]*", "hashing_algorithm": "[^"]*"'
    definitions = re.sub(hashed, f'"password": "{_PASSWORD}"', definitions)
    definitions = definitions.replace('"worker"', f'"{service}"')
    if change[0]:
        definitions, count = re.subn(*change, definitions)
        assert count, change  # noqa: S101 (a test that would test something else)
    (folder / "definitions.json").write_text(definitions)
    values = {
        "RABBITMQ_LISTEN": f"127.0.0.1:{port}",
        "RABBITMQ_DEFINITIONS": str(folder / "definitions.json"),
        "RABBITMQ_PERMITS": "\n".join(
            f"{name.replace('__', '.')} = {value}" for name, value in settings.items()
        ),
    }
    template = string.Template((_RABBITMQ / "rabbitmq.conf.template").read_text())
    (folder / "rabbitmq.conf").write_text(template.substitute(values))
    server = Server(f"amqp://{service}:{_PASSWORD}@127.0.0.1:{port}")
    command = [
        *("/bin/sh", str(_RABBITMQ / "server.sh"), str(folder / "own")),
        str(folder / "rabbitmq.conf"),
        *(str(free_port()), str(free_port())),
    ]

    def start() -> None:
        with (folder / "log").open("ab") as log:
            server.process = subprocess.Popen(  # noqa: S603 (no shell, our own words)
                command, user=user, cwd=folder, stdout=log, stderr=subprocess.STDOUT
            )
        # Five seconds where nothing else runs.
        _wait(lambda: _greet(port), seconds=120)
        # Killed before this is written, Debian's comes back without streams (server.sh).
        _wait(lambda: _has_streams(folder / "own"), seconds=60)

    server.start = start
    try:
        start()
        yield server
    finally:
        if server.process:
            server.process.kill()
            server.process.wait(20)
        shutil.rmtree(folder)


def _has_streams(folder: Path) -> None:
    """Raise unless RabbitMQ has written down that it has streams."""
    names = next(folder.glob("data/coordination/*/names.dets"))
    if b"rabbit_stream_coordinator" not in names.read_bytes():
        raise ConnectionError("no streams")


def _greet(port: int) -> None:
    """Raise unless RabbitMQ answers to the beginning of AMQP."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(b"AMQP\0\0\x09\x01")
        if connection.recv(1) != b"\x01":
            raise ConnectionError("no frame")


def differences(database_url: str, metadata: MetaData) -> list[Any]:
    """Return in what the tables that migrations have made differ from the models.

    Tables of others, such as the chassis' own, do not count.
    """
    from alembic.autogenerate import compare_metadata  # noqa: PLC0415 (few tests need it)
    from alembic.migration import MigrationContext  # noqa: PLC0415 (few tests need it)

    engine = create_engine(database_url, poolclass=NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "compare_server_default": True,
                "include_name": lambda name, kind, _parents: (
                    kind != "table" or name in metadata.tables
                ),
            },
        )
        return list(compare_metadata(context, metadata))


def errands_of(session: Session) -> dict[str, int]:
    """Return in how many seconds each errand is asked for again, by what it is about."""
    left = func.extract("epoch", errand.c.ask_at - func.now())
    found = session.execute(select(errand.c.subject, left))
    return {subject: round(seconds) for subject, seconds in found}


BUCKET_KEY = ("test-key", "test-secret")
"""Name and secret of the key that `start_bucket` takes."""


def start_bucket(
    port: int | None = None, folder: Path | None = None
) -> Iterator[Server]:
    """Yield a private store with the S3 protocol (rclone) and one bucket, `pictures`.

    It checks signatures; its url is the bucket's, its objects are files of `folder`.
    """
    port, kept = port or free_port(), folder or _private_folder(None)
    (kept / "pictures").mkdir(exist_ok=True)
    binary = Path(sys.executable).parent / "rclone"
    process = subprocess.Popen(  # noqa: S603 (no shell, our own words)
        [
            binary,
            *("serve", "s3", kept, "--addr", f"127.0.0.1:{port}"),
            *("--auth-key", ",".join(BUCKET_KEY), "--config", ""),
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(lambda: socket.create_connection(("127.0.0.1", port), 1).close())
        yield Server(f"http://127.0.0.1:{port}/pictures", process)
    finally:
        process.kill()
        process.wait(20)
        if folder is None:
            shutil.rmtree(kept, ignore_errors=True)


def _containers() -> bool:
    """Say whether the servers are containers: by `FLAGON_TEST_SERVERS`, or of need.

    Installed servers start in a second and can be killed by a test, so they come first.
    """
    wanted = os.environ.get("FLAGON_TEST_SERVERS")  # noqa: TID251 (no settings here)
    installed = shutil.which("redis-server") and (
        shutil.which("initdb") or any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    )
    return wanted == "containers" or (wanted != "local" and not installed)


def lacking(what: str, remedy: str) -> NoReturn:
    """End a test for want of something that it needs from the machine.

    It is skipped, with what would help. Where `FLAGON_LACKING=fail` says that everything
    was installed, as `.ci/run` does, it fails: there a skipped test is a lost one.
    """
    reason = f"{what} is not installed: {remedy}"
    if os.environ.get("FLAGON_LACKING") == "fail":  # noqa: TID251 (no settings here)
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """Give a Postgres for the whole run; `url` is its administrator's."""
    # Neither branch can be covered on every machine: which of them runs is the machine's
    # to say. `tests/e2e/test_containers.py` runs tests in the other one.
    if _containers():  # pragma: no cover
        from testcontainers.community.postgres import (  # noqa: PLC0415
            PostgresContainer,
        )

        with PostgresContainer("postgres:17", driver=None) as container:
            yield Server(container.get_connection_url())
    else:  # pragma: no cover (as above)
        yield from start_postgres()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """Give a Redis for the whole run."""
    if _containers():  # pragma: no cover (as above)
        from testcontainers.community.redis import RedisContainer  # noqa: PLC0415

        with RedisContainer("redis:8") as container:
            host = container.get_container_host_ip()
            yield Server(f"redis://{host}:{container.get_exposed_port(6379)}/0")
    else:  # pragma: no cover (as above)
        yield from start_redis()


@pytest.fixture(scope="session")
def make_database(postgres_server: Server) -> Callable[..., str]:
    """Give a function that makes an empty database and returns its SQLAlchemy URL.

    Called with the name of a template database it copies that one, which is much faster
    than to migrate again.
    """

    def make(template: str | None = None) -> str:
        name = f"test_{uuid4().hex}"
        with psycopg.connect(postgres_server.url, autocommit=True) as connection:
            source = f' TEMPLATE "{template}"' if template else ""
            connection.execute(f'CREATE DATABASE "{name}"{source}'.encode())
        base = postgres_server.url.rsplit("/", 1)[0]
        return f"{base}/{name}".replace("postgresql://", "postgresql+psycopg://")

    return make


@pytest.fixture
def redis_url(redis_server: Server) -> str:
    """Give the address of an empty Redis."""
    client = redis.Redis.from_url(redis_server.url)
    client.flushall()
    client.close()
    return redis_server.url


@pytest.fixture
def sessions(database_url: str) -> Iterator[sessionmaker[Session]]:
    """Give sessions inside one outer transaction that is rolled back after the test.

    A commit in the code under test ends a savepoint only. The service's conftest gives
    `database_url` (session scope: an own database with the schema migrated).
    """
    engine = create_engine(database_url)
    with engine.connect() as connection:
        outer = connection.begin()
        yield sessionmaker(
            connection, join_transaction_mode="create_savepoint", expire_on_commit=False
        )
        outer.rollback()
    engine.dispose()


@pytest.fixture
def session(sessions: sessionmaker[Session]) -> Iterator[Session]:
    """Give one session of `sessions`."""
    with sessions.begin() as session:
        yield session


Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]
"""A status, what is sent as JSON (None: nothing), and more headers if there are any."""


class Peer(ABC):
    """Another service behind real HTTP, as far as a test needs it."""

    def __init__(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, value, *more = outer.answer(
                    self.command, self.path, self.headers, body
                )
                sent = b"" if value is None else json.dumps(value).encode()
                kind = "problem+json" if status >= HTTPStatus.BAD_REQUEST else "json"
                self.send_response(status)
                self.send_header("Content-Type", f"application/{kind}")
                self.send_header("Content-Length", str(len(sent)))
                for name, text in (more[0] if more else {}).items():
                    self.send_header(name, text)
                self.end_headers()
                self.wfile.write(sent)

            # As the base class calls them.
            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do  # noqa: N815 (the base class' names)

            def log_message(self, *_: object) -> None:
                """Say nothing of each request."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(
            target=self._http.serve_forever, args=(0.01,), daemon=True
        ).start()

    @abstractmethod
    def answer(self, method: str, path: str, headers: Message, body: bytes) -> Answer:
        """Return what is answered."""

    def close(self) -> None:
        """Answer no more."""
        self._http.shutdown()
        self._http.server_close()


class TokenMaker:
    """Signs access tokens as auth does, with a key of the test run."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.kid = uuid4().hex

    def jwks(self) -> dict[str, Any]:
        """Return the public keys as auth publishes them."""
        jwk = pyjwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {"keys": [{**jwk, "kid": self.kid, "use": "sig", "alg": "ES256"}]}

    def __call__(
        self,
        *scopes: str,
        sub: str | None = None,
        **claims: Any,  # noqa: ANN401 (claims are JSON)
    ) -> dict[str, str]:
        """Return the Authorization header of a fresh token with these scopes."""
        return {"Authorization": f"Bearer {self.token(*scopes, sub=sub, **claims)}"}

    def token(
        self,
        *scopes: str,
        sub: str | None = None,
        header: dict[str, object] | None = None,
        **claims: Any,  # noqa: ANN401 (claims are JSON)
    ) -> str:
        """Return a token; a claim given as None is left out."""
        now = int(time.time())
        payload = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": sub or str(uuid4()),
            "client_id": "tests",
            "scope": " ".join(scopes),
            "roles": [],
            "sid": uuid4().hex,
            "jti": uuid4().hex,
            "iat": now,
            "exp": now + 300,
            **claims,
        }
        return pyjwt.encode(
            {name: value for name, value in payload.items() if value is not None},
            self.key,
            "ES256",
            headers={"typ": "at+jwt", "kid": self.kid, **(header or {})},
        )


class KeySet(Peer):
    """Auth, as far as it publishes the keys that prove a maker's tokens."""

    def __init__(self, maker: TokenMaker) -> None:
        self._maker = maker
        super().__init__()

    def answer(self, *_request: object) -> Answer:
        """Return the keys, wherever they are asked for."""
        return 200, self._maker.jwks()


@pytest.fixture(scope="session")
def bearer() -> TokenMaker:
    """Give a maker of Authorization headers; fit its `jwks` and `ISSUER` into the app."""
    return TokenMaker()


@pytest.fixture(scope="session")
def jwks_url(bearer: TokenMaker) -> Iterator[str]:
    """Give the address of the keys that prove `bearer`'s tokens, for real processes."""
    with closing(KeySet(bearer)) as keys:
        yield keys.url


@pytest.fixture
def calls() -> Callable[[Callable[[], object]], int]:
    """Count the calls of Python functions while something is done in this thread.

    It is done three times, and the third is counted: the first ones load and compile.
    """

    def count(run: Callable[[], object]) -> int:
        found = 0

        def note(_frame: object, what: str, _value: object) -> None:
            nonlocal found
            found += what == "call"

        before = sys.getprofile()
        for _ in range(3):
            found = 0
            sys.setprofile(note)
            try:
                run()
            finally:
                sys.setprofile(before)
        return found

    return count


@pytest.fixture
def risen() -> Callable[..., float]:
    """Say by how much a metric of this process has risen since the test began."""
    from . import metrics  # noqa: PLC0415 (after server.share_metrics)

    def values() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        return {
            (one.name, frozenset(one.labels.items())): one.value
            for family in metrics.REGISTRY.collect()
            for one in family.samples
        }

    before = values()

    def risen(name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return values().get(key, 0.0) - before.get(key, 0.0)

    return risen


class ProofMaker:
    """Signs DPoP proofs (RFC 9449) with a key of its own, as a client does."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.jwk = pyjwt.algorithms.ECAlgorithm.to_jwk(
            self.key.public_key(), as_dict=True
        )
        self.jkt = dpop.thumbprint(self.jwk)

    def __call__(
        self,
        method: str,
        url: str,
        token: str | None = None,
        *,
        header: dict[str, object] | None = None,
        **claims: Any,  # noqa: ANN401 (claims are JSON)
    ) -> str:
        """Return a proof; a claim or header given as None is left out."""
        payload = {
            "jti": uuid4().hex,
            "htm": method,
            "htu": url,
            "iat": int(time.time()),
            "ath": token and _hash_of(token),
            **claims,
        }
        head = {"typ": "dpop+jwt", "jwk": self.jwk, **(header or {})}
        return pyjwt.encode(
            {name: value for name, value in payload.items() if value is not None},
            self.key,
            "ES256",
            headers={name: value for name, value in head.items() if value is not None},
        )


def _hash_of(token: str) -> str:
    digest = hashlib.sha256(token.encode()).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


@pytest.fixture
def prover() -> ProofMaker:
    """Give a maker of DPoP proofs with a fresh key."""
    return ProofMaker()


class SocketClient:
    """One WebSocket of Socket.IO's own client, which never comes back by itself.

    :param url: of the server.
    :param headers: of the handshake.
    :param patience: seconds for what surely happens.
    """

    def __init__(
        self, url: str, headers: dict[str, str] | None = None, *, patience: float = 60.0
    ) -> None:
        import socketio  # noqa: PLC0415 (most suites have no use for it)

        self.told: queue.Queue[tuple[str, Any]] = queue.Queue()
        """What the server has sent: event and content."""
        self.gone = threading.Event()
        self.patience = patience
        self.io = socketio.Client(
            reconnection=False,
            # Programs have none, and what a test gives would be a second one.
            websocket_extra_options={"suppress_origin": True},
        )
        self.io.on("*", lambda event, content: self.told.put((event, content)))
        self.io.on("disconnect", lambda _reason: self.gone.set())
        self.io.connect(
            url, headers=headers or {}, transports=["websocket"], wait_timeout=patience
        )
        self._connection = self.io.eio.ws

    def call(self, event: str, **content: Any) -> Any:  # noqa: ANN401 (JSON)
        """Send a message; return its acknowledgement."""
        return self.io.call(event, content, timeout=self.patience)

    def wait_for(self, condition: Callable[[str, Any], bool]) -> Any:  # noqa: ANN401 (JSON)
        """Return the content of the first message that is as it should be."""
        while True:
            event, content = self.told.get(timeout=self.patience)
            if condition(event, content):
                return content

    def close(self) -> None:
        """Say goodbye."""
        self.io.disconnect()
        # Which leaves the socket open when the server was the first to go.
        self._connection.shutdown()


@pytest.fixture
def connect() -> Iterator[Callable[..., SocketClient]]:
    """Open WebSockets that are closed after the test."""
    opened: list[SocketClient] = []

    def make(*arguments: Any, **options: Any) -> SocketClient:  # noqa: ANN401 (passed on)
        opened.append(SocketClient(*arguments, **options))
        return opened[-1]

    yield make
    for client in opened:
        client.close()


class SmtpServer:
    """A mail server as RFC 5321 has it, as far as it is needed here.

    :param certificate: context for STARTTLS, or from the start with `implicit`.
    """

    def __init__(
        self,
        *,
        certificate: ssl.SSLContext | None = None,
        implicit: bool = False,
        login: tuple[str, str] | None = None,
    ) -> None:
        self.received: list[tuple[str | None, bytes]] = []
        self.replies: dict[str, str] = {}
        self.encrypted: list[bool] = []
        self.dropped_at: str | None = None
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            # Else an answer of several lines waits for the client's kernel.
            disable_nagle_algorithm = True

            def say(self, line: str) -> None:
                self.wfile.write(f"{line}\r\n".encode())

            def secure(self) -> None:
                context = cast("ssl.SSLContext", certificate)
                self.connection = context.wrap_socket(self.connection, server_side=True)
                self.rfile = self.connection.makefile("rb")
                self.wfile = self.connection.makefile("wb", buffering=0)

            def handle(self) -> None:
                try:
                    self.talk()
                except (OSError, ValueError):
                    return
                finally:
                    self.rfile.close()
                    self.connection.close()

            def talk(self) -> None:  # noqa: PLR0912 (a table of verbs)
                secure = implicit
                if implicit:
                    self.secure()
                self.say("220 mail.test")
                to = None
                while line := self.rfile.readline().decode().strip():
                    verb = line.split(" ", 1)[0].split(":", 1)[0].upper()
                    if verb == outer.dropped_at:
                        return
                    if verb in outer.replies:
                        self.say(outer.replies[verb])
                    elif verb == "EHLO":
                        self.say("250-mail.test")
                        if certificate and not secure:
                            self.say("250-STARTTLS")
                        if login:
                            self.say("250-AUTH PLAIN")
                        self.say("250 8BITMIME")
                    elif verb == "STARTTLS":
                        self.say("220 go")
                        self.secure()
                        secure = True
                    elif verb == "AUTH":
                        given = b64decode(line.split()[-1]).decode()
                        right = tuple(given.split("\0")[1:]) == login
                        self.say("235 ok" if right else "535 no")
                    elif verb == "RCPT":
                        to = line.split(":", 1)[1].strip("<> ").split(">")[0]
                        self.say("250 ok")
                    elif verb == "DATA":
                        self.say("354 go")
                        body = b""
                        while (part := self.rfile.readline()) != b".\r\n":
                            body += part
                        outer.received.append((to, body))
                        outer.encrypted.append(secure)
                        self.say(outer.replies.get("END", "250 taken"))
                    else:
                        self.say("221 bye" if verb == "QUIT" else "250 ok")

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = int(self.server.server_address[1])
        threading.Thread(
            target=self.server.serve_forever, args=(0.01,), daemon=True
        ).start()

    def ids(self) -> list[str]:
        """Return what was taken, by Message-ID without its host."""
        found = [message_from_bytes(raw)["Message-ID"] for _to, raw in self.received]
        return [each.strip("<>").partition("@")[0] for each in found]

    def close(self) -> None:
        """Take no more."""
        self.server.shutdown()
        self.server.server_close()


class _Listener(logging.Handler):
    """Everything that any library of the process says, at any level."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name} {record.msg} {record.getMessage()}")


@contextmanager
def hearing() -> Iterator[Callable[[], str]]:
    """Yield a function that returns all that was logged since, before anything is hidden.

    Begin after the app was made, which sets up logging anew.
    """
    root, listener = logging.getLogger(), _Listener()
    level = root.level
    root.addHandler(listener)
    root.setLevel(logging.DEBUG)
    try:
        with structlog.testing.capture_logs() as ours:
            yield lambda: "\n".join([*listener.lines, *map(str, ours)])
    finally:
        root.setLevel(level)
        root.removeHandler(listener)
