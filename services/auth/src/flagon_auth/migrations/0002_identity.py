"""Second factors, devices, mail, outside providers, API keys and the audit log."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from flagon_chassis import tables

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:  # noqa: PLR0915 (one straight list of steps)
    """Apply the change."""
    op.create_table(
        "audit_event",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("previous_hash", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_audit_event")),
    )
    op.create_index(
        op.f("ix_audit_event_account_id"), "audit_event", ["account_id"], unique=False
    )
    op.create_table(
        "used_proof",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_used_proof")),
    )
    op.create_index(
        op.f("ix_used_proof_expires_at"), "used_proof", ["expires_at"], unique=False
    )
    op.create_table(
        "api_key",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["account.id"],
            name=op.f("fk_api_key_account_id_account"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
        sa.UniqueConstraint("prefix", name=op.f("uq_api_key_prefix")),
    )
    op.create_index(
        op.f("ix_api_key_account_id"), "api_key", ["account_id"], unique=False
    )
    op.create_table(
        "email_token",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["account.id"],
            name=op.f("fk_email_token_account_id_account"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_email_token")),
    )
    op.create_index(
        op.f("ix_email_token_account_id"), "email_token", ["account_id"], unique=False
    )
    op.create_index(
        op.f("ix_email_token_expires_at"), "email_token", ["expires_at"], unique=False
    )
    op.create_table(
        "identity",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["account.id"],
            name=op.f("fk_identity_account_id_account"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("issuer", "subject", name=op.f("pk_identity")),
    )
    op.create_index(
        op.f("ix_identity_account_id"), "identity", ["account_id"], unique=False
    )
    op.create_table(
        "logout_notice",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("sid", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "refusals", sa.Integer(), server_default=sa.text("0"), nullable=False
        ),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("given_up_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["client_id"],
            ["client.id"],
            name=op.f("fk_logout_notice_client_id_client"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_logout_notice")),
    )
    op.create_index(
        op.f("ix_logout_notice_client_id"), "logout_notice", ["client_id"], unique=False
    )
    op.create_index(
        op.f("ix_logout_notice_sid"), "logout_notice", ["sid"], unique=False
    )
    op.create_table(
        "mail",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=True),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("template", sa.Text(), nullable=False),
        sa.Column("locale", sa.Text(), nullable=False),
        sa.Column("values", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempt", sa.Text(), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["account.id"],
            name=op.f("fk_mail_account_id_account"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mail")),
    )
    op.create_index(op.f("ix_mail_account_id"), "mail", ["account_id"], unique=False)
    op.create_index(op.f("ix_mail_expires_at"), "mail", ["expires_at"], unique=False)
    op.create_table(
        "passkey",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("credential_id", sa.LargeBinary(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("sign_count", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("transports", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("backed_up", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["account.id"],
            name=op.f("fk_passkey_account_id_account"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_passkey")),
        sa.UniqueConstraint("credential_id", name=op.f("uq_passkey_credential_id")),
    )
    op.create_index(
        op.f("ix_passkey_account_id"), "passkey", ["account_id"], unique=False
    )
    op.create_table(
        "pushed_request",
        sa.Column("uri_hash", sa.LargeBinary(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column(
            "parameters", postgresql.JSONB(astext_type=sa.Text()), nullable=False
        ),
        sa.Column("dpop_jkt", sa.Text(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["client_id"],
            ["client.id"],
            name=op.f("fk_pushed_request_client_id_client"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("uri_hash", name=op.f("pk_pushed_request")),
    )
    op.create_index(
        op.f("ix_pushed_request_client_id"),
        "pushed_request",
        ["client_id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_pushed_request_expires_at"),
        "pushed_request",
        ["expires_at"],
        unique=False,
    )
    op.create_table(
        "recovery_code",
        sa.Column("code_hash", sa.LargeBinary(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["account.id"],
            name=op.f("fk_recovery_code_account_id_account"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("code_hash", name=op.f("pk_recovery_code")),
    )
    op.create_index(
        op.f("ix_recovery_code_account_id"),
        "recovery_code",
        ["account_id"],
        unique=False,
    )
    op.create_table(
        "totp_credential",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("secret_sealed", sa.LargeBinary(), nullable=False),
        sa.Column(
            "last_step", sa.BigInteger(), server_default=sa.text("0"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["account.id"],
            name=op.f("fk_totp_credential_account_id_account"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_totp_credential")),
    )
    op.create_table(
        "device_code",
        sa.Column("code_hash", sa.LargeBinary(), nullable=False),
        sa.Column("user_code_hash", sa.LargeBinary(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("token_grant_id", sa.Uuid(), nullable=True),
        sa.Column("dpop_jkt", sa.Text(), nullable=True),
        sa.Column("interval_seconds", sa.Integer(), nullable=False),
        sa.Column("last_polled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "state in ('pending', 'approved', 'denied', 'used')",
            name=op.f("ck_device_code_state"),
        ),
        sa.ForeignKeyConstraint(
            ["client_id"],
            ["client.id"],
            name=op.f("fk_device_code_client_id_client"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["token_grant_id"],
            ["token_grant.id"],
            name=op.f("fk_device_code_token_grant_id_token_grant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("code_hash", name=op.f("pk_device_code")),
        sa.UniqueConstraint(
            "user_code_hash", name=op.f("uq_device_code_user_code_hash")
        ),
    )
    op.create_index(
        op.f("ix_device_code_client_id"), "device_code", ["client_id"], unique=False
    )
    op.create_index(
        op.f("ix_device_code_expires_at"), "device_code", ["expires_at"], unique=False
    )
    op.create_index(
        op.f("ix_device_code_token_grant_id"),
        "device_code",
        ["token_grant_id"],
        unique=False,
    )
    tables.create(op.get_bind(), "idempotency_key")
    op.drop_constraint(op.f("ck_signing_key_state"), "signing_key", type_="check")
    op.create_check_constraint(
        op.f("ck_signing_key_state"),
        "signing_key",
        "state in ('pending', 'active', 'retiring', 'retired')",
    )
    op.add_column(
        "signing_key",
        sa.Column("dropped_at", sa.DateTime(timezone=True), nullable=True),
    )
    # Whoever breaks into the service can add to the audit log, not rewrite it: its login
    # role loses what the database's default privileges gave it.
    tables.append_only(op.get_bind(), "audit_event")
    op.alter_column(
        "access_token", "token_grant_id", existing_type=sa.Uuid(), nullable=True
    )
    op.add_column("access_token", sa.Column("api_key_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(
        op.f("fk_access_token_api_key_id_api_key"),
        "access_token",
        "api_key",
        ["api_key_id"],
        ["id"],
        ondelete="CASCADE",
    )
    op.create_index(
        op.f("ix_access_token_api_key_id"), "access_token", ["api_key_id"], unique=False
    )
    op.add_column(
        "account",
        sa.Column("email_verified_at", sa.DateTime(timezone=True), nullable=True),
    )
    op.add_column("account", sa.Column("locale", sa.Text(), nullable=True))
    op.alter_column("account", "password_hash", existing_type=sa.TEXT(), nullable=True)
    op.alter_column(
        "account",
        "password_changed_at",
        existing_type=postgresql.TIMESTAMP(timezone=True),
        nullable=True,
    )
    op.add_column("authorization_code", sa.Column("dpop_jkt", sa.Text(), nullable=True))
    op.add_column(
        "client", sa.Column("previous_secret_hash", sa.LargeBinary(), nullable=True)
    )
    op.add_column(
        "client",
        sa.Column("previous_secret_until", sa.DateTime(timezone=True), nullable=True),
    )
    op.add_column(
        "client",
        sa.Column(
            "token_endpoint_auth_method",
            sa.Text(),
            server_default="client_secret_basic",
            nullable=False,
        ),
    )
    op.add_column(
        "client",
        sa.Column("jwks", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    )
    op.add_column(
        "client",
        sa.Column(
            "id_token_signed_response_alg",
            sa.Text(),
            server_default="RS256",
            nullable=False,
        ),
    )
    op.add_column(
        "client",
        sa.Column(
            "dpop_bound_access_tokens",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
        ),
    )
    op.add_column(
        "client",
        sa.Column(
            "require_pushed_authorization_requests",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
        ),
    )
    op.add_column(
        "client", sa.Column("backchannel_logout_uri", sa.Text(), nullable=True)
    )
    op.add_column(
        "client",
        sa.Column(
            "disabled", sa.Boolean(), server_default=sa.text("false"), nullable=False
        ),
    )
    op.add_column(
        "client",
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
    )
    op.add_column(
        "client",
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
    )
    op.add_column(
        "token_grant",
        sa.Column("acr", sa.Text(), server_default="aal1", nullable=False),
    )
    op.add_column("token_grant", sa.Column("dpop_jkt", sa.Text(), nullable=True))
    op.add_column(
        "token_grant",
        sa.Column("claims", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    )


def downgrade() -> None:  # noqa: PLR0915 (one straight list of steps)
    """Take the change back."""
    op.drop_column("access_token", "api_key_id")
    op.execute("delete from access_token where token_grant_id is null")
    op.alter_column(
        "access_token", "token_grant_id", existing_type=sa.Uuid(), nullable=False
    )
    op.drop_column("token_grant", "claims")
    op.drop_column("token_grant", "dpop_jkt")
    op.drop_column("token_grant", "acr")
    op.drop_column("client", "updated_at")
    op.drop_column("client", "version")
    op.drop_column("client", "disabled")
    op.drop_column("client", "backchannel_logout_uri")
    op.drop_column("client", "require_pushed_authorization_requests")
    op.drop_column("client", "dpop_bound_access_tokens")
    op.drop_column("client", "id_token_signed_response_alg")
    op.drop_column("client", "jwks")
    op.drop_column("client", "token_endpoint_auth_method")
    op.drop_column("client", "previous_secret_until")
    op.drop_column("client", "previous_secret_hash")
    op.drop_column("authorization_code", "dpop_jkt")
    op.alter_column(
        "account",
        "password_changed_at",
        existing_type=postgresql.TIMESTAMP(timezone=True),
        nullable=False,
    )
    op.alter_column("account", "password_hash", existing_type=sa.TEXT(), nullable=False)
    op.drop_column("account", "locale")
    op.drop_column("account", "email_verified_at")
    op.drop_table("idempotency_key")
    op.execute("delete from signing_key where state = 'retired'")
    op.drop_column("signing_key", "dropped_at")
    op.drop_constraint(op.f("ck_signing_key_state"), "signing_key", type_="check")
    op.create_check_constraint(
        op.f("ck_signing_key_state"),
        "signing_key",
        "state in ('pending', 'active', 'retiring')",
    )
    op.drop_index(op.f("ix_device_code_token_grant_id"), table_name="device_code")
    op.drop_index(op.f("ix_device_code_expires_at"), table_name="device_code")
    op.drop_index(op.f("ix_device_code_client_id"), table_name="device_code")
    op.drop_table("device_code")
    op.drop_table("totp_credential")
    op.drop_index(op.f("ix_recovery_code_account_id"), table_name="recovery_code")
    op.drop_table("recovery_code")
    op.drop_index(op.f("ix_pushed_request_expires_at"), table_name="pushed_request")
    op.drop_index(op.f("ix_pushed_request_client_id"), table_name="pushed_request")
    op.drop_table("pushed_request")
    op.drop_index(op.f("ix_passkey_account_id"), table_name="passkey")
    op.drop_table("passkey")
    op.drop_index(op.f("ix_mail_expires_at"), table_name="mail")
    op.drop_index(op.f("ix_mail_account_id"), table_name="mail")
    op.drop_table("mail")
    op.drop_index(op.f("ix_logout_notice_sid"), table_name="logout_notice")
    op.drop_index(op.f("ix_logout_notice_client_id"), table_name="logout_notice")
    op.drop_table("logout_notice")
    op.drop_index(op.f("ix_identity_account_id"), table_name="identity")
    op.drop_table("identity")
    op.drop_index(op.f("ix_email_token_expires_at"), table_name="email_token")
    op.drop_index(op.f("ix_email_token_account_id"), table_name="email_token")
    op.drop_table("email_token")
    op.drop_index(op.f("ix_api_key_account_id"), table_name="api_key")
    op.drop_table("api_key")
    op.drop_index(op.f("ix_used_proof_expires_at"), table_name="used_proof")
    op.drop_table("used_proof")
    op.drop_index(op.f("ix_audit_event_account_id"), table_name="audit_event")
    op.drop_table("audit_event")
