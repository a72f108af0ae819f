"""Searches find what was meant: the words of products, to be found by their trigrams."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# About what `domain.words` keeps of products that are written from now on.
_WORDS = r"""
INSERT INTO word (text)
SELECT DISTINCT found.text FROM product,
    unnest(ARRAY[name] || ARRAY(
        SELECT value #>> '{}'
        FROM jsonb_path_query(attributes, 'strict $.** ? (@.type() == "string")')
            AS inner_value (value)
        WHERE length(value #>> '{}') <= 200
    )) AS part (text),
    regexp_split_to_table(
        regexp_replace(lower(normalize(part.text, NFD)), '[\u0300-\u036f]', '', 'g'),
        '\W+'
    ) AS found (text)
WHERE found.text ~ '^\w{3,40}$' AND found.text !~ '[\d_]'
"""


def upgrade() -> None:
    """Apply the change."""
    # A trusted extension: the owner of the database may create it.
    op.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    op.create_table("word", sa.Column("text", sa.Text, nullable=False))
    op.execute(_WORDS)
    op.create_index("ix_word_text", "word", ["text"])
    op.create_index(
        "ix_word_trigrams",
        "word",
        ["text"],
        postgresql_using="gin",
        postgresql_ops={"text": "gin_trgm_ops"},
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_table("word")
    op.execute("DROP EXTENSION pg_trgm")
