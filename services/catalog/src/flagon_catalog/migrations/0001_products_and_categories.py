"""Products, categories and the tables that make messages and repetitions safe."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from flagon_chassis import tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# A copy of what models.SEARCH was then: a revision never changes with the code.
_FOLDED = "regexp_replace(normalize({0}, NFD), '[\u0300-\u036f]', '', 'g')"
_SEARCH = (
    "setweight(to_tsvector('english', {name}), 'A')"
    " || setweight(to_tsvector('simple', {name} || ' ' || sku), 'A')"
    " || setweight(jsonb_to_tsvector('english', ({attributes})::jsonb,"
    " '[\"string\"]'), 'B')"
    " || setweight(to_tsvector('english', {description}), 'C')"
).format(
    name=_FOLDED.format("name"),
    attributes=_FOLDED.format("attributes::text"),
    description=_FOLDED.format("description"),
)


def _common() -> list[sa.Column[Any]]:
    return [
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
    ]


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "category",
        sa.Column("id", sa.Uuid),
        sa.Column("slug", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        *_common(),
        sa.PrimaryKeyConstraint("id", name="pk_category"),
        sa.UniqueConstraint("slug", name="uq_category_slug"),
    )
    op.create_index("ix_category_name_id", "category", [sa.text("lower(name)"), "id"])
    op.create_table(
        "product",
        sa.Column("id", sa.Uuid),
        sa.Column("sku", sa.Text, nullable=False),
        sa.Column("slug", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("price_minor", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.CHAR(3), nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("stock", sa.Integer, nullable=False),
        sa.Column("category_id", sa.Uuid),
        sa.Column("attributes", postgresql.JSONB, nullable=False),
        *_common(),
        sa.Column(
            "search",
            postgresql.TSVECTOR,
            sa.Computed(_SEARCH, persisted=True),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name="pk_product"),
        sa.UniqueConstraint("sku", name="uq_product_sku"),
        sa.UniqueConstraint("slug", name="uq_product_slug"),
        sa.ForeignKeyConstraint(
            ["category_id"], ["category.id"], name="fk_product_category_id_category"
        ),
        sa.CheckConstraint("price_minor >= 0", name="ck_product_price"),
        sa.CheckConstraint("stock >= 0", name="ck_product_stock"),
        sa.CheckConstraint(
            "status in ('draft', 'active', 'archived')", name="ck_product_status"
        ),
    )
    for columns in (
        ["status", "created_at", "id"],
        ["status", "price_minor", "id"],
        ["category_id", "status", "created_at", "id"],
    ):
        op.create_index(f"ix_product_{'_'.join(columns)}", "product", columns)
    op.create_index(
        "ix_product_status_name_id", "product", ["status", sa.text("lower(name)"), "id"]
    )
    op.create_index("ix_product_search", "product", ["search"], postgresql_using="gin")
    tables.create(op.get_bind(), "outbox", "idempotency_key")


def downgrade() -> None:
    """Take the change back."""
    tables.drop(op.get_bind(), "outbox", "idempotency_key")
    op.drop_table("product")
    op.drop_table("category")
