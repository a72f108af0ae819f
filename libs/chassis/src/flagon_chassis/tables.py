"""The tables that make messages and repeated requests safe; each owner migrates its own."""

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Constraint names for every owner's metadata, so that migrations can name them."""

METADATA = MetaData(naming_convention=NAMING)

outbox = Table(
    "outbox",
    METADATA,
    Column("sequence", BigInteger, Identity(), primary_key=True),
    Column("id", UUID(as_uuid=True), nullable=False, unique=True),
    # "event" goes to the stream, "task" to the queue.
    Column("channel", Text, nullable=False),
    # The event's type or the task's name.
    Column("name", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", JSONB, nullable=False),
    # {"traceparent": …, "request_id": …}: what ties the message to its request.
    Column("headers", JSONB, nullable=False, server_default=text("'{}'")),
    Column(
        "created_at", DateTime(timezone=True), nullable=False, server_default=func.now()
    ),
    Column("sent_at", DateTime(timezone=True)),
)
Index(
    "ix_outbox_pending", outbox.c.sequence, postgresql_where=outbox.c.sent_at.is_(None)
)
Index(
    "ix_outbox_sent", outbox.c.sent_at, postgresql_where=outbox.c.sent_at.is_not(None)
)

inbox = Table(
    "inbox",
    METADATA,
    Column("consumer", Text, primary_key=True),
    Column("event_id", UUID(as_uuid=True), primary_key=True),
    Column(
        "received_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=func.now(),
        index=True,
    ),
)

idempotency_key = Table(
    "idempotency_key",
    METADATA,
    # Who asked for what: subject, method and path.
    Column("scope", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("headers", JSONB, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column(
        "created_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=func.now(),
        index=True,
    ),
)

errand = Table(
    "errand",
    METADATA,
    # A task, and what it is about: there is one errand for both at a time.
    Column("name", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    # Of its message, each time that it is sent.
    Column("id", UUID(as_uuid=True), nullable=False),
    Column("body", JSONB, nullable=False),
    Column("headers", JSONB, nullable=False),
    Column(
        "created_at", DateTime(timezone=True), nullable=False, server_default=func.now()
    ),
    # When its message is sent again.
    Column("ask_at", DateTime(timezone=True), nullable=False, index=True),
    Column("asks", SmallInteger, nullable=False, server_default=text("0")),
    # From then on it has no sense any more.
    Column("until", DateTime(timezone=True), nullable=False),
)

audit = Table(
    "audit",
    METADATA,
    Column("sequence", BigInteger, Identity(always=True), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # Subject of the token that asked for it, or `system`.
    Column("actor", Text, nullable=False),
    # The program that the token was given to.
    Column("client", Text),
    Column("action", Text, nullable=False),
    Column("entity", Text, nullable=False),
    Column("entity_id", UUID(as_uuid=True), nullable=False),
    # The new one, or the last.
    Column("version", Integer, nullable=False),
    # What each member was and became, by name.
    Column("changes", JSONB, nullable=False),
    Column("request_id", Text),
    Column("trace_id", Text),
    Index("ix_audit_entity_sequence", "entity", "sequence"),
    Index("ix_audit_entity_id_sequence", "entity_id", "sequence"),
    Index("ix_audit_actor_sequence", "actor", "sequence"),
    # For removing what is old: rows lie in the order of their times.
    Index("ix_audit_at", "at", postgresql_using="brin"),
)


def append_only(connection: Connection, table: str) -> None:
    """Let nobody but its owner change or remove rows of a table; for an owner's migration.

    What they have been granted to read and to add stays.
    """
    quote = connection.dialect.identifier_preparer.quote
    grantees = connection.scalars(
        text(
            "select distinct grantee from information_schema.role_table_grants"
            " where table_name = :name and grantee <> current_user"
        ),
        {"name": table},
    )
    for grantee in grantees.all():
        who = "public" if grantee == "PUBLIC" else quote(grantee)
        connection.execute(
            text(f"revoke update, delete, truncate on {quote(table)} from {who}")
        )


def create(connection: Connection, *names: str) -> None:
    """Create the named tables; called from an owner's migration with `op.get_bind()`."""
    METADATA.create_all(
        connection, tables=[METADATA.tables[name] for name in names], checkfirst=False
    )


def drop(connection: Connection, *names: str) -> None:
    """Drop the named tables; called from an owner's migration."""
    METADATA.drop_all(
        connection, tables=[METADATA.tables[name] for name in names], checkfirst=False
    )
