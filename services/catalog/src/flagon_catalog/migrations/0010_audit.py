"""Who changed what; written once, and removed by age alone."""

from alembic import op

from flagon_chassis import audit

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    audit.create(op.get_bind())


def downgrade() -> None:
    """Take it back."""
    audit.drop(op.get_bind())
