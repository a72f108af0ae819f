"""Reviews, and what they add up to on their products."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    # A constant default is kept beside the table: no row is rewritten.
    for name in ("rating_count", "rating_sum"):
        op.add_column(
            "product",
            sa.Column(name, sa.Integer, server_default=sa.text("0"), nullable=False),
        )
    op.create_check_constraint(
        op.f("ck_product_rating"),
        "product",
        "rating_sum between rating_count and 5 * rating_count",
    )
    op.create_table(
        "review",
        sa.Column("id", sa.Uuid),
        sa.Column("product_id", sa.Uuid, nullable=False),
        sa.Column("subject", sa.Uuid, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("rating", sa.SmallInteger, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("body_html", sa.Text, nullable=False),
        sa.Column("language", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("note", sa.Text),
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
        sa.PrimaryKeyConstraint("id", name="pk_review"),
        sa.ForeignKeyConstraint(
            ["product_id"],
            ["product.id"],
            name="fk_review_product_id_product",
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint(
            "product_id", "subject", name="uq_review_product_id_subject"
        ),
        sa.CheckConstraint("rating between 1 and 5", name=op.f("ck_review_rating")),
        sa.CheckConstraint(
            "state in ('pending', 'published', 'rejected')",
            name=op.f("ck_review_state"),
        ),
    )
    for column in ("created_at", "rating"):
        op.create_index(
            f"ix_review_product_id_{column}_id",
            "review",
            ["product_id", column, "id"],
            postgresql_where=sa.text("state = 'published'"),
        )
    for column in ("subject", "state"):
        op.create_index(
            f"ix_review_{column}_created_at_id", "review", [column, "created_at", "id"]
        )


def downgrade() -> None:
    """Take the change back."""
    op.drop_table("review")
    op.drop_constraint(op.f("ck_product_rating"), "product")
    op.drop_column("product", "rating_sum")
    op.drop_column("product", "rating_count")
