"""Jobs, the event archive and the chassis's tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

from flagon_chassis import tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_CHASSIS = ("outbox", "inbox", "idempotency_key")


def upgrade() -> None:
    """Create everything."""
    tables.create(op.get_bind(), *_CHASSIS)
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "job",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("params", pg.JSONB(), nullable=False),
        sa.Column("upload", pg.JSONB()),
        sa.Column("progress_done", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("progress_total", sa.BigInteger()),
        sa.Column(
            "progress_unit", sa.Text(), server_default=sa.text("''"), nullable=False
        ),
        sa.Column(
            "progress_message", sa.Text(), server_default=sa.text("''"), nullable=False
        ),
        sa.Column("result", pg.JSONB()),
        sa.Column("error", sa.Text()),
        sa.Column(
            "artefacts",
            pg.ARRAY(sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("crashes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("troubles", sa.Integer(), server_default="0", nullable=False),
        sa.Column("troubled_since", moment),
        sa.Column(
            "cancel_requested",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
        ),
        sa.Column("lease_token", sa.Uuid()),
        sa.Column("lease_until", moment),
        sa.Column("wake_at", moment, nullable=False),
        sa.Column("checkpoint", pg.JSONB()),
        sa.Column("headers", pg.JSONB(), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("queued_at", moment, nullable=False),
        sa.Column("started_at", moment),
        sa.Column("finished_at", moment),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.CheckConstraint(
            "state in ('queued', 'running', 'succeeded', 'failed', 'cancelled')",
            name=op.f("ck_job_state_known"),
        ),
        sa.CheckConstraint(
            "(lease_token is null) = (lease_until is null)",
            name=op.f("ck_job_lease_whole"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        # Rows change at every step: room on the page keeps the indexes out of it.
        postgresql_with={"fillfactor": 70},
    )
    op.create_index("ix_job_owner_id", "job", ["owner", "id"])
    op.create_index(
        "ix_job_wake_at",
        "job",
        ["wake_at"],
        postgresql_where=sa.text("state in ('queued', 'running')"),
    )
    op.create_index("ix_job_finished_at", "job", ["finished_at"])
    op.create_table(
        "event_archive",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("time", moment, nullable=False),
        sa.Column("event", pg.JSONB(), nullable=False),
        sa.Column(
            "received_at", moment, server_default=sa.text("now()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event_archive")),
    )
    op.create_index("ix_event_archive_subject_id", "event_archive", ["subject", "id"])
    op.create_index("ix_event_archive_received_at", "event_archive", ["received_at"])


def downgrade() -> None:
    """Drop everything."""
    op.drop_table("event_archive")
    op.drop_table("job")
    tables.drop(op.get_bind(), *_CHASSIS)
