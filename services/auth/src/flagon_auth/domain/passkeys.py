"""Passkeys (Web Authentication): made, listed and checked.

Whatever the browser sends comes from somebody who may not have the key; it is believed
only after py_webauthn has checked challenge, origin, relying party, user verification
and signature.
"""

import hmac
import json
import struct
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import cbor2
import webauthn
from cryptography.exceptions import UnsupportedAlgorithm
from sqlalchemy import delete, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7
from webauthn.helpers import base64url_to_bytes
from webauthn.helpers.cose import COSEAlgorithmIdentifier
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    AuthenticatorTransport,
    CredentialDeviceType,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from flagon_auth.models import Account, Passkey
from flagon_chassis.errors import Conflict, Invalid, NotFound, Unauthenticated

NAME_LENGTH_MAX = 60
PASSKEYS_MAX = 20
TIMEOUT_SECONDS = 300
"""How long the browser waits for the person (WebAuthn: 5 to 10 minutes)."""
CREDENTIAL_LENGTH_MAX = 16_384
_ALGORITHMS = [
    COSEAlgorithmIdentifier.ECDSA_SHA_256,
    COSEAlgorithmIdentifier.EDDSA,
    COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256,
]
# What parsers raise on bytes that are not what they say; nothing else hides in these.
_MALFORMED = (
    WebAuthnException,
    UnsupportedAlgorithm,
    cbor2.CBORError,
    struct.error,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    RecursionError,
)


class PasskeyRefused(Unauthenticated):
    """This passkey does not sign you in."""


class PasskeyCloned(PasskeyRefused):
    """This passkey has been copied.

    Its counter went backwards: two devices use the same key.
    """

    def __init__(self, account_id: UUID, passkey_id: UUID) -> None:
        super().__init__("Use another one and remove this one.")
        self.account_id = account_id
        self.passkey_id = passkey_id


class PasskeyInvalid(Invalid):
    """The passkey could not be added."""


class PasskeyTaken(Conflict):
    """This passkey has been added before."""


class PasskeyNotFound(NotFound):
    """There is no such passkey."""


@dataclass(frozen=True)
class RelyingParty:
    """Whom passkeys are made for.

    :param origin: scheme, host and port of the pages.
    """

    origin: str
    name: str = "Flagon"

    @property
    def id(self) -> str:
        """The domain that passkeys are bound to: that of the pages, and no wider."""
        return urlsplit(self.origin).hostname or ""


@dataclass(frozen=True)
class Proof:
    """What a passkey has proved."""

    account: Account
    passkey: Passkey
    amr: list[str]


def creation_options(
    session: Session, party: RelyingParty, account: Account, challenge: bytes
) -> dict[str, Any]:
    """Return what the browser needs to make a passkey.

    It must be discoverable (no name has to be typed) and verify its user, because it
    stands for two factors. Attestation is not asked for: we would not treat one maker's
    keys better than another's, and it tells who owns which device.
    """
    options = webauthn.generate_registration_options(
        rp_id=party.id,
        rp_name=party.name,
        user_id=account.id.bytes,
        user_name=account.email,
        user_display_name=account.name,
        challenge=challenge,
        timeout=TIMEOUT_SECONDS * 1000,
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.REQUIRED,
            user_verification=UserVerificationRequirement.REQUIRED,
        ),
        exclude_credentials=_descriptors(list_passkeys(session, account.id)),
        supported_pub_key_algs=_ALGORITHMS,
    )
    return _as_json(options)


def request_options(
    party: RelyingParty, challenge: bytes, allowed: list[Passkey] | None = None
) -> dict[str, Any]:
    """Return what the browser needs to use a passkey.

    :param allowed: the passkeys of the account; None while nobody knows whose it is.
    """
    options = webauthn.generate_authentication_options(
        rp_id=party.id,
        challenge=challenge,
        timeout=TIMEOUT_SECONDS * 1000,
        allow_credentials=_descriptors(allowed or []),
        user_verification=UserVerificationRequirement.REQUIRED,
    )
    return _as_json(options)


def challenge_of(credential: str) -> bytes:
    """Return the challenge that an answer claims to answer; nothing is proved by it.

    :raises PasskeyRefused: it is no answer of a browser.
    """
    try:
        read = _parse(credential)
        client_data = json.loads(base64url_to_bytes(read["response"]["clientDataJSON"]))
        return base64url_to_bytes(client_data["challenge"])
    except _MALFORMED as error:
        raise PasskeyRefused("The browser sent something unreadable.") from error


def add_passkey(
    session: Session,
    party: RelyingParty,
    account: Account,
    *,
    credential: str,
    challenge: bytes,
    name: str,
    now: datetime,
) -> Passkey:
    """Add the passkey that the browser has made.

    :param credential: the browser's answer, as JSON.
    :param challenge: what we asked it to sign; never used before or again.
    :raises PasskeyInvalid: it is not for us, did not verify its user, or there are too
        many.
    :raises PasskeyTaken: somebody has added it.
    """
    name = clean_name(name)
    if len(list_passkeys(session, account.id)) >= PASSKEYS_MAX:
        raise PasskeyInvalid(f"An account can have {PASSKEYS_MAX}; remove one first.")
    try:
        read = _parse(credential)
        made = webauthn.verify_registration_response(
            credential=read,
            expected_challenge=challenge,
            expected_rp_id=party.id,
            expected_origin=party.origin,
            require_user_verification=True,
            supported_pub_key_algs=_ALGORITHMS,
        )
        _refuse_frames(read)
        transports = _transports(read)
    except _MALFORMED as error:
        raise PasskeyInvalid("The browser's answer does not fit.") from error
    created_id = session.scalar(
        insert(Passkey)
        .values(
            id=uuid7(),
            account_id=account.id,
            credential_id=made.credential_id,
            public_key=made.credential_public_key,
            sign_count=made.sign_count,
            name=name,
            transports=transports,
            backed_up=made.credential_backed_up,
            created_at=now,
        )
        .on_conflict_do_nothing(index_elements=["credential_id"])
        .returning(Passkey.id)
    )
    if created_id is None:
        raise PasskeyTaken("Use another one.")
    return find_passkey(session, account.id, created_id)


def use_passkey(
    session: Session,
    party: RelyingParty,
    *,
    credential: str,
    challenge: bytes,
    account_id: UUID | None = None,
    now: datetime,
) -> Proof:
    """Return whom a passkey belongs to that has signed our challenge.

    :param account_id: whose it must be; None when the passkey says who it is.
    :raises PasskeyRefused: for whatever reason, told alike.
    :raises PasskeyCloned: its counter went backwards.
    """
    try:
        read = _parse(credential)
        row = _find_by_credential(session, base64url_to_bytes(read["rawId"]))
        verified = webauthn.verify_authentication_response(
            credential=read,
            expected_challenge=challenge,
            expected_rp_id=party.id,
            expected_origin=party.origin,
            credential_public_key=row.public_key,
            # Looked at below, once it is certain that the key itself has counted.
            credential_current_sign_count=0,
            require_user_verification=True,
        )
        _refuse_frames(read)
        handle = read["response"].get("userHandle")
        claimed = base64url_to_bytes(handle) if handle else None
    except _MALFORMED as error:
        raise PasskeyRefused("Try again or sign in another way.") from error
    account = session.get_one(Account, row.account_id)
    # A passkey that was found without a name must say whose it is, and rightly so.
    whose = claimed if claimed is not None or account_id is None else account.id.bytes
    if not hmac.compare_digest(whose or b"", account.id.bytes) or (
        account_id not in {None, account.id} or account.disabled
    ):
        raise PasskeyRefused("Try again or sign in another way.")
    _count_up(session, row, verified.new_sign_count, now=now)
    row.backed_up = verified.credential_backed_up
    bound = verified.credential_device_type == CredentialDeviceType.SINGLE_DEVICE
    return Proof(account, row, ["hwk" if bound else "swk", "user", "mfa"])


def list_passkeys(session: Session, account_id: UUID) -> list[Passkey]:
    """Return the passkeys of an account, oldest first."""
    statement = select(Passkey).filter_by(account_id=account_id)
    return list(session.scalars(statement.order_by(Passkey.created_at, Passkey.id)))


def find_passkey(session: Session, account_id: UUID, passkey_id: UUID) -> Passkey:
    """Return one passkey of the account.

    :raises PasskeyNotFound: it has none with this id.
    """
    statement = select(Passkey).filter_by(id=passkey_id, account_id=account_id)
    row = session.scalars(statement).one_or_none()
    if row is None:
        raise PasskeyNotFound("It may have been removed.")
    return row


def rename_passkey(
    session: Session, account_id: UUID, passkey_id: UUID, name: str
) -> None:
    """Give a passkey another name.

    :raises PasskeyNotFound: the account has none with this id.
    :raises PasskeyInvalid: it is no name.
    """
    find_passkey(session, account_id, passkey_id).name = clean_name(name)


def remove_passkey(session: Session, account_id: UUID, passkey_id: UUID) -> str:
    """Remove a passkey and return its name.

    :raises PasskeyNotFound: the account has none with this id.
    """
    row = find_passkey(session, account_id, passkey_id)
    session.execute(delete(Passkey).where(Passkey.id == row.id))
    return row.name


def clean_name(name: str) -> str:
    """Return the name with single blanks.

    :raises PasskeyInvalid: it is empty, too long or holds what nobody can read.
    """
    cleaned = " ".join(name.split())
    if not 0 < len(cleaned) <= NAME_LENGTH_MAX or not cleaned.isprintable():
        raise PasskeyInvalid(f"Use 1 to {NAME_LENGTH_MAX} readable characters.")
    return cleaned


def _count_up(session: Session, row: Passkey, count: int, *, now: datetime) -> None:
    # Authenticators that do not count always say zero. For the others the database
    # compares, so that two answers at once cannot both be the next.
    counted = session.execute(
        update(Passkey)
        .where(
            Passkey.id == row.id,
            or_(Passkey.sign_count < count, (Passkey.sign_count == 0) & (count == 0)),
        )
        .values(sign_count=count, last_used_at=now)
        .returning(Passkey.id)
    ).one_or_none()
    if counted is None:
        raise PasskeyCloned(row.account_id, row.id)


def _find_by_credential(session: Session, credential_id: bytes) -> Passkey:
    row = session.scalars(
        select(Passkey).filter_by(credential_id=credential_id)
    ).one_or_none()
    if row is None:
        raise PasskeyRefused("Try again or sign in another way.")
    return row


def _refuse_frames(credential: dict[str, Any]) -> None:
    client_data = json.loads(
        base64url_to_bytes(credential["response"]["clientDataJSON"])
    )
    if client_data.get("crossOrigin"):
        raise ValueError("made inside another site's page")


def _transports(credential: dict[str, Any]) -> list[str]:
    known = {transport.value for transport in AuthenticatorTransport}
    told = credential["response"].get("transports") or []
    return sorted(known & {str(transport) for transport in told})


def _parse(credential: str) -> dict[str, Any]:
    if len(credential) > CREDENTIAL_LENGTH_MAX:
        raise ValueError("too long")
    read = json.loads(credential)
    if not isinstance(read, dict):
        raise TypeError("not an object")
    return read


def _descriptors(rows: list[Passkey]) -> list[PublicKeyCredentialDescriptor]:
    return [
        PublicKeyCredentialDescriptor(
            id=row.credential_id,
            transports=[AuthenticatorTransport(name) for name in row.transports],
        )
        for row in rows
    ]


def _as_json(options: Any) -> dict[str, Any]:  # noqa: ANN401 (one of two kinds)
    read: dict[str, Any] = json.loads(webauthn.options_to_json(options))
    return read
