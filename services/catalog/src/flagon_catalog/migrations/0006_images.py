"""Images of products, and the pictures that they show."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "picture",
        sa.Column("sha256", sa.CHAR(64)),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column(
            "widths",
            postgresql.ARRAY(sa.Integer),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        _moment("created_at"),
        sa.PrimaryKeyConstraint("sha256", name="pk_picture"),
        sa.CheckConstraint(
            "bytes > 0 and width > 0 and height > 0", name=op.f("ck_picture_sizes")
        ),
    )
    op.create_table(
        "image",
        sa.Column("id", sa.Uuid),
        sa.Column("product_id", sa.Uuid, nullable=False),
        sa.Column("sha256", sa.CHAR(64), nullable=False),
        sa.Column("alt", sa.Text, nullable=False),
        sa.Column("position", sa.SmallInteger, nullable=False),
        sa.Column("version", sa.Integer, server_default=sa.text("1"), nullable=False),
        _moment("created_at"),
        _moment("updated_at"),
        sa.PrimaryKeyConstraint("id", name="pk_image"),
        sa.ForeignKeyConstraint(
            ["product_id"],
            ["product.id"],
            name="fk_image_product_id_product",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["sha256"], ["picture.sha256"], name="fk_image_sha256_picture"
        ),
        sa.UniqueConstraint(
            "product_id",
            "position",
            name="uq_image_product_id_position",
            deferrable=True,
            initially="DEFERRED",
        ),
        sa.UniqueConstraint("product_id", "sha256", name="uq_image_product_id_sha256"),
        sa.CheckConstraint("position >= 0", name=op.f("ck_image_position")),
    )
    op.create_index("ix_image_sha256", "image", ["sha256"])


def downgrade() -> None:
    """Take the change back; the files stay."""
    op.drop_table("image")
    op.drop_table("picture")


def _moment(name: str) -> sa.Column[object]:
    return sa.Column(
        name,
        sa.DateTime(timezone=True),
        server_default=sa.func.now(),
        nullable=False,
    )
