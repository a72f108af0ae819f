"""Which events had their effect here."""

from alembic import op

from flagon_chassis import tables

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    tables.create(op.get_bind(), "inbox")


def downgrade() -> None:
    """Take the change back."""
    tables.drop(op.get_bind(), "inbox")
