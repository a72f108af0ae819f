"""Schedules and their firings, webhooks and their deliveries."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables; the platform's own schedules are beat's to make."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "schedule",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text()),
        sa.Column("task", sa.Text()),
        sa.Column("task_queue", sa.Text()),
        sa.Column("params", pg.JSONB(), nullable=False),
        sa.Column("owner", sa.Text()),
        sa.Column("cron", sa.Text()),
        sa.Column("interval_seconds", sa.Float()),
        sa.Column("least_seconds", sa.Float()),
        sa.Column("most_seconds", sa.Float()),
        sa.Column("time_zone", sa.Text(), nullable=False),
        sa.Column("anchor_at", moment, nullable=False),
        sa.Column("jitter_seconds", sa.Float(), server_default="0", nullable=False),
        sa.Column("catch_up", sa.Text(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("next_due_at", moment),
        sa.Column("next_run_at", moment),
        sa.Column("last_due_at", moment),
        sa.Column("last_run_at", moment),
        sa.Column("last_firing_id", sa.Uuid()),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("updated_at", moment, nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.CheckConstraint(
            "(kind is null) <> (task is null)", name=op.f("ck_schedule_one_action")
        ),
        sa.CheckConstraint(
            "(cron is null) <> (interval_seconds is null)",
            name=op.f("ck_schedule_one_timing"),
        ),
        sa.CheckConstraint(
            "catch_up in ('skip', 'once', 'all')",
            name=op.f("ck_schedule_catch_up_known"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedule")),
        sa.UniqueConstraint("name", name=op.f("uq_schedule_name")),
    )
    op.create_index(
        "ix_schedule_next_run_at",
        "schedule",
        ["next_run_at"],
        postgresql_where=sa.text("enabled"),
    )
    op.create_table(
        "schedule_firing",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("schedule_id", sa.Uuid(), nullable=False),
        sa.Column("due_at", moment, nullable=False),
        sa.Column("fired_at", moment, nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid()),
        sa.Column("error", sa.Text()),
        sa.Column("asks", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("ask_at", moment),
        sa.CheckConstraint(
            "cause in ('time', 'person')", name=op.f("ck_schedule_firing_cause_known")
        ),
        sa.ForeignKeyConstraint(
            ["schedule_id"],
            ["schedule.id"],
            name=op.f("fk_schedule_firing_schedule_id_schedule"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedule_firing")),
        sa.UniqueConstraint(
            "schedule_id", "due_at", name=op.f("uq_schedule_firing_schedule_id_due_at")
        ),
    )
    op.create_index(
        "ix_schedule_firing_ask_at",
        "schedule_firing",
        ["ask_at"],
        postgresql_where=sa.text("ask_at is not null"),
    )
    op.create_index("ix_schedule_firing_fired_at", "schedule_firing", ["fired_at"])
    _webhooks(moment)


def _webhooks(moment: sa.DateTime) -> None:
    op.create_table(
        "webhook_endpoint",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("event_types", pg.ARRAY(sa.Text()), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("previous_secret", sa.LargeBinary()),
        sa.Column("previous_until", moment),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("paused_until", moment),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("updated_at", moment, nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoint")),
    )
    op.create_table(
        "webhook_delivery",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("endpoint_id", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("log", pg.JSONB(), nullable=False),
        sa.Column("due_at", moment, nullable=False),
        sa.Column("ask_at", moment, nullable=False),
        sa.Column("claim", sa.Uuid()),
        sa.Column("claimed_until", moment),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("ended_at", moment),
        sa.CheckConstraint(
            "state in ('waiting', 'delivered', 'dead')",
            name=op.f("ck_webhook_delivery_state_known"),
        ),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["webhook_endpoint.id"],
            name=op.f("fk_webhook_delivery_endpoint_id_webhook_endpoint"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_delivery")),
        sa.UniqueConstraint(
            "endpoint_id",
            "event_id",
            name=op.f("uq_webhook_delivery_endpoint_id_event_id"),
        ),
    )
    op.create_index(
        "ix_webhook_delivery_ask_at",
        "webhook_delivery",
        ["ask_at"],
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_index(
        "ix_webhook_delivery_endpoint_id_id", "webhook_delivery", ["endpoint_id", "id"]
    )
    op.create_index(
        "ix_webhook_delivery_created_at", "webhook_delivery", ["created_at"]
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("webhook_delivery")
    op.drop_table("webhook_endpoint")
    op.drop_table("schedule_firing")
    op.drop_table("schedule")
