"""Tags of products, categories in categories, and the prices that products had."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    _tags()
    _tree()
    _prices()


def _tags() -> None:
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


def _tree() -> None:
    op.add_column("category", sa.Column("parent_id", sa.Uuid))
    op.add_column("category", sa.Column("path", postgresql.ARRAY(sa.Text)))
    # Those that exist are in none.
    op.execute("update category set path = array[slug]")
    op.alter_column("category", "path", nullable=False)
    op.create_foreign_key(
        "fk_category_parent_id_category", "category", "category", ["parent_id"], ["id"]
    )
    for name, rule in (
        ("levels", "cardinality(path) <= 6"),
        ("path_ends_here", "path[cardinality(path)] = slug"),
        ("path_begins_at_root", "(parent_id IS NULL) = (cardinality(path) = 1)"),
    ):
        op.create_check_constraint(f"ck_category_{name}", "category", rule)
    op.create_index(
        "ix_category_parent_id_name_id",
        "category",
        ["parent_id", sa.text("lower(name)"), "id"],
    )
    op.create_index("ix_category_path", "category", ["path"], postgresql_using="gin")
    for name, column in (
        ("name", sa.text("lower(name)")),
        ("price_minor", "price_minor"),
    ):
        op.create_index(
            f"ix_product_category_id_status_{name}_id",
            "product",
            ["category_id", "status", column, "id"],
        )


def _prices() -> None:
    op.create_table(
        "price",
        sa.Column("product_id", sa.Uuid),
        sa.Column("version", sa.Integer, autoincrement=False),
        sa.Column("price_minor", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.CHAR(3), nullable=False),
        sa.Column("from", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("product_id", "version", name="pk_price"),
        sa.ForeignKeyConstraint(
            ["product_id"],
            ["product.id"],
            name="fk_price_product_id_product",
            ondelete="CASCADE",
        ),
    )
    # Nobody knows since when the prices hold that there are, but since then at least.
    op.execute(
        'insert into price (product_id, version, price_minor, currency, "from")'
        " select id, version, price_minor, currency, updated_at from product"
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_table("price")
    for name in ("name", "price_minor"):
        op.drop_index(f"ix_product_category_id_status_{name}_id", "product")
    for column in ("parent_id", "path"):
        # Rules and indexes of a column go with it.
        op.drop_column("category", column)
    op.drop_table("product_tag")
    op.drop_table("tag")
