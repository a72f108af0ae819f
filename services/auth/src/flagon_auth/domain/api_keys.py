"""API keys: long-lived credentials of scripts, worth a short access token at a time.

A key looks like `flg_<12 characters>_<43 characters>`: programs that search for leaked
secrets know it by its beginning. The first part finds the key, the second proves it.
"""

import hashlib
import hmac
import re
import secrets
from base64 import b32encode
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from flagon_auth.models import AccessToken, Account, ApiKey
from flagon_chassis.errors import Conflict, Invalid, NotFound, Unauthenticated

from . import accounts, tokens
from .tokens import Issuer, Spent

LIFE_DAYS_MAX = 366
NAME_LENGTH_MAX = 100
_KEYS_MAX = 20
_FORM = re.compile(r"\Aflg_([a-z2-7]{12})_([A-Za-z0-9_-]{43})\Z")
# A time that is a minute off tells as much and saves a write per request.
_USE_SECONDS = 60
# Compared when there is no such key, so that both cases do the same work.
_NO_SECRET = hashlib.sha256(secrets.token_bytes(32)).digest()


class ApiKeyRefused(Unauthenticated):
    """The API key is not valid."""


class ApiKeyNotFound(NotFound):
    """There is no such API key."""


class ApiKeyInvalid(Invalid):
    """An API key cannot be made like this."""


class TooManyApiKeys(Conflict):
    """The account has as many API keys as it may have."""


def create_key(
    session: Session,
    account: Account,
    *,
    name: str,
    scope: str,
    life: timedelta,
    now: datetime,
) -> tuple[ApiKey, str]:
    """Add a key and return it with its text, which cannot be read again.

    :param scope: what it may do: API scopes that the account's roles allow.
    :param life: how long it works, at most a year.
    :raises ApiKeyInvalid: the name, the scope or the life is not usable.
    :raises TooManyApiKeys: old ones must be revoked first.
    """
    wanted = set(scope.split())
    excess = sorted(wanted - accounts.scopes_of(account.roles))
    if not wanted or excess:
        raise ApiKeyInvalid(
            f"Your roles do not allow {' '.join(excess)}."
            if excess
            else "Choose what the key may do.",
            scopes=excess,
        )
    name = " ".join(name.split())
    if not 0 < len(name) <= NAME_LENGTH_MAX or not name.isprintable():
        raise ApiKeyInvalid(f"Give it a name of 1 to {NAME_LENGTH_MAX} characters.")
    if not timedelta(0) < life <= timedelta(days=LIFE_DAYS_MAX):
        raise ApiKeyInvalid(f"It may live for 1 to {LIFE_DAYS_MAX} days.")
    # The account's row makes twins take turns, so that both cannot be the last one.
    session.get_one(Account, account.id, with_for_update=True)
    live = session.scalar(
        select(func.count())
        .select_from(ApiKey)
        .where(ApiKey.account_id == account.id, ApiKey.revoked_at.is_(None))
        .where(ApiKey.expires_at > now)
    )
    if (live or 0) >= _KEYS_MAX:
        raise TooManyApiKeys(f"Revoke one of the {_KEYS_MAX} first.")
    prefix = b32encode(secrets.token_bytes(8)).decode().lower()[:12]
    secret = secrets.token_urlsafe(32)
    key = ApiKey(
        prefix=prefix,
        secret_hash=_hash(secret),
        account_id=account.id,
        name=name,
        scope=" ".join(sorted(wanted)),
        created_at=now,
        expires_at=now + life,
    )
    session.add(key)
    session.flush()
    return key, f"flg_{prefix}_{secret}"


def list_keys(session: Session, account_id: UUID) -> list[ApiKey]:
    """Return the keys of one account that were not revoked, oldest first."""
    return list(
        session.scalars(
            select(ApiKey)
            .where(ApiKey.account_id == account_id, ApiKey.revoked_at.is_(None))
            .order_by(ApiKey.id)
        )
    )


def find_key(session: Session, account_id: UUID, key_id: UUID) -> ApiKey:
    """Return one key of the account that was not revoked.

    :raises ApiKeyNotFound: there is none with this id.
    """
    key = session.get(ApiKey, key_id)
    if key is None or key.account_id != account_id or key.revoked_at is not None:
        raise ApiKeyNotFound(f"No API key of yours has the id {key_id}.")
    return key


def revoke_key(session: Session, key: ApiKey, *, now: datetime) -> list[Spent]:
    """End one key and return its access tokens that still live."""
    key.revoked_at = now
    session.flush()
    return _live(session, AccessToken.api_key_id == key.id, now=now)


def live_tokens(session: Session, account_id: UUID, *, now: datetime) -> list[Spent]:
    """Return the access tokens that an account's keys were exchanged for."""
    keys = select(ApiKey.id).filter_by(account_id=account_id)
    return _live(session, AccessToken.api_key_id.in_(keys), now=now)


def exchange(
    session: Session, issuer: Issuer, text: str, *, now: datetime
) -> tuple[str, ApiKey]:
    """Return an access token for who holds a key: with its scopes, as roles allow today.

    :raises ApiKeyRefused: for every reason alike.
    """
    form = _FORM.match(text)
    prefix, secret = form.groups() if form else ("", "")
    statement = select(ApiKey).where(ApiKey.prefix == prefix)
    key = session.scalars(statement).one_or_none()
    proved = hmac.compare_digest(key.secret_hash if key else _NO_SECRET, _hash(secret))
    if key is None or not proved or key.revoked_at or key.expires_at <= now:
        raise ApiKeyRefused("Make a new one in your account.")
    account = accounts.find_account_if_enabled(session, key.account_id)
    if account is None:
        raise ApiKeyRefused("Make a new one in your account.")
    scope = set(key.scope.split()) & accounts.scopes_of(account.roles)
    _note_use(session, key, now=now)
    token = tokens.key_token(
        session,
        issuer,
        account=account,
        key_id=key.id,
        sid=sid_of(key.id),
        scope=" ".join(sorted(scope)),
        now=now,
    )
    return token, key


def sid_of(key_id: UUID) -> str:
    """Return what the tokens of a key carry as their session: denying it ends all."""
    return f"key-{key_id}"


def _note_use(session: Session, key: ApiKey, *, now: datetime) -> None:
    since = now - timedelta(seconds=_USE_SECONDS)
    if key.last_used_at is None or key.last_used_at < since:
        session.execute(
            update(ApiKey).where(ApiKey.id == key.id).values(last_used_at=now)
        )


def _live(
    session: Session, condition: ColumnElement[bool], *, now: datetime
) -> list[Spent]:
    rows = session.execute(
        select(AccessToken.jti, AccessToken.expires_at).where(
            condition, AccessToken.expires_at > now
        )
    )
    return [Spent(jti, expires_at) for jti, expires_at in rows]


def _hash(secret: str) -> bytes:
    # A fast hash is right: the secret is 256 random bits.
    return hashlib.sha256(secret.encode()).digest()
