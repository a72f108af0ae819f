"""Reservations of stock, and which versions of a product were sales alone."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    # A constant default: no row is rewritten, whatever the table's size.
    op.add_column(
        "product",
        sa.Column(
            "versions_sold", sa.Integer, server_default=sa.text("0"), nullable=False
        ),
    )
    op.create_table(
        "reservation",
        sa.Column("id", sa.Uuid),
        sa.Column("product_id", sa.Uuid, nullable=False),
        sa.Column("quantity", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("reference", sa.Text),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("version", sa.Integer, server_default=sa.text("1"), nullable=False),
        *(
            sa.Column(
                name,
                sa.DateTime(timezone=True),
                server_default=sa.func.now(),
                nullable=False,
            )
            for name in ("created_at", "updated_at")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_reservation"),
        sa.CheckConstraint("quantity > 0", name="ck_reservation_quantity"),
        sa.CheckConstraint(
            "state in ('held', 'committed', 'released', 'expired')",
            name="ck_reservation_state",
        ),
    )
    for columns in (["holder", "id"], ["product_id", "id"]):
        op.create_index(f"ix_reservation_{'_'.join(columns)}", "reservation", columns)
    op.create_index(
        "ix_reservation_held",
        "reservation",
        ["product_id", "expires_at"],
        postgresql_include=["quantity"],
        postgresql_where=sa.text("state = 'held'"),
    )
    op.create_index(
        "ix_reservation_due",
        "reservation",
        ["expires_at"],
        postgresql_where=sa.text("state = 'held'"),
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_table("reservation")
    op.drop_column("product", "versions_sold")
