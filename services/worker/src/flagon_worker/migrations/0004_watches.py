"""Products whose price somebody follows."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "watch",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.Column("below_minor", sa.BigInteger()),
        sa.Column("currency", sa.Text()),
        sa.Column("seen_minor", sa.BigInteger()),
        sa.Column("seen_currency", sa.Text()),
        sa.Column("seen_version", sa.BigInteger()),
        sa.Column("told_at", moment),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("updated_at", moment, nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.CheckConstraint(
            "(below_minor is null) = (currency is null)",
            name=op.f("ck_watch_below_whole"),
        ),
        sa.CheckConstraint(
            "(seen_minor is null) = (seen_currency is null)",
            name=op.f("ck_watch_seen_whole"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_watch")),
        sa.UniqueConstraint(
            "owner", "product_id", name=op.f("uq_watch_owner_product_id")
        ),
        postgresql_with={"fillfactor": 80},
    )
    op.create_index("ix_watch_owner_id", "watch", ["owner", "id"])
    op.create_index("ix_watch_product_id", "watch", ["product_id"])


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("watch")
