"""Accounts, clients, grants, keys and the outbox."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from flagon_chassis import tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "account",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("email_key", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("password_changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "disabled", sa.Boolean(), server_default=sa.text("false"), nullable=False
        ),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_account")),
        sa.UniqueConstraint("email_key", name=op.f("uq_account_email_key")),
    )
    op.create_index(
        op.f("ix_account_created_at_id"), "account", ["created_at", "id"], unique=False
    )
    op.create_table(
        "client",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("redirect_uris", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column(
            "post_logout_redirect_uris", postgresql.ARRAY(sa.Text()), nullable=False
        ),
        sa.Column("grant_types", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column(
            "first_party", sa.Boolean(), server_default=sa.text("false"), nullable=False
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_client")),
    )
    op.create_table(
        "signing_key",
        sa.Column("kid", sa.Text(), nullable=False),
        sa.Column("alg", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column(
            "public_jwk", postgresql.JSONB(astext_type=sa.Text()), nullable=False
        ),
        sa.Column("private_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("activated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("retire_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state in ('pending', 'active', 'retiring')",
            name=op.f("ck_signing_key_state"),
        ),
        sa.PrimaryKeyConstraint("kid", name=op.f("pk_signing_key")),
    )
    op.create_index(
        "ix_signing_key_in_use",
        "signing_key",
        ["alg", "state"],
        unique=True,
        postgresql_where=sa.text("state in ('pending', 'active')"),
    )
    op.create_table(
        "account_role",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["account.id"],
            name=op.f("fk_account_role_account_id_account"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("account_id", "role", name=op.f("pk_account_role")),
    )
    op.create_table(
        "consent",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("granted_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["account.id"],
            name=op.f("fk_consent_account_id_account"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["client_id"],
            ["client.id"],
            name=op.f("fk_consent_client_id_client"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("account_id", "client_id", name=op.f("pk_consent")),
    )
    op.create_index(
        op.f("ix_consent_client_id"), "consent", ["client_id"], unique=False
    )
    op.create_table(
        "token_grant",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("sid", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("auth_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("amr", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["account.id"],
            name=op.f("fk_token_grant_account_id_account"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["client_id"],
            ["client.id"],
            name=op.f("fk_token_grant_client_id_client"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_token_grant")),
    )
    op.create_index(
        op.f("ix_token_grant_account_id"), "token_grant", ["account_id"], unique=False
    )
    op.create_index(
        op.f("ix_token_grant_client_id"), "token_grant", ["client_id"], unique=False
    )
    op.create_index(op.f("ix_token_grant_sid"), "token_grant", ["sid"], unique=False)
    op.create_table(
        "access_token",
        sa.Column("jti", sa.Uuid(), nullable=False),
        sa.Column("token_grant_id", sa.Uuid(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["token_grant_id"],
            ["token_grant.id"],
            name=op.f("fk_access_token_token_grant_id_token_grant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("jti", name=op.f("pk_access_token")),
    )
    op.create_index(
        op.f("ix_access_token_expires_at"), "access_token", ["expires_at"], unique=False
    )
    op.create_index(
        op.f("ix_access_token_token_grant_id"),
        "access_token",
        ["token_grant_id"],
        unique=False,
    )
    op.create_table(
        "authorization_code",
        sa.Column("code_hash", sa.LargeBinary(), nullable=False),
        sa.Column("token_grant_id", sa.Uuid(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("redirect_uri", sa.Text(), nullable=False),
        sa.Column("code_challenge", sa.Text(), nullable=False),
        sa.Column("nonce", sa.Text(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["token_grant_id"],
            ["token_grant.id"],
            name=op.f("fk_authorization_code_token_grant_id_token_grant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("code_hash", name=op.f("pk_authorization_code")),
    )
    op.create_index(
        op.f("ix_authorization_code_expires_at"),
        "authorization_code",
        ["expires_at"],
        unique=False,
    )
    op.create_index(
        op.f("ix_authorization_code_token_grant_id"),
        "authorization_code",
        ["token_grant_id"],
        unique=False,
    )
    op.create_table(
        "refresh_token",
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("token_grant_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["token_grant_id"],
            ["token_grant.id"],
            name=op.f("fk_refresh_token_token_grant_id_token_grant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_refresh_token")),
    )
    op.create_index(
        op.f("ix_refresh_token_expires_at"),
        "refresh_token",
        ["expires_at"],
        unique=False,
    )
    op.create_index(
        op.f("ix_refresh_token_token_grant_id"),
        "refresh_token",
        ["token_grant_id"],
        unique=False,
    )
    tables.create(op.get_bind(), "outbox")


def downgrade() -> None:
    """Take the change back."""
    tables.drop(op.get_bind(), "outbox")
    op.drop_index(op.f("ix_refresh_token_token_grant_id"), table_name="refresh_token")
    op.drop_index(op.f("ix_refresh_token_expires_at"), table_name="refresh_token")
    op.drop_table("refresh_token")
    op.drop_index(
        op.f("ix_authorization_code_token_grant_id"), table_name="authorization_code"
    )
    op.drop_index(
        op.f("ix_authorization_code_expires_at"), table_name="authorization_code"
    )
    op.drop_table("authorization_code")
    op.drop_index(op.f("ix_access_token_token_grant_id"), table_name="access_token")
    op.drop_index(op.f("ix_access_token_expires_at"), table_name="access_token")
    op.drop_table("access_token")
    op.drop_index(op.f("ix_token_grant_sid"), table_name="token_grant")
    op.drop_index(op.f("ix_token_grant_client_id"), table_name="token_grant")
    op.drop_index(op.f("ix_token_grant_account_id"), table_name="token_grant")
    op.drop_table("token_grant")
    op.drop_index(op.f("ix_consent_client_id"), table_name="consent")
    op.drop_table("consent")
    op.drop_table("account_role")
    op.drop_index(
        "ix_signing_key_in_use",
        table_name="signing_key",
        postgresql_where=sa.text("state in ('pending', 'active')"),
    )
    op.drop_table("signing_key")
    op.drop_table("client")
    op.drop_index(op.f("ix_account_created_at_id"), table_name="account")
    op.drop_table("account")
