"""What is asked for until it is done."""

from alembic import op

from flagon_chassis import tables

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    tables.create(op.get_bind(), "errand")


def downgrade() -> None:
    """Take the change back."""
    tables.drop(op.get_bind(), "errand")
