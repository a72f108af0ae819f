"""The HTML of descriptions, stored beside them."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    # Without a value: no row is written anew, whatever their number. What is shown of those
    # that have none is made when they are read, until `products render` has been there.
    op.add_column("product", sa.Column("description_html", sa.Text(), nullable=True))


def downgrade() -> None:
    """Take it back."""
    op.drop_column("product", "description_html")
