"""An authenticator in software: it does what it is told, right or wrong.

It follows Web Authentication (https://www.w3.org/TR/webauthn-3/) closely enough for a
relying party: attestation "none", keys on P-256, and every flag can be set.
"""

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from secrets import token_bytes

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

PRESENT, VERIFIED, CAN_SYNC, SYNCED, ATTESTED = 0x01, 0x04, 0x08, 0x10, 0x40


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass
class SoftAuthenticator:
    """One passkey at most; the arguments are what it claims."""

    origin: str = "http://localhost"
    flags: int = PRESENT | VERIFIED
    count: int = 1
    rp_id: str | None = None
    """Another relying party than it was asked for."""
    credential_id: bytes = field(default_factory=lambda: token_bytes(32))
    user_handle: bytes | None = None
    cross_origin: bool = False

    def __post_init__(self):
        self.key = ec.generate_private_key(ec.SECP256R1())

    def create(self, options, **changes):
        """Return what a browser sends after `navigator.credentials.create`."""
        self.user_handle = unb64(options["user"]["id"])
        rp_id = self.rp_id or options["rp"]["id"]
        attested = (
            bytes(16)
            + struct.pack(">H", len(self.credential_id))
            + self.credential_id
            + cbor2.dumps(self._public_key())
        )
        data = self._authenticator_data(rp_id, ATTESTED) + attested
        statement = {"fmt": "none", "attStmt": {}, "authData": data}
        return self._answer(
            {
                "clientDataJSON": self._client_data("webauthn.create", options),
                "attestationObject": b64(cbor2.dumps(statement)),
                "transports": ["internal", "hybrid", "unheard-of"],
            },
            changes,
        )

    def get(self, options, **changes):
        """Return what a browser sends after `navigator.credentials.get`."""
        rp_id = self.rp_id or options["rpId"]
        self.count += 1 if self.count else 0
        data = self._authenticator_data(rp_id, 0)
        client_data = self._client_data("webauthn.get", options)
        signed = data + hashlib.sha256(unb64(client_data)).digest()
        return self._answer(
            {
                "clientDataJSON": client_data,
                "authenticatorData": b64(data),
                "signature": b64(self.key.sign(signed, ec.ECDSA(SHA256()))),
                "userHandle": b64(self.user_handle) if self.user_handle else None,
            },
            changes,
        )

    def _answer(self, response, changes):
        identity = b64(self.credential_id)
        return json.dumps(
            {
                "id": identity,
                "rawId": identity,
                "type": "public-key",
                "clientExtensionResults": {},
                "response": {**response, **changes},
            }
        )

    def _client_data(self, kind, options):
        said = {
            "type": kind,
            "challenge": options["challenge"],
            "origin": self.origin,
            "crossOrigin": self.cross_origin,
        }
        return b64(json.dumps(said).encode())

    def _authenticator_data(self, rp_id, more):
        hashed = hashlib.sha256(rp_id.encode()).digest()
        return hashed + struct.pack(">BI", self.flags | more, self.count)

    def _public_key(self):
        numbers = self.key.public_key().public_numbers()
        return {
            1: 2,
            3: -7,
            -1: 1,
            -2: numbers.x.to_bytes(32, "big"),
            -3: numbers.y.to_bytes(32, "big"),
        }
