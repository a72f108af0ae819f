"""Accounts, clients, grants and keys; nothing that opens a door is stored readable."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    MetaData,
    Text,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from uuid_utils.compat import uuid7

from flagon_chassis.tables import NAMING


class Base(DeclarativeBase):
    """Tables of this service's own database."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads it from the class)
        datetime: DateTime(timezone=True),
        str: Text,
        list[str]: ARRAY(Text),
        dict[str, Any]: JSONB,
    }


class Account(Base):
    """A person who can sign in."""

    __tablename__ = "account"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    email: Mapped[str]
    """The address as it was typed; shown, never compared."""
    email_key: Mapped[str] = mapped_column(unique=True)
    """The address in its comparable form."""
    name: Mapped[str]
    password_hash: Mapped[str]
    """Argon2id in PHC form, salt and parameters included."""
    password_changed_at: Mapped[datetime]
    disabled: Mapped[bool] = mapped_column(server_default=false())
    version: Mapped[int] = mapped_column(server_default=text("1"), default=1)
    """Counts changes; the entity tag of the API."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    assigned: Mapped[list["AccountRole"]] = relationship(
        cascade="all, delete-orphan", lazy="selectin", order_by="AccountRole.role"
    )

    # The order of the list, so that a page costs the same wherever it is.
    __table_args__ = (Index(None, "created_at", "id"),)

    @property
    def roles(self) -> list[str]:
        """Return the names of the assigned roles, sorted."""
        return [row.role for row in self.assigned]

    def __repr__(self) -> str:
        """Show the id alone: a log line must not carry an address or a hash."""
        return f"<Account {self.id}>"


class AccountRole(Base):
    """One role of one account."""

    __tablename__ = "account_role"

    account_id: Mapped[UUID] = mapped_column(
        ForeignKey("account.id", ondelete="CASCADE"), primary_key=True
    )
    role: Mapped[str] = mapped_column(primary_key=True)


class Client(Base):
    """A program that may ask for tokens."""

    __tablename__ = "client"

    id: Mapped[str] = mapped_column(primary_key=True)
    secret_hash: Mapped[bytes | None]
    """SHA-256 of a random secret; None for a public client."""
    name: Mapped[str]
    redirect_uris: Mapped[list[str]]
    post_logout_redirect_uris: Mapped[list[str]]
    grant_types: Mapped[list[str]]
    scope: Mapped[str]
    """The scopes it may ask for, separated by spaces."""
    first_party: Mapped[bool] = mapped_column(server_default=false())
    """Whether it is part of this platform, so that people need not consent."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    def __repr__(self) -> str:
        """Show the id alone."""
        return f"<Client {self.id}>"


class Consent(Base):
    """What one person lets one client do."""

    __tablename__ = "consent"

    account_id: Mapped[UUID] = mapped_column(
        ForeignKey("account.id", ondelete="CASCADE"), primary_key=True
    )
    client_id: Mapped[str] = mapped_column(
        ForeignKey("client.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    scope: Mapped[str]
    granted_at: Mapped[datetime]


class TokenGrant(Base):
    """One authorization: the family of every token that came out of one code."""

    __tablename__ = "token_grant"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    account_id: Mapped[UUID] = mapped_column(
        ForeignKey("account.id", ondelete="CASCADE"), index=True
    )
    client_id: Mapped[str] = mapped_column(
        ForeignKey("client.id", ondelete="CASCADE"), index=True
    )
    sid: Mapped[str] = mapped_column(index=True)
    """Public id of the sign-in session that it was given in."""
    scope: Mapped[str]
    auth_time: Mapped[datetime]
    """When the person last proved who they are."""
    amr: Mapped[list[str]]
    """How (RFC 8176)."""
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    """No refresh token of this grant works after this, however often it is used."""
    revoked_at: Mapped[datetime | None]
    revoked_reason: Mapped[str | None]


class AuthorizationCode(Base):
    """A one-time code on its way through the browser."""

    __tablename__ = "authorization_code"

    code_hash: Mapped[bytes] = mapped_column(primary_key=True)
    token_grant_id: Mapped[UUID] = mapped_column(
        ForeignKey("token_grant.id", ondelete="CASCADE"), index=True
    )
    client_id: Mapped[str]
    redirect_uri: Mapped[str]
    code_challenge: Mapped[str]
    nonce: Mapped[str | None]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    used_at: Mapped[datetime | None]
    grant: Mapped[TokenGrant] = relationship(lazy="joined", innerjoin=True)

    def __repr__(self) -> str:
        """Show the grant alone."""
        return f"<AuthorizationCode of {self.token_grant_id}>"


class RefreshToken(Base):
    """One refresh token; using it makes the next and uses it up."""

    __tablename__ = "refresh_token"

    token_hash: Mapped[bytes] = mapped_column(primary_key=True)
    token_grant_id: Mapped[UUID] = mapped_column(
        ForeignKey("token_grant.id", ondelete="CASCADE"), index=True
    )
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    used_at: Mapped[datetime | None]
    grant: Mapped[TokenGrant] = relationship(lazy="joined", innerjoin=True)

    def __repr__(self) -> str:
        """Show the grant alone."""
        return f"<RefreshToken of {self.token_grant_id}>"


class AccessToken(Base):
    """The id of one access token that may still be alive, so that it can be revoked."""

    __tablename__ = "access_token"

    jti: Mapped[UUID] = mapped_column(primary_key=True)
    token_grant_id: Mapped[UUID] = mapped_column(
        ForeignKey("token_grant.id", ondelete="CASCADE"), index=True
    )
    expires_at: Mapped[datetime] = mapped_column(index=True)


class SigningKey(Base):
    """One key pair that signs tokens; the private half is encrypted."""

    __tablename__ = "signing_key"

    kid: Mapped[str] = mapped_column(primary_key=True)
    """RFC 7638 thumbprint of the public half."""
    alg: Mapped[str]
    """ES256 for access tokens, RS256 for ID tokens."""
    state: Mapped[str]
    """pending (published, not used yet), active (signs) or retiring (verifies)."""
    public_jwk: Mapped[dict[str, Any]]
    private_sealed: Mapped[bytes | None]
    """AES-256-GCM, bound to the kid; None once it will never sign again."""
    created_at: Mapped[datetime]
    activated_at: Mapped[datetime | None]
    retire_at: Mapped[datetime | None]
    """Until when the public half is published."""

    __table_args__ = (
        CheckConstraint("state in ('pending', 'active', 'retiring')", name="state"),
        # Two rotations at once cannot leave two keys that sign.
        Index(
            "ix_signing_key_in_use",
            "alg",
            "state",
            unique=True,
            postgresql_where=text("state in ('pending', 'active')"),
        ),
    )

    def __repr__(self) -> str:
        """Show no key material."""
        return f"<SigningKey {self.kid} {self.alg} {self.state}>"
