"""Secrets that we must be able to read again: encrypted, and bound to a name."""

import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM


class Sealer:
    """Encrypts with a key that is made of the service's secret key.

    :param secret_key: when it changes, what was sealed cannot be opened any more.
    """

    def __init__(self, secret_key: str) -> None:
        self._secret_key = secret_key.encode()

    def seal(self, name: str, content: bytes) -> bytes:
        """Return the content encrypted, to be opened under the same name alone."""
        nonce = secrets.token_bytes(12)
        return nonce + self._cipher().encrypt(nonce, content, name.encode())

    def open(self, name: str, sealed: bytes) -> bytes:
        """Return what was sealed under this name.

        :raises cryptography.exceptions.InvalidTag: it was not, or with another key.
        """
        return self._cipher().decrypt(sealed[:12], sealed[12:], name.encode())

    def _cipher(self) -> "AESGCM":
        # Megabytes that most processes never need.
        from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

        derived = HKDF(hashes.SHA256(), 32, salt=None, info=b"worker webhooks")
        return AESGCM(derived.derive(self._secret_key))
