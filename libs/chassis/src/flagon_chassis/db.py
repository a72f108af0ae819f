"""One engine per process, one session per transaction, one lock per migration."""

import json
import random
import select
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial, wraps
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import structlog
from flask import Flask, current_app, request
from flask.typing import ResponseReturnValue
from pydantic_core import from_json
from sqlalchemy import (
    Engine,
    MetaData,
    NullPool,
    QueuePool,
    create_engine,
    event,
    text,
)
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from . import health, metrics
from .errors import Unavailable
from .settings import DatabaseSettings

if TYPE_CHECKING:
    import psycopg
    from alembic.config import Config
    from prometheus_client import Gauge

log = structlog.get_logger()

T = TypeVar("T")
_View = Callable[..., ResponseReturnValue]

ATTEMPTS = 4
"""How often a transaction is tried at most."""
_WAIT_SECONDS = 0.05
"""Longest wait before the second attempt; it doubles with each further one."""
_KEYED = "flagon.keyed"
"""Name in a session's `info`: a repetition finds the answer instead of doing it again."""
_REASONS = {"40001": "serialization", "40P01": "deadlock"}
"""SQLSTATEs that end a transaction which would do well another time."""


class OutcomeUnknown(Unavailable):
    """Nobody can tell whether the change was made."""


_USED = "flagon.used"
_TAKEN = "flagon.taken"
_TRUSTED_SECONDS = 5.0
_POOL_SECONDS = 5.0
"""How long a request waits for a connection that others have."""


class BlockingDriver(RuntimeError):
    """psycopg was loaded before gevent patched it and would block every greenlet."""


class _Pool(QueuePool):
    """A pool that shows how much of it is in use, and how long one waits for it."""

    def __init__(self, *values: Any, **options: Any) -> None:  # noqa: ANN401 (as there)
        super().__init__(*values, **options)
        self._shown = False
        self._places = metrics.gauge(
            "flagon_db_pool_size", "Connections that the pools may have."
        )
        self._wait = metrics.histogram(
            "flagon_db_pool_wait_seconds",
            "Time until a connection was there, whether one was free, made or not to be had.",
        )
        self._timeouts = metrics.counter(
            "flagon_db_pool_timeouts_total",
            "Times that no connection came free in time.",
        )

    def connect(self) -> PoolProxiedConnection:
        """Return a connection, and note how long that took."""
        if not self._shown:
            # Not where the pool is made: that is before the processes are forked.
            self._places.set(self.size())
            self._shown = True
        began = time.perf_counter()
        try:
            return super().connect()
        except PoolTimeout:
            self._timeouts.inc()
            raise
        finally:
            self._wait.observe(time.perf_counter() - began)

    def dispose(self) -> None:
        """Close what is not in use; another pool takes this one's place."""
        super().dispose()
        self._places.set(0)


def engine(url: str, *, pool_size: int, application_name: str) -> Engine:
    """Return a connection pool whose every wait has an end.

    :param pool_size: connections, as many as threads; there is no overflow.
    :param application_name: shown in `pg_stat_activity`.
    :raises BlockingDriver: gevent is active but came after psycopg.
    """
    _refuse_blocking_driver()
    pool = create_engine(
        url,
        poolclass=_Pool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=_POOL_SECONDS,
        pool_use_lifo=True,
        pool_recycle=1800,
        # An error's text goes to the log and to reports; values are people's.
        hide_parameters=True,
        # A page of products holds a hundred small documents.
        json_deserializer=_json,
        connect_args={
            "connect_timeout": 3,
            "application_name": application_name,
            "options": "-c statement_timeout=5000 -c lock_timeout=2000"
            " -c idle_in_transaction_session_timeout=10000",
        },
    )
    in_use = metrics.gauge("flagon_db_pool_in_use", "Connections of the pools in use.")
    event.listen(pool, "checkout", partial(_take, pool, in_use))
    event.listen(pool, "checkin", partial(_give_back, in_use))
    return pool


def _json(document: bytes | str) -> Any:  # noqa: ANN401
    try:
        return from_json(document)
    except ValueError:
        # It stops at 200 levels, and Postgres does not.
        return json.loads(document)


def _take(
    pool: Engine,
    in_use: "Gauge",
    connection: Any,  # noqa: ANN401 (psycopg's, which may not be loaded yet)
    record: ConnectionPoolEntry,
    _proxy: object,
) -> None:
    _ping_if_in_doubt(pool, connection, record)
    record.info[_TAKEN] = True
    in_use.inc()


def _ping_if_in_doubt(
    pool: Engine,
    connection: Any,  # noqa: ANN401 (as above)
    record: ConnectionPoolEntry,
) -> None:
    """Let a restarted Postgres cost a ping for each connection, not a failed request.

    A server that goes away says so, and the kernel keeps it until somebody reads: what was
    in use a moment ago and has nothing to be read needs no ping, which is a round trip.
    """
    used = record.info.get(_USED)
    if used is None:
        return
    if time.monotonic() - used < _TRUSTED_SECONDS and _quiet(connection):
        return
    try:
        pool.dialect.do_ping(connection)
    except pool.dialect.loaded_dbapi.Error as error:
        # All connections are made anew, and the request gets the first of them.
        raise InvalidatePoolError from error


def _quiet(connection: Any) -> bool:  # noqa: ANN401
    if connection.closed:
        return False
    arrivals = select.poll()
    arrivals.register(connection.pgconn.socket, select.POLLIN)
    return not arrivals.poll(0)


def _give_back(
    in_use: "Gauge", _connection: object, record: ConnectionPoolEntry
) -> None:
    record.info[_USED] = time.monotonic()
    # What could not be connected comes back as well, and nobody has had it.
    if record.info.pop(_TAKEN, False):
        in_use.dec()


def _refuse_blocking_driver() -> None:
    monkey = sys.modules.get("gevent.monkey")
    if monkey and monkey.is_module_patched("select"):
        from psycopg import waiting  # noqa: PLC0415 (only gevent processes pay for it)

        if getattr(waiting.wait, "__name__", "") == "wait_c":
            raise BlockingDriver("Load the app after gevent's patch: no preload.")


def init_app(app: Flask, settings: DatabaseSettings) -> None:
    """Give the app a connection pool and a readiness check named `postgres`."""
    pool = engine(
        settings.database_url.get_secret_value(),
        pool_size=settings.threads,
        application_name=app.name,
    )
    app.extensions["flagon.sessions"] = sessionmaker(pool, expire_on_commit=False)
    # The same pool; the level is an attribute of the connection and costs no round trip.
    app.extensions["flagon.readers"] = sessionmaker(
        pool.execution_options(isolation_level="AUTOCOMMIT")
    )

    def ping() -> None:
        with pool.connect() as connection:
            connection.execute(text("select 1"))

    health.check(app, "postgres", ping)


@contextmanager
def transaction() -> Iterator[Session]:
    """Open a session whose block is one transaction: commit at the end, else roll back."""
    sessions: sessionmaker[Session] = current_app.extensions["flagon.sessions"]
    with sessions.begin() as session:
        yield session
        session.flush()
        attempt = _ATTEMPT.get()
        if attempt is not None:
            attempt.ending = True
            attempt.keyed = session.info.get(_KEYED, False)
    if attempt is not None:
        attempt.ended = True


def reading() -> AbstractContextManager[Session]:
    """Open a session for one statement that only reads: no `BEGIN`, no `COMMIT`.

    That is one round trip to the database instead of three. Two statements may see two
    states; use `transaction` where they must see one.
    """
    readers: sessionmaker[Session] = current_app.extensions["flagon.readers"]
    return readers()


@dataclass
class _Attempt:
    """How far the transaction of one attempt got."""

    ending: bool = False
    """The next that Postgres is told is to commit."""
    ended: bool = False
    """It is committed."""
    keyed: bool = False


_ATTEMPT: ContextVar[_Attempt | None] = ContextVar("_ATTEMPT", default=None)


def keyed(session: Session) -> None:
    """Note that to repeat this transaction is safe even if it was committed.

    Its key is found then, and with it the answer.
    """
    session.info[_KEYED] = True


def retrying(work: Callable[[], T], *, harmless: bool = False) -> T:
    """Return what `work` returns; repeat it where its transaction was no more than unlucky.

    That is a serialization failure, a deadlock or a lost connection, and in each case it
    is certain that nothing was committed, or that a repetition does no harm.

    :param work: opens one transaction, or only reads; nothing else that it does lasts.
    :param harmless: whether it only reads.
    :raises OutcomeUnknown: the connection was lost while a transaction without a key was
        being committed.
    """
    number = 0
    while True:
        number += 1
        attempt = _Attempt()
        before = _ATTEMPT.set(attempt)
        try:
            return work()
        except DBAPIError as error:
            reason = _reason(error, attempt, harmless=harmless)
            if reason is None or number == ATTEMPTS:
                raise
            log.info("transaction_repeated", reason=reason, attempt=number)
        finally:
            _ATTEMPT.reset(before)
        metrics.counter(
            "flagon_transaction_retries_total",
            "Transactions that were tried again.",
            "reason",
        ).labels(reason).inc()
        # Anywhere in the time ("full jitter"): two that have met do not meet again.
        time.sleep(random.uniform(0, _WAIT_SECONDS * 2 ** (number - 1)))  # noqa: S311


def _reason(error: DBAPIError, attempt: _Attempt, *, harmless: bool) -> str | None:
    """Return why it is right to try again; None: it is not.

    :raises OutcomeUnknown: see `retrying`.
    """
    if attempt.ended and not attempt.keyed:
        # What went wrong was another transaction than the one that did the work.
        return None
    sqlstate = cast("psycopg.Error", error.orig).sqlstate
    if sqlstate in _REASONS:
        return _REASONS[sqlstate]
    # Only a connection that there was: a database that is down needs more patience than
    # a client has.
    if not error.connection_invalidated:
        return None
    if attempt.ending and not attempt.keyed and not harmless:
        raise OutcomeUnknown(
            "The connection to the database was lost while it was told to keep the"
            " change. Read before you send it again."
        ) from error
    return "connection"


def retry_views(app: Flask) -> None:
    """Let every view so far be repeated as `retrying` says.

    So each opens one transaction, or only reads, and does nothing else that lasts.
    """
    for endpoint, view in app.view_functions.items():
        app.view_functions[endpoint] = _retried(cast("_View", view))


def _retried(view: _View) -> _View:
    @wraps(view)
    def answer(**values: object) -> ResponseReturnValue:
        harmless = request.method in {"GET", "HEAD", "OPTIONS"}
        return retrying(partial(view, **values), harmless=harmless)

    return answer


def config(url: str, folder: Path, *metadata: MetaData) -> "Config":
    """Return the Alembic configuration of one owner.

    :param url: the database, as the role that owns its tables.
    :param folder: the owner's revisions.
    :param metadata: what the revisions must add up to; for autogenerate and `check`.
    """
    from alembic.config import Config  # noqa: PLC0415 (10 MB that only migrations pay)

    result = Config()
    result.set_main_option("script_location", str(files(__package__) / "migrations"))
    result.set_main_option("path_separator", "newline")
    result.set_main_option("version_locations", str(folder))
    result.attributes["engine"] = create_engine(url, poolclass=NullPool)
    result.attributes["metadata"] = list(metadata)
    return result


def migrate(settings: DatabaseSettings, folder: Path) -> None:
    """Bring the database to the newest revision; safe to run twice and at once.

    :param folder: the owner's revisions.
    :raises ValueError: no owner URL is set.
    """
    if settings.owner_database_url is None:
        raise ValueError("Set OWNER_DATABASE_URL: only the owner may change tables.")
    url = settings.owner_database_url.get_secret_value()
    from alembic import command  # noqa: PLC0415 (see `config`)

    command.upgrade(config(url, folder), "head")


def revise(url: str, folder: Path, message: str, metadata: Sequence[MetaData]) -> None:
    """Write a new revision that takes the database at `url` to `metadata`."""
    from alembic import command  # noqa: PLC0415 (see `config`)

    command.revision(config(url, folder, *metadata), message, autogenerate=True)
