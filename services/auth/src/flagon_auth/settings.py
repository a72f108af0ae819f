"""Everything auth reads from its environment."""

import base64
import binascii
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, PositiveInt, SecretStr, field_validator, model_validator

from flagon_chassis.settings import DatabaseSettings

_AES_256_BYTES = 32
# How long a verifier may not know a new key: the key set's life in caches (60 s) and in
# the verifiers (300 s), the pause after a failed look-up (30 s), and a margin.
_LEAD_SECONDS = 600


class Settings(DatabaseSettings, env_prefix="AUTH_", frozen=True):
    """Settings of one auth process: read once at start-up, never changed."""

    key_encryption_key: SecretStr
    """32 bytes in base64; encrypts the private signing keys in the database."""
    key_encryption_key_previous: SecretStr | None = None
    """The key before `key_encryption_key`: opens what `keys reseal` has yet to change."""
    key_rotation_days: int = Field(default=30, ge=0, le=365)
    """Signing keys are replaced after so many days; 0: only by `keys rotate`."""
    key_lead_seconds: int = Field(default=600, ge=0)
    """How long a key is published before it signs; 600 at least in production."""
    clients_file: Path | None = None
    """JSON list of the platform's own OAuth clients, for `seed`."""
    accounts_file: Path | None = None
    """JSON list of demonstration accounts, for `seed`; refused in production."""
    providers_file: Path | None = None
    """JSON list of outside providers that people can sign in with."""
    session_cookie: str = Field(default="flagon_login", pattern=r"^[A-Za-z0-9_-]+$")
    """Name of the sign-in session's cookie; over https `__Host-` comes before it."""

    code_seconds: PositiveInt = Field(default=60, le=60)
    """How long an authorization code can be redeemed."""
    access_token_seconds: PositiveInt = Field(default=300, le=900)
    """Life of an access token, and the most that a lost denylist can cost."""
    id_token_seconds: PositiveInt = 300
    """Life of an ID token."""
    refresh_idle_seconds: PositiveInt = 14 * 86_400
    """A refresh token that is not used for so long expires (with `offline_access`)."""
    refresh_absolute_seconds: PositiveInt = 90 * 86_400
    """A grant with `offline_access` ends after this, however often it is refreshed."""
    session_idle_seconds: PositiveInt = 30 * 60
    """A sign-in session that is not used for so long expires."""
    session_absolute_seconds: PositiveInt = 12 * 3600
    """A sign-in session, and a grant without `offline_access`, ends after this."""

    hash_concurrency: PositiveInt = 2
    """Passwords that one process hashes at once; each takes 19 MiB and one core."""
    hash_wait_seconds: float = Field(default=2.0, gt=0)
    """How long a sign-in waits for its turn to hash before it is told to come back."""

    breached_passwords_dir: Path | None = None
    """Folder of the range protocol's files with stolen passwords; see the README."""

    login_pair_limit: PositiveInt = 10
    """Wrong passwords of one account from one address (IPv6: /64) without waiting."""
    login_account_limit: PositiveInt = 20
    """Wrong passwords of one account from everywhere without waiting."""
    login_address_limit: PositiveInt = 100
    """Wrong passwords of all accounts from one address without waiting."""
    login_window_seconds: PositiveInt = 900
    """Wrong passwords are forgotten when there were none for so long."""
    register_limit: PositiveInt = 30
    """Registrations from one address in an hour."""

    logout_patience_seconds: PositiveInt = 6 * 3600
    """How long a client is tried to be told of a session that ended."""

    @field_validator("key_encryption_key", "key_encryption_key_previous")
    @classmethod
    def _is_a_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        try:
            size = len(base64.b64decode(value.get_secret_value(), validate=True))
        except binascii.Error:
            size = 0
        if size != _AES_256_BYTES:
            raise ValueError("must be 32 random bytes in base64")
        return value

    @model_validator(mode="after")
    def _issuer_is_safe(self) -> "Settings":
        url = urlsplit(self.public_url)
        local = url.hostname in {"localhost", "127.0.0.1", "::1"}
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise ValueError("public_url must be an http or https URL")
        if url.query or url.fragment or url.path:
            raise ValueError("public_url must have no path, query or fragment")
        if self.environment == "production" and url.scheme == "http" and not local:
            raise ValueError("public_url must be https in production")
        return self

    @model_validator(mode="after")
    def _verifiers_know_keys_in_time(self) -> "Settings":
        if self.environment == "production" and self.key_lead_seconds < _LEAD_SECONDS:
            raise ValueError(f"key_lead_seconds must be {_LEAD_SECONDS} or more")
        return self

    @property
    def previous_sealing_key(self) -> bytes | None:
        """The raw bytes of `key_encryption_key_previous`."""
        previous = self.key_encryption_key_previous
        return base64.b64decode(previous.get_secret_value()) if previous else None

    @property
    def sealing_key(self) -> bytes:
        """The raw bytes of `key_encryption_key`."""
        return base64.b64decode(self.key_encryption_key.get_secret_value())
