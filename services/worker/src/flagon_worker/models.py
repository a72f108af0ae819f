"""The worker's tables."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    Index,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flagon_chassis.tables import NAMING

STATES = ("queued", "running", "succeeded", "failed", "cancelled")
FINISHED = ("succeeded", "failed", "cancelled")


class Base(DeclarativeBase):
    """All of the worker's tables."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 (declared so by SQLAlchemy)
        datetime: DateTime(timezone=True),
        str: Text,
        dict[str, Any]: JSONB(none_as_null=True),
        list[str]: ARRAY(Text),
    }


class Job(Base):
    """One piece of work that a caller handed over; this row is the truth about it."""

    __tablename__ = "job"
    __table_args__ = (
        CheckConstraint(f"state in {STATES}", name="state_known"),
        CheckConstraint(
            "(lease_token is null) = (lease_until is null)", name="lease_whole"
        ),
        # Newest first, of one owner or of all: ids are UUIDv7, so their order is time's.
        Index("ix_job_owner_id", "owner", "id"),
        # What the reaper looks at: few rows, however many jobs there ever were.
        Index(
            "ix_job_wake_at",
            "wake_at",
            postgresql_where=text("state in ('queued', 'running')"),
        ),
        Index("ix_job_finished_at", "finished_at"),
        CheckConstraint(
            "dead is null or state = 'failed' and dead in ('poison', 'exhausted')",
            name="dead_known",
        ),
        Index("ix_job_dead", "id", postgresql_where=text("dead is not null")),
        # Whose turn is next: jobs that a worker may take, and those that one has.
        Index(
            "ix_job_ready",
            "queue",
            "owner",
            "queued_at",
            "id",
            postgresql_where=text(
                "state in ('queued', 'running') and lease_token is null"
            ),
        ),
        Index(
            "ix_job_held",
            "queue",
            "owner",
            postgresql_where=text("lease_token is not null"),
        ),
        {"postgresql_with": {"fillfactor": 70}},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str]
    queue: Mapped[str]
    owner: Mapped[str]
    """The account's id, or the client's for a service."""
    state: Mapped[str]
    params: Mapped[dict[str, Any]]
    upload: Mapped[dict[str, Any] | None]
    """Name, size and SHA-256 of the file it came with."""

    progress_done: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    progress_total: Mapped[int | None] = mapped_column(BigInteger)
    progress_unit: Mapped[str] = mapped_column(server_default=text("''"))
    progress_message: Mapped[str] = mapped_column(server_default=text("''"))
    result: Mapped[dict[str, Any] | None]
    error: Mapped[str | None]
    """Why it failed and what to do, for people."""
    dead: Mapped[str | None]
    """Why nobody tries a failed job again by itself: `poison` (it takes its workers
    down) or `exhausted` (what it needs stayed away too long)."""
    artefacts: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    """Names of the files that it made."""

    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    """How often a worker took it up after it had been queued."""
    log_lines: Mapped[int] = mapped_column(server_default=text("0"))
    """Lines that were ever written to its log; the newest are kept."""
    crashes: Mapped[int] = mapped_column(server_default=text("0"))
    """Workers lost over it since its last progress."""
    troubles: Mapped[int] = mapped_column(server_default=text("0"))
    """Pauses for want of another service since its last progress."""
    troubled_since: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(server_default=text("false"))
    lease_token: Mapped[UUID | None]
    """Who may write to a running job; None while it waits for its next slice."""
    lease_until: Mapped[datetime | None]
    wake_at: Mapped[datetime]
    """When it may start and, from then on, when its message is looked for."""
    checkpoint: Mapped[dict[str, Any] | None]
    """Where the kind of job goes on after an interruption; private to the kind."""
    headers: Mapped[dict[str, Any]]
    """Trace and request id of the request that submitted it."""

    created_at: Mapped[datetime]
    queued_at: Mapped[datetime]
    """When it last became ready to start."""
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))


class Attempt(Base):
    """One attempt at a job: from when it was taken up until it ended or was put back."""

    __tablename__ = "job_attempt"

    job_id: Mapped[UUID] = mapped_column(
        ForeignKey("job.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True)
    """1 for the first; a retry goes on counting."""
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    worker: Mapped[str]
    """Who had it last: host and process."""
    outcome: Mapped[str | None]
    """A final state, or `paused`, `handed_back`, `crashed`; None while it goes on."""
    error: Mapped[str | None]


class LogLine(Base):
    """One line of a job's own log, for its owner."""

    __tablename__ = "job_log"
    __table_args__ = (
        CheckConstraint("level in ('info', 'warning', 'error')", name="level_known"),
    )

    job_id: Mapped[UUID] = mapped_column(
        ForeignKey("job.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True)
    """1 for the first that was ever written."""
    at: Mapped[datetime]
    level: Mapped[str]
    text: Mapped[str]


class Turn(Base):
    """When an owner last got a worker of a queue: who waited longest is next."""

    __tablename__ = "job_turn"

    queue: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(primary_key=True)
    served_at: Mapped[datetime]


class Bucket(Base):
    """How many jobs of a kind may start: a token bucket."""

    __tablename__ = "kind_bucket"

    kind: Mapped[str] = mapped_column(primary_key=True)
    tokens: Mapped[float] = mapped_column(Double)
    filled_at: Mapped[datetime]


class ArchivedEvent(Base):
    """One event of the platform, as it went over the stream."""

    __tablename__ = "event_archive"
    __table_args__ = (
        Index("ix_event_archive_subject_id", "subject", "id"),
        Index("ix_event_archive_received_at", "received_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    source: Mapped[str]
    type: Mapped[str]
    subject: Mapped[str]
    time: Mapped[datetime]
    event: Mapped[dict[str, Any]]
    """The whole CloudEvents envelope."""
    received_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class Schedule(Base):
    """Something that happens again and again: a kind of job, or a task of the platform."""

    __tablename__ = "schedule"
    __table_args__ = (
        CheckConstraint("(kind is null) <> (task is null)", name="one_action"),
        CheckConstraint(
            "(cron is null) <> (interval_seconds is null)", name="one_timing"
        ),
        CheckConstraint("catch_up in ('skip', 'once', 'all')", name="catch_up_known"),
        UniqueConstraint("name"),
        Index(
            "ix_schedule_next_run_at", "next_run_at", postgresql_where=text("enabled")
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    kind: Mapped[str | None]
    """The kind of job that it starts."""
    task: Mapped[str | None]
    """Instead of a kind: the platform's own task that it sends."""
    task_queue: Mapped[str | None]
    params: Mapped[dict[str, Any]]
    owner: Mapped[str | None]
    """Whose jobs it starts; None for the platform's own."""
    cron: Mapped[str | None]
    interval_seconds: Mapped[float | None]
    least_seconds: Mapped[float | None]
    """Shortest interval that the platform bears here; None: anybody's own."""
    most_seconds: Mapped[float | None]
    time_zone: Mapped[str]
    anchor_at: Mapped[datetime]
    """Where intervals are counted from."""
    jitter_seconds: Mapped[float] = mapped_column(server_default=text("0"))
    catch_up: Mapped[str]
    enabled: Mapped[bool]
    next_due_at: Mapped[datetime | None]
    next_run_at: Mapped[datetime | None]
    """When it is due, jitter included."""
    last_due_at: Mapped[datetime | None]
    last_run_at: Mapped[datetime | None]
    last_firing_id: Mapped[UUID | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))


class ScheduleFiring(Base):
    """One time that a schedule came due and was fired; there is no second for that time."""

    __tablename__ = "schedule_firing"
    __table_args__ = (
        UniqueConstraint("schedule_id", "due_at"),
        CheckConstraint("cause in ('time', 'person')", name="cause_known"),
        Index(
            "ix_schedule_firing_ask_at",
            "ask_at",
            postgresql_where=text("ask_at is not null"),
        ),
        Index("ix_schedule_firing_fired_at", "fired_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    schedule_id: Mapped[UUID] = mapped_column(
        ForeignKey("schedule.id", ondelete="CASCADE")
    )
    due_at: Mapped[datetime]
    fired_at: Mapped[datetime]
    cause: Mapped[str]
    job_id: Mapped[UUID | None]
    """The job that came of it; it may be forgotten by now."""
    error: Mapped[str | None]
    """Why no job came of it."""
    asks: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    ask_at: Mapped[datetime | None]
    """When its message is sent again; None: it has had its effect."""


class WebhookEndpoint(Base):
    """An address of somebody else that wants to hear of events."""

    __tablename__ = "webhook_endpoint"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    owner: Mapped[str]
    url: Mapped[str]
    description: Mapped[str]
    event_types: Mapped[list[str]]
    enabled: Mapped[bool]
    secret: Mapped[bytes]
    """Sealed."""
    previous_secret: Mapped[bytes | None]
    previous_until: Mapped[datetime | None]
    """Until then both secrets sign."""
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    """In a row."""
    paused_until: Mapped[datetime | None]
    """Nothing is sent before: the circuit is open."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))


class WebhookDelivery(Base):
    """One event on its way to one endpoint."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        CheckConstraint(
            "state in ('waiting', 'delivered', 'dead')", name="state_known"
        ),
        UniqueConstraint("endpoint_id", "event_id"),
        Index(
            "ix_webhook_delivery_ask_at",
            "ask_at",
            postgresql_where=text("state = 'waiting'"),
        ),
        Index("ix_webhook_delivery_endpoint_id_id", "endpoint_id", "id"),
        Index("ix_webhook_delivery_created_at", "created_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    endpoint_id: Mapped[UUID] = mapped_column(
        ForeignKey("webhook_endpoint.id", ondelete="CASCADE")
    )
    event_id: Mapped[UUID]
    event_type: Mapped[str]
    body: Mapped[str]
    """Exactly what is sent and signed."""
    state: Mapped[str]
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    log: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    """The latest attempts, oldest first."""
    due_at: Mapped[datetime]
    """Not sent before."""
    ask_at: Mapped[datetime]
    """When its message is sent again."""
    claim: Mapped[UUID | None]
    claimed_until: Mapped[datetime | None]
    """Until then one worker has it."""
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class Watch(Base):
    """A product whose price somebody follows, and what was last seen of it."""

    __tablename__ = "watch"
    __table_args__ = (
        UniqueConstraint("owner", "product_id"),
        CheckConstraint(
            "(below_minor is null) = (currency is null)", name="below_whole"
        ),
        CheckConstraint(
            "(seen_minor is null) = (seen_currency is null)", name="seen_whole"
        ),
        Index("ix_watch_owner_id", "owner", "id"),
        Index("ix_watch_product_id", "product_id"),
        # Each new price writes the rows of all who follow it.
        {"postgresql_with": {"fillfactor": 80}},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    owner: Mapped[str]
    product_id: Mapped[UUID]
    below_minor: Mapped[int | None] = mapped_column(BigInteger)
    """Tell only of prices below this one; None: of every lower price."""
    currency: Mapped[str | None]
    seen_minor: Mapped[int | None] = mapped_column(BigInteger)
    """The last price that the product was on sale for; None: not known yet."""
    seen_currency: Mapped[str | None]
    seen_version: Mapped[int | None] = mapped_column(BigInteger)
    """The version of the product that was looked at last."""
    told_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))


class ImportProfile(Base):
    """How somebody maps the columns of a supplier's files."""

    __tablename__ = "import_profile"
    __table_args__ = (UniqueConstraint("owner", "name"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    owner: Mapped[str]
    name: Mapped[str]
    mapping: Mapped[dict[str, Any]]
    """The file's column for each target."""
    defaults: Mapped[dict[str, Any]]
    encoding: Mapped[str | None]
    delimiter: Mapped[str | None]
    decimals: Mapped[str]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
