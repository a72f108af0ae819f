"""What each attempt did, dead letters, and whose turn is next."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_READY = sa.text("state in ('queued', 'running') and lease_token is null")


def upgrade() -> None:
    """Add the tables, columns and indexes."""
    moment = sa.DateTime(timezone=True)
    op.add_column("job", sa.Column("dead", sa.Text()))
    op.add_column(
        "job", sa.Column("log_lines", sa.Integer(), server_default="0", nullable=False)
    )
    op.create_check_constraint(
        op.f("ck_job_dead_known"),
        "job",
        "dead is null or state = 'failed' and dead in ('poison', 'exhausted')",
    )
    op.create_index(
        "ix_job_dead", "job", ["id"], postgresql_where=sa.text("dead is not null")
    )
    op.create_index(
        "ix_job_ready",
        "job",
        ["queue", "owner", "queued_at", "id"],
        postgresql_where=_READY,
    )
    op.create_index(
        "ix_job_held",
        "job",
        ["queue", "owner"],
        postgresql_where=sa.text("lease_token is not null"),
    )
    op.create_table(
        "job_attempt",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("started_at", moment, nullable=False),
        sa.Column("ended_at", moment),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_job_attempt")),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["job.id"],
            name=op.f("fk_job_attempt_job_id_job"),
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "job_log",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", moment, nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_job_log")),
        sa.CheckConstraint(
            "level in ('info', 'warning', 'error')", name=op.f("ck_job_log_level_known")
        ),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["job.id"],
            name=op.f("fk_job_log_job_id_job"),
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "job_turn",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("served_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("queue", "owner", name=op.f("pk_job_turn")),
    )
    op.create_table(
        "kind_bucket",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("tokens", sa.Double(), nullable=False),
        sa.Column("filled_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("kind", name=op.f("pk_kind_bucket")),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("kind_bucket", "job_turn", "job_log", "job_attempt"):
        op.drop_table(table)
    for index in ("ix_job_held", "ix_job_ready", "ix_job_dead"):
        op.drop_index(index, "job")
    op.drop_constraint(op.f("ck_job_dead_known"), "job")
    op.drop_column("job", "log_lines")
    op.drop_column("job", "dead")
