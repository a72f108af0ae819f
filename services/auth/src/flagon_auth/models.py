"""Accounts, clients, grants and keys; nothing that opens a door is stored readable."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
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
    email_verified_at: Mapped[datetime | None]
    """When the person proved that mail to the address reaches them."""
    locale: Mapped[str | None]
    """The language that mails are written in (`en`, `de`); None: not chosen yet."""
    password_hash: Mapped[str | None]
    """Argon2id in PHC form, salt and parameters included; None: signs in otherwise."""
    password_changed_at: Mapped[datetime | None]
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
    previous_secret_hash: Mapped[bytes | None]
    """The secret before the present one, good until `previous_secret_until`."""
    previous_secret_until: Mapped[datetime | None]
    token_endpoint_auth_method: Mapped[str] = mapped_column(
        server_default="client_secret_basic", default="client_secret_basic"
    )
    """client_secret_basic, client_secret_post, private_key_jwt or none."""
    jwks: Mapped[dict[str, Any] | None]
    """Public keys (RFC 7517) of a client that signs assertions; never an address."""
    id_token_signed_response_alg: Mapped[str] = mapped_column(
        server_default="RS256", default="RS256"
    )
    dpop_bound_access_tokens: Mapped[bool] = mapped_column(server_default=false())
    """Whether it gets tokens only with a proof of possession (RFC 9449)."""
    require_pushed_authorization_requests: Mapped[bool] = mapped_column(
        server_default=false()
    )
    """Whether its authorization requests must be pushed first (RFC 9126)."""
    backchannel_logout_uri: Mapped[str | None]
    """Where logout tokens go (OpenID Connect Back-Channel Logout 1.0)."""
    disabled: Mapped[bool] = mapped_column(server_default=false())
    version: Mapped[int] = mapped_column(server_default=text("1"), default=1)
    """Counts changes; the entity tag of the API."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())

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
    acr: Mapped[str] = mapped_column(server_default="aal1", default="aal1")
    """How well: aal1 or, with two factors, aal2 (names after NIST SP 800-63B)."""
    dpop_jkt: Mapped[str | None]
    """Thumbprint of the key that the tokens of this grant are bound to (RFC 9449)."""
    claims: Mapped[dict[str, Any] | None]
    """Names of single claims that were asked for, by where they go: `id_token` and
    `userinfo` (OpenID Connect Core section 5.5)."""
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
    dpop_jkt: Mapped[str | None]
    """Thumbprint that the redemption must prove, if the request named one."""
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
    token_grant_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("token_grant.id", ondelete="CASCADE"), index=True
    )
    api_key_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("api_key.id", ondelete="CASCADE"), index=True
    )
    """The key it was exchanged for, where it came out of no grant."""
    expires_at: Mapped[datetime] = mapped_column(index=True)


class SigningKey(Base):
    """One key pair that signs tokens; the private half is encrypted."""

    __tablename__ = "signing_key"

    kid: Mapped[str] = mapped_column(primary_key=True)
    """RFC 7638 thumbprint of the public half."""
    alg: Mapped[str]
    """ES256 for access tokens and some ID tokens, RS256 for the other ID tokens."""
    state: Mapped[str]
    """pending (published, not used yet), active (signs), retiring (verifies), retired."""
    public_jwk: Mapped[dict[str, Any]]
    private_sealed: Mapped[bytes | None]
    """AES-256-GCM, bound to the kid; None once it will never sign again."""
    created_at: Mapped[datetime]
    activated_at: Mapped[datetime | None]
    retire_at: Mapped[datetime | None]
    """Until when the public half is published."""
    dropped_at: Mapped[datetime | None]
    """When it was found to be in wrong hands: from then on it proves nothing."""

    __table_args__ = (
        CheckConstraint(
            "state in ('pending', 'active', 'retiring', 'retired')", name="state"
        ),
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


class PushedRequest(Base):
    """An authorization request that the client sent ahead (RFC 9126)."""

    __tablename__ = "pushed_request"

    uri_hash: Mapped[bytes] = mapped_column(primary_key=True)
    """SHA-256 of the `request_uri`."""
    client_id: Mapped[str] = mapped_column(
        ForeignKey("client.id", ondelete="CASCADE"), index=True
    )
    parameters: Mapped[dict[str, Any]]
    dpop_jkt: Mapped[str | None]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    used_at: Mapped[datetime | None]


class DeviceCode(Base):
    """A device that waits for a person to sign in elsewhere (RFC 8628)."""

    __tablename__ = "device_code"

    code_hash: Mapped[bytes] = mapped_column(primary_key=True)
    user_code_hash: Mapped[bytes] = mapped_column(unique=True)
    client_id: Mapped[str] = mapped_column(
        ForeignKey("client.id", ondelete="CASCADE"), index=True
    )
    scope: Mapped[str]
    state: Mapped[str]
    """pending, approved, denied or used."""
    token_grant_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("token_grant.id", ondelete="CASCADE"), index=True
    )
    """What the person granted; None while pending."""
    dpop_jkt: Mapped[str | None]
    interval_seconds: Mapped[int]
    last_polled_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    grant: Mapped[TokenGrant | None] = relationship(lazy="joined")

    __table_args__ = (
        CheckConstraint(
            "state in ('pending', 'approved', 'denied', 'used')", name="state"
        ),
    )

    def __repr__(self) -> str:
        """Show the state alone."""
        return f"<DeviceCode of {self.client_id} {self.state}>"


class UsedProof(Base):
    """The id of a client assertion or DPoP proof: a second use is a replay."""

    __tablename__ = "used_proof"

    digest: Mapped[bytes] = mapped_column(primary_key=True)
    """SHA-256 of what makes it unique: kind, signer and `jti`."""
    expires_at: Mapped[datetime] = mapped_column(index=True)


class LogoutNotice(Base):
    """A client that is to be told that a session ended."""

    __tablename__ = "logout_notice"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    client_id: Mapped[str] = mapped_column(
        ForeignKey("client.id", ondelete="CASCADE"), index=True
    )
    account_id: Mapped[UUID]
    """Not a reference: the account may be deleted, and the client must still hear."""
    sid: Mapped[str] = mapped_column(index=True)
    created_at: Mapped[datetime]
    refusals: Mapped[int] = mapped_column(server_default=text("0"), default=0)
    """How often the client answered that it would not."""
    delivered_at: Mapped[datetime | None]
    given_up_at: Mapped[datetime | None]


class Mail(Base):
    """A mail to one person, without its text: links are made when it is sent."""

    __tablename__ = "mail"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    account_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("account.id", ondelete="CASCADE"), index=True
    )
    """None: whose it is, if anybody's, is found out when it is composed."""
    email: Mapped[str]
    """Where it goes: not always the account's present address."""
    template: Mapped[str]
    locale: Mapped[str]
    values: Mapped[dict[str, Any]]
    """What the template says; nothing secret."""
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    """A mail that could not be sent until then is not sent any more."""
    attempt: Mapped[str | None]
    """Who is sending it at this moment: a task that comes twice must not send twice."""
    leased_until: Mapped[datetime | None]
    """When another attempt may take it over."""
    sent_at: Mapped[datetime | None]


class EmailToken(Base):
    """A link that was mailed; what is in the link is not stored, only derived."""

    __tablename__ = "email_token"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    account_id: Mapped[UUID] = mapped_column(
        ForeignKey("account.id", ondelete="CASCADE"), index=True
    )
    purpose: Mapped[str]
    """verify, reset or change."""
    email: Mapped[str]
    """The address that the link proves."""
    fingerprint: Mapped[bytes]
    """Digest of what the link is to change; another value makes the link void."""
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    used_at: Mapped[datetime | None]


class TotpCredential(Base):
    """An authenticator app of one account (RFC 6238)."""

    __tablename__ = "totp_credential"

    account_id: Mapped[UUID] = mapped_column(
        ForeignKey("account.id", ondelete="CASCADE"), primary_key=True
    )
    secret_sealed: Mapped[bytes]
    """AES-256-GCM, bound to the account."""
    last_step: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """The time step of the last code that was accepted: none works twice."""
    created_at: Mapped[datetime]
    confirmed_at: Mapped[datetime | None]
    """None until the first code proved that the app has the secret."""

    def __repr__(self) -> str:
        """Show the account alone."""
        return f"<TotpCredential of {self.account_id}>"


class RecoveryCode(Base):
    """A one-time code for who has lost the second factor."""

    __tablename__ = "recovery_code"

    code_hash: Mapped[bytes] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(
        ForeignKey("account.id", ondelete="CASCADE"), index=True
    )
    created_at: Mapped[datetime]
    used_at: Mapped[datetime | None]

    def __repr__(self) -> str:
        """Show the account alone."""
        return f"<RecoveryCode of {self.account_id}>"


class Passkey(Base):
    """A WebAuthn credential of one account."""

    __tablename__ = "passkey"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    account_id: Mapped[UUID] = mapped_column(
        ForeignKey("account.id", ondelete="CASCADE"), index=True
    )
    credential_id: Mapped[bytes] = mapped_column(unique=True)
    public_key: Mapped[bytes]
    sign_count: Mapped[int] = mapped_column(BigInteger)
    name: Mapped[str]
    """What the person calls it."""
    transports: Mapped[list[str]]
    backed_up: Mapped[bool]
    """Whether it is synchronised between devices."""
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]


class Identity(Base):
    """An account at an outside provider that signs in to one of ours."""

    __tablename__ = "identity"

    issuer: Mapped[str] = mapped_column(primary_key=True)
    """The provider's issuer; with the subject it names the person for ever."""
    subject: Mapped[str] = mapped_column(primary_key=True)
    provider: Mapped[str]
    """The provider's name in the settings."""
    account_id: Mapped[UUID] = mapped_column(
        ForeignKey("account.id", ondelete="CASCADE"), index=True
    )
    email: Mapped[str | None]
    """What the provider said the address is; shown, never compared."""
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]


class ApiKey(Base):
    """A long-lived key with which a person's script gets short access tokens."""

    __tablename__ = "api_key"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    prefix: Mapped[str] = mapped_column(unique=True)
    """The readable beginning, by which people and we find the key."""
    secret_hash: Mapped[bytes]
    account_id: Mapped[UUID] = mapped_column(
        ForeignKey("account.id", ondelete="CASCADE"), index=True
    )
    name: Mapped[str]
    scope: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    def __repr__(self) -> str:
        """Show the prefix alone."""
        return f"<ApiKey {self.prefix}>"


class AuditEvent(Base):
    """Something that matters to security; each is chained to the one before it."""

    __tablename__ = "audit_event"

    sequence: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, autoincrement=False
    )
    """1, 2, 3, …: a gap is a deletion."""
    occurred_at: Mapped[datetime]
    action: Mapped[str]
    """What happened, such as `password_changed`."""
    account_id: Mapped[UUID | None] = mapped_column(index=True)
    """Whom it concerns. Not a reference: the record outlives the account."""
    actor: Mapped[str | None]
    """Who did it: an account's or client's id, `cli`; None: nobody known."""
    address: Mapped[str | None]
    """Where from."""
    details: Mapped[dict[str, Any]]
    previous_hash: Mapped[bytes]
    hash: Mapped[bytes]
    """SHA-256 over the previous hash and everything above."""
