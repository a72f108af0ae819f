"""What categories ask of the attributes of their products."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.add_column("category", sa.Column("attribute_schema", postgresql.JSONB))
    op.create_check_constraint(
        "ck_category_attribute_schema",
        "category",
        "jsonb_typeof(attribute_schema) = 'object'",
    )


def downgrade() -> None:
    """Take the change back."""
    # Its rule goes with it.
    op.drop_column("category", "attribute_schema")
