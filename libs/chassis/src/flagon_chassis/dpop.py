"""Proofs of possession (DPoP, RFC 9449): who sends a token holds the key it is bound to.

Usable alone: `check` reads one proof and asks nobody. Whether a proof was seen before is
for the caller to remember, by `Proof.digest` and for `REMEMBERED_SECONDS`.
"""

import hashlib
import hmac
import json
import re
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import jwt as pyjwt

from .errors import Unauthenticated

ALGORITHMS = ("ES256", "Ed25519", "EdDSA", "PS256", "RS256")
LIFE_SECONDS = 60
"""How old a proof may be."""
LEAD_SECONDS = 10
"""How far a client's clock may be ahead of ours."""
REMEMBERED_SECONDS = LIFE_SECONDS + LEAD_SECONDS + 10
"""How long a proof that was used must be known, so that it is refused again."""

_COMPACT = re.compile(r"\A[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")
_LONGEST_PROOF = 8192
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
# What a thumbprint covers (RFC 7638 section 3.2), by the algorithms that fit the key.
_EC = {"kty": "EC", "crv": "P-256"}
_OKP = {"kty": "OKP", "crv": "Ed25519"}
_RSA = {"kty": "RSA"}
_KINDS = {
    "ES256": _EC,
    "Ed25519": _OKP,
    "EdDSA": _OKP,
    "PS256": _RSA,
    "RS256": _RSA,
}
# RFC 9864 gave EdDSA with this curve a name of its own, which the library does not know.
_SAME = {"Ed25519": "EdDSA"}
_JWS = pyjwt.PyJWS()
_JWS.register_algorithm("Ed25519", pyjwt.get_algorithm_by_name("EdDSA"))
_MEMBERS = {
    "EC": ("crv", "kty", "x", "y"),
    "OKP": ("crv", "kty", "x"),
    "RSA": ("e", "kty", "n"),
}
# 2048 and 8192 bits in base64url: weaker keys prove little, longer ones cost much.
_MODULUS_LENGTHS = range(342, 1367)
_DEFAULT_PORTS = {"http": 80, "https": 443}


class ProofInvalid(Unauthenticated):
    """The proof of possession is not valid."""


@dataclass(frozen=True)
class Proof:
    """What one good proof says."""

    jkt: str
    """Thumbprint (RFC 7638) of the key that signed it, as tokens name it in `cnf`."""
    jti: str
    """Chosen by the client, and never twice with one key."""

    @property
    def digest(self) -> str:
        """A name for the proof, of one length and safe in any store."""
        return hashlib.sha256(
            # JSON can name halves of characters, which have no other encoding.
            f"{self.jkt}\n{self.jti}".encode(errors="surrogatepass")
        ).hexdigest()


def check(
    proof: str, *, method: str, url: str, access_token: str | None = None, now: float
) -> Proof:
    """Return what the proof says if it fits the request.

    :param proof: the `DPoP` header; two headers, which arrive joined, are no proof.
    :param url: of the request as the client sees it; query and fragment do not count.
    :param access_token: the token that it comes with; None at a token endpoint.
    :param now: seconds since the epoch.
    :raises ProofInvalid: it is malformed, too old, for something else or not signed by
        the key that it carries.
    """
    if len(proof) > _LONGEST_PROOF or not _COMPACT.match(proof):
        raise ProofInvalid("The DPoP header is not one compact JWS.")
    try:
        header = pyjwt.get_unverified_header(proof)
        jwk = _public_key(header)
        alg = header["alg"]
        # The algorithm fits the key: `_public_key` has seen to that.
        key = pyjwt.PyJWK(jwk, algorithm=_SAME.get(alg, alg)).key
        claims = json.loads(_JWS.decode(proof, key, [alg]))
    # What a stranger's key or nested brackets can raise in the libraries.
    except (pyjwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise ProofInvalid("The proof is not signed by the key in it.") from error
    if not isinstance(claims, dict):
        raise ProofInvalid("The claims of a proof are a JSON object.")
    _check_claims(claims, method=method, url=url, now=now)
    if access_token is not None:
        digest = hashlib.sha256(access_token.encode()).digest()
        if not _same(
            claims.get("ath"), urlsafe_b64encode(digest).rstrip(b"=").decode()
        ):
            raise ProofInvalid("The proof is for another token: ath differs.")
    return Proof(jkt=thumbprint(jwk), jti=claims["jti"])


def thumbprint(jwk: dict[str, Any]) -> str:
    """Return the RFC 7638 thumbprint of a public key."""
    members = {name: jwk[name] for name in _MEMBERS[jwk["kty"]]}
    text = json.dumps(members, sort_keys=True, separators=(",", ":"))
    return urlsafe_b64encode(hashlib.sha256(text.encode()).digest())[:-1].decode()


def _public_key(header: dict[str, Any]) -> dict[str, Any]:
    kind, alg, jwk = header.get("typ"), header.get("alg"), header.get("jwk")
    if not isinstance(kind, str) or kind.lower() not in {
        "dpop+jwt",
        "application/dpop+jwt",
    }:
        raise ProofInvalid("The typ of a proof is dpop+jwt.")
    if alg not in ALGORITHMS or "crit" in header:
        raise ProofInvalid(f"Proofs are signed by one of {' '.join(ALGORITHMS)}.")
    if not isinstance(jwk, dict) or _PRIVATE & set(jwk):
        raise ProofInvalid("The jwk of a proof is a public key.")
    if any(jwk.get(name) != value for name, value in _KINDS[alg].items()):
        raise ProofInvalid(f"The key does not fit the algorithm {alg}.")
    names = _MEMBERS[jwk["kty"]]
    members = {name: jwk[name] for name in names if isinstance(jwk.get(name), str)}
    if len(members) < len(names):
        raise ProofInvalid("The jwk of a proof is not complete.")
    if "n" in members and len(members["n"]) not in _MODULUS_LENGTHS:
        raise ProofInvalid("An RSA key has 2048 to 8192 bits.")
    return members


def _check_claims(claims: dict[str, Any], *, method: str, url: str, now: float) -> None:
    jti, issued_at = claims.get("jti"), claims.get("iat")
    if not isinstance(jti, str) or not jti:
        raise ProofInvalid("A proof has an id: jti.")
    if not _same(claims.get("htm"), method):
        raise ProofInvalid("The proof is for another method: htm differs.")
    if not isinstance(claims.get("htu"), str) or _place(claims["htu"]) != _place(url):
        raise ProofInvalid("The proof is for another address: htu differs.")
    if not isinstance(issued_at, int | float) or not (
        now - LIFE_SECONDS <= issued_at <= now + LEAD_SECONDS
    ):
        raise ProofInvalid(
            "The proof was not made just now: look at iat and the clock."
        )


def _same(given: object, right: str) -> bool:
    return isinstance(given, str) and hmac.compare_digest(
        given.encode("utf-8", "replace"), right.encode()
    )


def _place(url: str) -> tuple[str, str, int | None, str] | None:
    """Return what of an address counts, in one spelling (RFC 3986 section 6.2.2)."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    return parts.scheme, parts.hostname or "", port, unquote(parts.path) or "/"
