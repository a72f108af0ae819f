"""Challenges for passkeys: random, of one browser, for one purpose, used once."""

from datetime import UTC, datetime
from secrets import token_bytes

from flask import session
from webauthn.helpers import bytes_to_base64url

from flagon_auth.clients import parts
from flagon_auth.domain import passkeys
from flagon_auth.domain.passkeys import PasskeyRefused, RelyingParty

_BYTES = 32
_SECONDS = 1800
# One for every tab that may be open, without a session growing for ever.
_KEPT = 5
_KEY = "challenges"


def party() -> RelyingParty:
    """Return whom passkeys are made for: our own public address, never a header's."""
    return RelyingParty(parts().issuer.url)


def new_challenge(purpose: str) -> bytes:
    """Return a challenge that this browser can answer once.

    It lives long because a sign-in page that offers passkeys may be open for a while.
    """
    challenge = token_bytes(_BYTES)
    waiting = dict(session.get(_KEY, {}))
    waiting[bytes_to_base64url(challenge)] = [purpose, _now() + _SECONDS]
    session[_KEY] = dict(list(waiting.items())[-_KEPT:])
    return challenge


def take_challenge(purpose: str, credential: str) -> bytes:
    """Return the challenge that an answer is for, and let no other answer use it.

    It is gone before anything is verified, so that nobody can try twice. Of two answers
    at the same moment one gets it, whatever the session says.

    :raises PasskeyRefused: we did not ask that, for this purpose, in this browser, or
        the answer came too late or before.
    """
    challenge = passkeys.challenge_of(credential)
    name = bytes_to_base64url(challenge)
    waiting = dict(session.get(_KEY, {}))
    asked_for, ends = waiting.pop(name, ["", 0])
    session[_KEY] = waiting
    if asked_for != purpose or ends < _now():
        raise PasskeyRefused("The page was open for too long.")
    if not parts().sessions.claim_once(f"challenge:{name}", _SECONDS):
        raise PasskeyRefused("The answer came twice.")
    return challenge


def _now() -> float:
    return datetime.now(UTC).timestamp()
