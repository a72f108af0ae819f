"""Auth's public keys, as every service keeps them to check access tokens."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection, HTTPSConnection
from typing import Any, cast
from urllib.parse import urlsplit

import jwt as pyjwt
import structlog

from .errors import Unavailable
from .shared import Cell

log = structlog.get_logger()

Jwks = dict[str, Any]

ALGORITHM = "ES256"

_FETCH_SECONDS = 2.0
_MOST_BYTES = 256 * 1024
_BLOCK_BYTES = 65_536


class KeysUnavailable(Unavailable):
    """The keys that prove access tokens cannot be fetched."""


class KeyRing:
    """Auth's public keys, fetched rarely and kept while auth is away.

    Fresh for five minutes, then refreshed in the background by one thread; used for a
    day when auth does not answer. An unknown key id causes at most one fetch in thirty
    seconds, so forged ids cost nothing. `refetch` goes past all of this, for the moment
    when auth says that its keys changed.

    What one worker of a server fetched, all of them know: one that was never asked
    before, or that is new because another was killed, believes tokens while auth is away.

    :param fetch: returns a JWK set (RFC 7517); raises when auth does not answer.
    :param common: where the workers of this server leave what they fetched.
    """

    soft_seconds = 300.0
    hard_seconds = 86_400.0
    unknown_seconds = 30.0
    warm_tries = 5
    slow_seconds = 1.0
    """What fails sooner is no sign of somebody who is slow."""

    def __init__(
        self,
        fetch: Callable[[], Jwks],
        clock: Callable[[], float] = time.monotonic,
        common: Cell | None = None,
    ) -> None:
        self._fetch = fetch
        # The same in all processes of a machine, as Linux counts it.
        self._clock = clock
        self._common = common
        self._keys: dict[str, pyjwt.PyJWK] = {}
        self._jwks: dict[str, Jwks] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._unknown_at = float("-inf")
        self._busy = threading.Lock()
        self._beside = threading.Lock()
        self._using = threading.Lock()

    def check(self) -> None:
        """See to it that there are keys: fetch them where there never were any.

        A server asks this when it says whether it is ready, so that the first token that
        comes finds them.

        :raises KeysUnavailable: no key was ever fetched, or too long ago.
        """
        now = self._clock()
        if now - self._fetched_at > self.hard_seconds:
            self._adopt()
        if now - self._fetched_at <= self.hard_seconds:
            return
        # Without any key nothing works, so try more often, but not at every request.
        if now - self._tried_at > 1:
            self._refresh()
        if self._clock() - self._fetched_at > self.hard_seconds:
            raise KeysUnavailable("Try again in a few seconds.", retry_after_seconds=2)

    def find(self, kid: str) -> pyjwt.PyJWK:
        """Return the key with this id; the same object for as long as it is the same key.

        :raises KeysUnavailable: no key was ever fetched, or too long ago.
        :raises jwt.InvalidTokenError: auth has no such key.
        """
        self.check()
        now = self._clock()
        if kid not in self._keys:
            self._adopt()
        # Counted apart: who has just fetched may still have missed a key that is newer.
        if kid not in self._keys and now - self._unknown_at > self.unknown_seconds:
            self._refresh()
            self._unknown_at = self._clock()
        elif now - max(self._fetched_at, self._tried_at) > self.soft_seconds:
            self._refresh_beside()
        try:
            return self._keys[kid]
        except KeyError:
            raise pyjwt.InvalidTokenError("unknown key") from None

    def warm(self) -> None:
        """Fetch the keys before anybody asks for one.

        Several times while auth is slow: a process that begins to serve without keys
        refuses everybody. Where auth is away it goes on without.
        """
        for _ in range(self.warm_tries):
            began = self._clock()
            if began - self._fetched_at <= self.hard_seconds:
                return
            self._refresh()
            if self._clock() - began < self.slow_seconds:
                return

    def refetch(self) -> None:
        """Fetch the keys now, beside the requests, whenever the last time was.

        For whoever knows that they changed; what a stranger sends must never lead here.
        """
        threading.Thread(target=self._refetch, name="jwks", daemon=True).start()

    def _refresh_beside(self) -> None:
        if self._beside.acquire(blocking=False):
            threading.Thread(target=self._run_beside, daemon=True).start()

    def _run_beside(self) -> None:
        try:
            self._refresh()
        finally:
            self._beside.release()

    def _refresh(self) -> None:
        # Who comes while another fetches waits for that fetch and does none of its own.
        before = self._tried_at
        with self._busy:
            if self._tried_at == before:
                self._take()

    def _refetch(self) -> None:
        # A fetch that is under way may have asked before the change: ask once more.
        with self._busy:
            self._take()

    def _take(self) -> None:
        began = self._clock()
        try:
            jwks = self._fetch()
            self._use(jwks, began)
        # Whatever failed, network, database or an answer that makes no sense: the keys
        # that are known go on serving, and raising would refuse every token instead.
        except Exception as error:  # noqa: BLE001
            log.warning("jwks_fetch_failed", error=repr(error))
        else:
            if self._common:
                self._common.put(json.dumps(jwks).encode(), began)
        self._tried_at = self._clock()

    def _adopt(self) -> None:
        """Take what another worker has fetched since we did."""
        if self._common and self._common.when() > self._fetched_at:
            found = self._common.get()
            if found:
                jwks, when = found
                self._use(json.loads(jwks), when)

    def _use(self, jwks: Jwks, fetched_at: float) -> None:
        found = _usable(jwks)
        with self._using:
            self._keys = {
                kid: self._keys[kid] if self._jwks.get(kid) == jwk else key
                for kid, (jwk, key) in found.items()
            }
            self._jwks = {kid: jwk for kid, (jwk, _key) in found.items()}
            # As it was when it was asked for: it may be older than its answer.
            self._fetched_at = fetched_at


def _usable(jwks: Jwks) -> dict[str, tuple[Jwks, pyjwt.PyJWK]]:
    """Return the keys that may prove access tokens by id; all others are left out."""
    listed = [jwk for jwk in jwks["keys"] if isinstance(jwk, dict)]
    # Two keys of one id leave open which of them proves a token: neither does.
    often = Counter(str(jwk.get("kid")) for jwk in listed)
    found: dict[str, tuple[Jwks, pyjwt.PyJWK]] = {}
    for jwk in listed:
        if _suitable(jwk) and often[jwk["kid"]] == 1:
            try:
                found[jwk["kid"]] = (jwk, pyjwt.PyJWK(jwk))
            except pyjwt.PyJWTError:
                continue
    if not found:
        raise ValueError("the key set has no usable key")
    return found


def _suitable(jwk: Jwks) -> bool:
    """Say whether this is the public half of a P-256 key that is meant to verify.

    RFC 8725 sections 3.1 and 3.5: one algorithm, one curve, and what the key says that
    it is for counts. A set that tells the private half is not to be trusted at all.
    """
    operations = jwk.get("key_ops", ["verify"])
    return (
        (jwk.get("kty"), jwk.get("crv"), jwk.get("alg")) == ("EC", "P-256", ALGORITHM)
        and jwk.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
        and isinstance(jwk.get("kid"), str)
        and "d" not in jwk
    )


def fetch_from(
    url: str, clock: Callable[[], float] = time.monotonic
) -> Callable[[], Jwks]:
    """Return a function that fetches the key set from a URL.

    Two seconds and 256 KiB are all that it may take, however slowly it comes; redirects
    are not followed, and no proxy is asked.
    """
    there = urlsplit(url)
    # Not the client of `http`: its first use takes 14 MB, in each process that may never
    # talk to anybody else.
    connect = HTTPSConnection if there.scheme == "https" else HTTPConnection

    def fetch() -> Jwks:
        ends = clock() + _FETCH_SECONDS
        body = b""
        connection = connect(there.hostname or "", there.port, timeout=_FETCH_SECONDS)
        with closing(connection):
            connection.request("GET", there.path or "/")
            answer = connection.getresponse()
            if answer.status != HTTPStatus.OK:
                raise ConnectionError(f"status {answer.status}")
            while chunk := answer.read1(_BLOCK_BYTES):
                body += chunk
                if clock() > ends or len(body) > _MOST_BYTES:
                    raise TimeoutError("the key set takes too long or is too long")
        return cast("Jwks", json.loads(body))

    return fetch
