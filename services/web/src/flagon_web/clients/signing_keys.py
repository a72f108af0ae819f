"""auth's API of signing keys as the page of administrators uses it."""

from urllib.parse import quote

from flagon_chassis.http import Client
from flagon_web.domain.signing_keys import SigningKey, SigningKeyList

_PATH = "/api/v1/keys"


class SigningKeys:
    """The keys that sign everybody's tokens.

    Every method raises `Unreachable` when auth does not answer and `Refused` when it says
    no.
    """

    def __init__(self, http: Client) -> None:
        self._http = http

    def list_keys(self, *, token: str) -> list[SigningKey]:
        """Return every key, newest first."""
        answer = self._http.get(_PATH, token=token)
        return SigningKeyList.model_validate(answer.json()).items[::-1]

    def rotate(self, *, token: str) -> None:
        """Let the next keys sign; refused while somebody may not know them yet."""
        self._http.post(f"{_PATH}/rotate", json={}, token=token)

    def drop(self, kid: str, *, token: str) -> None:
        """Have everybody refuse what a stolen key signed."""
        self._http.delete(f"{_PATH}/{quote(kid, safe='')}", token=token)
