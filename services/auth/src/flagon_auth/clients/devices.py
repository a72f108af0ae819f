"""The cookie by which a browser shows that an account has been signed in with it.

It opens nothing: it only says which counter the next wrong password raises, so that
strangers who guess cannot keep the owner waiting.
"""

import hashlib
import re
import secrets

from flask import Request, Response
from itsdangerous import BadData, URLSafeSerializer

_SECONDS = 180 * 86_400
# A browser that several people use; the one that was away longest is forgotten.
_ACCOUNTS_MAX = 5
_DIGEST = re.compile(r"\A[0-9a-f]{32}\Z")
_LENGTH_MAX = 1024


class DeviceCookie:
    """Reads and writes the cookie: a random name and digests of accounts, signed.

    :param cookie: its name; over https `__Host-` comes before it.
    """

    def __init__(self, secret_key: str, *, cookie: str) -> None:
        self._cookie = cookie
        self._serializer = URLSafeSerializer(
            secret_key,
            salt="known-device",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )

    def read(self, request: Request, account: str) -> str | None:
        """Return the browser's name if the account has been signed in with it.

        :param account: a digest, as `write` got it.
        """
        name, accounts = self._content(request)
        return name if account in accounts else None

    def write(self, request: Request, response: Response, account: str) -> None:
        """Let the browser know that this account has been signed in with it."""
        name, accounts = self._content(request)
        accounts = [account, *(one for one in accounts if one != account)]
        value = self._serializer.dumps(
            [name or secrets.token_hex(16), *accounts[:_ACCOUNTS_MAX]]
        )
        response.set_cookie(
            self._name(request),
            value if isinstance(value, str) else value.decode(),
            max_age=_SECONDS,
            httponly=True,
            secure=request.is_secure,
            samesite="Lax",
            path="/",
        )

    def _name(self, request: Request) -> str:
        return f"__Host-{self._cookie}" if request.is_secure else self._cookie

    def _content(self, request: Request) -> tuple[str | None, list[str]]:
        value = request.cookies.get(self._name(request), "")
        if not value or len(value) > _LENGTH_MAX:
            return None, []
        try:
            name, *accounts = self._serializer.loads(value)
        except (BadData, ValueError, TypeError):
            return None, []
        found = [name, *accounts]
        if not all(isinstance(one, str) and _DIGEST.match(one) for one in found):
            return None, []
        return name, accounts
