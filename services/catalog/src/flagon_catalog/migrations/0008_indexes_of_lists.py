"""Indexes for lists that read every row: of a rare currency, and of all reviews."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.create_index("ix_product_currency", "product", ["currency"])
    op.create_index("ix_review_created_at_id", "review", ["created_at", "id"])


def downgrade() -> None:
    """Take the change back."""
    op.drop_index("ix_review_created_at_id")
    op.drop_index("ix_product_currency")
