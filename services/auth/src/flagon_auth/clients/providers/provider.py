"""What all outside providers have in common: how they are asked, and what they answer."""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import httpx2

from flagon_auth.domain.identities import Profile
from flagon_chassis import http
from flagon_chassis.errors import Forbidden, Unavailable
from flagon_chassis.settings import ServiceSettings

from .registration import ProviderSettings, origin_of

# What providers answer is small; one that is not is broken or hostile.
_ANSWER_BYTES = 256 * 1024
_TEXT_LENGTH_MAX = 320


class ProviderUnavailable(Unavailable):
    """The outside provider does not answer."""


class ProviderUntrusted(Forbidden):
    """The outside provider's answer cannot be trusted."""


class Provider(ABC):
    """One provider that people can sign in with."""

    def __init__(
        self,
        about: ProviderSettings,
        settings: ServiceSettings,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.about = about
        self.clock = clock
        self._http = http.Client(
            about.issuer,
            settings,
            name=f"social-{about.name}",
            deadline_seconds=about.timeout_seconds,
            retries=1,
            response_bytes=_ANSWER_BYTES,
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    @property
    def origin(self) -> str:
        """Where a form that starts here will probably be redirected to."""
        return origin_of(self.about.authorize_url or self.about.issuer)

    @abstractmethod
    def authorization_url(
        self, *, redirect_uri: str, state: str, nonce: str, verifier: str, fresh: bool
    ) -> str:
        """Return the address at the provider where the person signs in.

        :param fresh: let them prove who they are although they are signed in there.
        :raises ProviderUnavailable: it does not answer.
        :raises ProviderUntrusted: it says that it is somebody else.
        """

    @abstractmethod
    def check_issuer(self, claimed: str | None) -> None:
        """Refuse an answer that another provider gave (RFC 9207).

        :raises ProviderUntrusted: it did, or its name is missing.
        """

    @abstractmethod
    def identify(
        self,
        *,
        code: str,
        redirect_uri: str,
        nonce: str,
        verifier: str,
        proved_after: float | None,
    ) -> Profile:
        """Return who has signed in, in exchange for the code.

        :param proved_after: the person must have signed in there since then.
        :raises ProviderUnavailable: it does not answer.
        :raises ProviderUntrusted: it does not accept the code, or its answer is not
            what it must be.
        """

    def _read(self, url: str, **options: Any) -> Any:  # noqa: ANN401 (JSON)
        return self._json(lambda: self._http.get(url, **options))

    def _redeem(
        self, url: str, form: Mapping[str, str], auth: tuple[str, str] | None
    ) -> dict[str, Any]:
        answer = self._json(lambda: self._http.post(url, data=form, auth=auth))
        if not isinstance(answer, dict) or not isinstance(
            answer.get("access_token"), str
        ):
            raise ProviderUntrusted("It gave no token.")
        if str(answer.get("token_type", "")).lower() != "bearer":
            raise ProviderUntrusted("It gave a token of another kind.")
        return answer

    def _json(self, call: Callable[[], httpx2.Response]) -> Any:  # noqa: ANN401
        try:
            response = call()
        except http.Unreachable as error:
            raise ProviderUnavailable(
                f"{self.about.label} does not answer.",
                retry_after_seconds=error.retry_after_seconds,
            ) from error
        except http.Refused as error:
            # What it says may quote the code; the status is enough.
            raise ProviderUntrusted(f"It refused with status {error.status}.") from None
        if response.status_code != HTTPStatus.OK:
            raise ProviderUntrusted(f"It answered with status {response.status_code}.")
        return parsed(response.content)


def parsed(content: bytes) -> Any:  # noqa: ANN401
    """Return the JSON in a provider's answer.

    :raises ProviderUntrusted: it is none.
    """
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ProviderUntrusted("Its answer is no JSON.") from error


def text(value: object) -> str | None:
    """Return a text that Postgres can keep; None for anything else."""
    if not isinstance(value, str) or not value or not value.isprintable():
        return None
    return value[:_TEXT_LENGTH_MAX]
