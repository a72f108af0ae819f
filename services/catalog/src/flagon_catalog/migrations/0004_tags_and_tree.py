"""Tags of products."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "tag",
        sa.Column("id", sa.Uuid),
        sa.Column("slug", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
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
        sa.PrimaryKeyConstraint("id", name="pk_tag"),
        sa.UniqueConstraint("slug", name="uq_tag_slug"),
    )
    op.create_index("ix_tag_name_id", "tag", [sa.text("lower(name)"), "id"])
    op.create_table(
        "product_tag",
        sa.Column("product_id", sa.Uuid),
        sa.Column("tag_id", sa.Uuid),
        sa.PrimaryKeyConstraint("product_id", "tag_id", name="pk_product_tag"),
        sa.ForeignKeyConstraint(
            ["product_id"],
            ["product.id"],
            name="fk_product_tag_product_id_product",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tag_id"], ["tag.id"], name="fk_product_tag_tag_id_tag"
        ),
    )
    op.create_index(
        "ix_product_tag_tag_id_product_id", "product_tag", ["tag_id", "product_id"]
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_table("product_tag")
    op.drop_table("tag")
