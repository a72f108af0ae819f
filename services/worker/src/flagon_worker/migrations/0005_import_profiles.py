"""Mappings of columns that people keep."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "import_profile",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("mapping", pg.JSONB(), nullable=False),
        sa.Column("defaults", pg.JSONB(), nullable=False),
        sa.Column("encoding", sa.Text()),
        sa.Column("delimiter", sa.Text()),
        sa.Column("decimals", sa.Text(), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("updated_at", moment, nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_import_profile")),
        sa.UniqueConstraint("owner", "name", name=op.f("uq_import_profile_owner_name")),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("import_profile")
