"""Calls to other services: bounded in time and size, retried when that is safe."""

import contextlib
import itertools
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import IO, Any, cast

import httpx2
import pybreaker
import structlog

from . import metrics, tracing
from .errors import Failure, Unavailable
from .logs import request_id
from .settings import ServiceSettings

log = structlog.get_logger()

Content = bytes | IO[bytes] | Iterable[bytes]
"""A body: bytes, an open file (sent in pieces) or any pieces that come one by one."""

_IDEMPOTENT = {"GET", "HEAD", "OPTIONS", "PUT", "DELETE"}
_RETRIED = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
_CHUNK_BYTES = 65_536
_STATES = {
    pybreaker.STATE_CLOSED: 0,
    pybreaker.STATE_HALF_OPEN: 1,
    pybreaker.STATE_OPEN: 2,
}


class Unreachable(Unavailable):
    """Another service that this needs does not answer."""


class Refused(Failure):
    """Another service refused the request."""

    def __init__(self, service: str, status: int, problem: dict[str, Any]) -> None:
        detail = str(problem.get("detail") or problem.get("title") or "")
        super().__init__(detail, service=service)
        self.status = status
        self.problem = problem
        """The RFC 9457 problem that came with the refusal; empty when none did."""


class _ServerError(Exception):
    """An answer that says that the other side is in trouble."""

    def __init__(self, status: int, retry_after_seconds: float | None) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class _TooLate(Exception):
    """The time for the whole call is used up."""


class _Busy(Exception):
    """The circuit is open, or another call tries whether it may close."""


class Client:
    """HTTP calls to one service, safe to share between threads.

    :param base_url: where the service is; paths are added to it.
    :param name: the service's name, for metrics, spans and messages.
    :param scope: get a token of our own by client credentials with these scopes and
        send it where a call brings none; None sends no token then.
    :param deadline_seconds: for a whole call: token, attempts and the waits between.
    :param retries: further attempts after the first, where repeating is safe.
    :param open_after: failures in a row after which calls fail at once.
    :param open_seconds: until one call may try again.
    :param response_bytes: longest body accepted.
    """

    def __init__(
        self,
        base_url: str,
        settings: ServiceSettings,
        *,
        name: str,
        scope: str | None = None,
        deadline_seconds: float = 5.0,
        retries: int = 2,
        open_after: int = 5,
        open_seconds: float = 5.0,
        response_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self.name = name
        self._deadline_seconds = deadline_seconds
        self._retries = retries
        self._response_bytes = response_bytes
        self._http = httpx2.Client(
            base_url=base_url,
            # The trust store is read only where it is needed: it is 10 MB.
            verify=ssl.create_default_context()
            if base_url.startswith("https:")
            else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            # Proxies are for the world outside, not for our own services.
            trust_env=False,
            follow_redirects=False,
            limits=httpx2.Limits(
                max_connections=settings.threads * 2,
                max_keepalive_connections=settings.threads,
                # Shorter than the servers' keep-alive, so that no request is sent on a
                # connection that the other side is closing.
                keepalive_expiry=4.0,
            ),
            headers={"User-Agent": "flagon", "Accept": "application/json"},
        )
        self._circuit = _Circuit(name, open_after, open_seconds)
        self.own_token = (
            ServiceToken(settings, scope, deadline_seconds)
            if scope is not None
            else None
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()
        if self.own_token is not None:
            self.own_token.close()

    def get(self, path: str, **options: Any) -> httpx2.Response:  # noqa: ANN401
        """Read a resource; options as for `request`."""
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx2.Response:  # noqa: ANN401
        """Create a resource; options as for `request`."""
        return self.request("POST", path, **options)

    def put(self, path: str, **options: Any) -> httpx2.Response:  # noqa: ANN401
        """Replace a resource; options as for `request`."""
        return self.request("PUT", path, **options)

    def patch(self, path: str, **options: Any) -> httpx2.Response:  # noqa: ANN401
        """Change a resource; options as for `request`."""
        return self.request("PATCH", path, **options)

    def delete(self, path: str, **options: Any) -> httpx2.Response:  # noqa: ANN401
        """Delete a resource; options as for `request`."""
        return self.request("DELETE", path, **options)

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: object = None,
        data: Mapping[str, Any] | None = None,
        files: Mapping[str, Any] | None = None,
        content: Content | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
        auth: tuple[str, str] | None = None,
        idempotency_key: str | None = None,
        idempotent: bool | None = None,
        deadline_seconds: float | None = None,
    ) -> httpx2.Response:
        """Return the answer, fully read, if its status is below 400.

        Repeated after a failure only when the method is idempotent or the call has an
        Idempotency-Key, and its body can be sent again.

        :param content: a body; a file or pieces are sent as they are read.
        :param files: parts of a form with files, as httpx takes them.
        :param token: a bearer token to send instead of our own.
        :param auth: user and password to send instead of a token.
        :param idempotent: overrules the method's nature.
        :raises Refused: the answer is a 4xx.
        :raises Unreachable: no answer in time, an open circuit, or a 5xx to the end.
        """
        given = httpx2.Headers(headers)
        if idempotency_key is not None:
            given["Idempotency-Key"] = idempotency_key
        replay = _Replay(content, files)
        if idempotent is None:
            idempotent = method in _IDEMPOTENT or "Idempotency-Key" in given
        call = _Call(
            ends_at=time.monotonic() + (deadline_seconds or self._deadline_seconds),
            attempts=1 + self._retries if idempotent and replay.possible else 1,
        )

        def build(bearer: str | None) -> httpx2.Request:
            request = self._http.build_request(
                method,
                path,
                params=params,
                json=json,
                data=cast("Any", data),
                files=cast("Any", files),
                content=cast("Any", replay.content()),
                headers=given,
                timeout=call.remaining(),
            )
            if bearer is not None:
                request.headers["Authorization"] = f"Bearer {bearer}"
            request.headers["X-Request-ID"] = request_id()
            tracing.inject(request.headers)
            return request

        attributes = {"http.request.method": method, "peer.service": self.name}
        started = time.perf_counter()
        outcome = "unreachable"
        try:
            with tracing.span(
                f"{method} {self.name}", kind="client", attributes=attributes
            ) as span:
                response = self._authorised(build, call, token, auth, replay)
                span.set_attribute("http.response.status_code", response.status_code)
                outcome = f"{response.status_code // 100}xx"
                if response.status_code >= HTTPStatus.BAD_REQUEST:
                    raise Refused(self.name, response.status_code, _problem(response))
                return response
        finally:
            metrics.histogram(
                "flagon_client_request_duration_seconds",
                "Calls to other services, all attempts of one together.",
                "client",
                "outcome",
            ).labels(self.name, outcome).observe(time.perf_counter() - started)

    @contextlib.contextmanager
    def stream(
        self, path: str, *, params: Mapping[str, Any] | None = None
    ) -> Iterator[Iterator[bytes]]:
        """Read a resource of any length, piece by piece; not repeated.

        The time limit is for each wait alone, and no length is too great: who reads
        decides when it is enough.

        :raises Refused: the answer is a 4xx.
        :raises Unreachable: no answer, an open circuit, a 5xx, or an end in the middle.
        """
        call = _Call(ends_at=time.monotonic() + self._deadline_seconds, attempts=1)
        request = self._http.build_request(
            "GET", path, params=params, timeout=self._deadline_seconds
        )
        token = None
        if self.own_token is not None:
            token = self.own_token.get(call)
            request.headers["Authorization"] = f"Bearer {token}"
        request.headers["X-Request-ID"] = request_id()
        tracing.inject(request.headers)
        try:
            response = self._circuit.run(lambda: self._http.send(request, stream=True))
        except (_Busy, httpx2.TransportError) as error:
            raise self._unreachable("cannot be reached") from error
        with contextlib.closing(response):
            status = response.status_code
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise self._unreachable(f"answered {status}")
            if status >= HTTPStatus.BAD_REQUEST:
                if status == HTTPStatus.UNAUTHORIZED and token is not None:
                    # It may have been revoked; the next call gets another.
                    self.own_token.forget(token)  # type: ignore[union-attr]
                raise self._refused(response)
            yield self._pieces(response)

    def _refused(self, response: httpx2.Response) -> Refused:
        body = b"".join(itertools.islice(response.iter_bytes(_CHUNK_BYTES), 1))
        whole = httpx2.Response(
            response.status_code,
            headers={"Content-Type": response.headers.get("Content-Type", "")},
            content=body,
        )
        return Refused(self.name, response.status_code, _problem(whole))

    def _pieces(self, response: httpx2.Response) -> Iterator[bytes]:
        try:
            yield from response.iter_bytes(_CHUNK_BYTES)
        except httpx2.TransportError as error:
            raise self._unreachable("broke off its answer") from error

    def _authorised(
        self,
        build: Callable[[str | None], httpx2.Request],
        call: "_Call",
        token: str | None,
        auth: tuple[str, str] | None,
        replay: "_Replay",
    ) -> httpx2.Response:
        if auth is not None:
            basic = httpx2.BasicAuth(*auth)

            def build_basic(_bearer: str | None) -> httpx2.Request:
                return next(basic.sync_auth_flow(build(None)))

            return self._repeated(build_basic, call, None)
        if token is not None or self.own_token is None:
            return self._repeated(build, call, token)
        own = self.own_token.get(call)
        response = self._repeated(build, call, own)
        if response.status_code == HTTPStatus.UNAUTHORIZED and replay.possible:
            # Refused before anything was done: the token may have been revoked.
            self.own_token.forget(own)
            response = self._repeated(build, call, self.own_token.get(call))
        return response

    def _repeated(
        self,
        build: Callable[[str | None], httpx2.Request],
        call: "_Call",
        bearer: str | None,
    ) -> httpx2.Response:
        for attempt in range(call.attempts):
            least: float | None = None
            try:
                call.remaining()
                return self._circuit.run(lambda: self._once(build(bearer), call))
            except _Busy as error:
                raise Unreachable(
                    f"{self.name} has not answered for a while.", retry_after_seconds=2
                ) from error
            except _TooLate as error:
                raise self._unreachable("took too long") from error
            except _ServerError as error:
                cause: Exception = error
                reason, least = f"answered {error.status}", error.retry_after_seconds
                retry = error.status in _RETRIED
            except httpx2.TimeoutException as error:
                cause, reason, retry = error, "took too long", True
            except httpx2.TransportError as error:
                cause, reason, retry = error, "cannot be reached", True
            wait = backoff_seconds(attempt, least)
            last = attempt + 1 == call.attempts
            if last or not retry or wait >= call.left():
                raise self._unreachable(reason, least) from cause
            log.info("call_repeated", client=self.name, reason=reason, attempt=attempt)
            time.sleep(wait)
        raise AssertionError  # pragma: no cover (the last round returns or raises)

    def _unreachable(self, reason: str, least: float | None = None) -> Unreachable:
        seconds = min(60, max(1, round(least or 2)))
        return Unreachable(f"{self.name} {reason}.", retry_after_seconds=seconds)

    def _once(self, request: httpx2.Request, call: "_Call") -> httpx2.Response:
        response = self._http.send(request, stream=True)
        try:
            body = bytearray()
            for chunk in response.iter_bytes(_CHUNK_BYTES):
                body += chunk
                if len(body) > self._response_bytes:
                    raise httpx2.ReadError(f"more than {self._response_bytes} bytes")
                call.remaining()
        finally:
            response.close()
        status = response.status_code
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or (
            status == HTTPStatus.TOO_MANY_REQUESTS and call.attempts > 1
        ):
            raise _ServerError(status, retry_after_seconds(response.headers))
        kept = [
            (name, value)
            for name, value in response.headers.multi_items()
            # The body is decoded and whole now.
            if name not in {"content-encoding", "content-length", "transfer-encoding"}
        ]
        return httpx2.Response(
            status, headers=kept, content=bytes(body), request=request
        )


@dataclass(frozen=True)
class _Call:
    ends_at: float
    attempts: int

    def left(self) -> float:
        return self.ends_at - time.monotonic()

    def remaining(self) -> float:
        """Return the seconds left.

        :raises _TooLate: there are none.
        """
        left = self.left()
        if left <= 0:
            raise _TooLate
        return left


class _Replay:
    """A request's body, which may or may not be there for a second attempt."""

    def __init__(
        self, content: Content | None, files: Mapping[str, Any] | None
    ) -> None:
        self._content = content
        parts = [content] if files is None else list(files.values())
        # A part of a form is a file, or a tuple whose second member is the file.
        bodies = [part[1] if isinstance(part, tuple) else part for part in parts]
        self.possible = all(_repeatable(body) for body in bodies)
        seekable = self.possible and hasattr(content, "seek")
        self._start = cast("IO[bytes]", content).tell() if seekable else None

    def content(self) -> bytes | Iterable[bytes] | None:
        if self._content is None or isinstance(self._content, bytes):
            return self._content
        if hasattr(self._content, "read"):
            file = cast("IO[bytes]", self._content)
            if self._start is not None:
                file.seek(self._start)
            # A file's own iteration goes by lines, which may be tiny or enormous.
            return iter(lambda: file.read(_CHUNK_BYTES), b"")
        return self._content


def _repeatable(body: object) -> bool:
    if body is None or isinstance(body, bytes | str | list | tuple):
        return True
    return hasattr(body, "seekable") and bool(cast("IO[bytes]", body).seekable())


class _Circuit:
    """A circuit breaker that does not make calls wait for each other.

    pybreaker holds its lock during the guarded call, which would send the requests of
    eight threads one by one. So only the one trial call of a half-open circuit runs
    inside; otherwise a call's result is told afterwards.
    """

    def __init__(self, name: str, open_after: int, open_seconds: float) -> None:
        gauge = metrics.gauge(
            "flagon_circuit_state",
            "Circuit breaker: 0 closed, 1 half-open, 2 open; the worst process counts.",
            "client",
            mode="livemax",
        ).labels(name)
        gauge.set(0)

        class Listener(pybreaker.CircuitBreakerListener):
            def state_change(
                self,
                _cb: pybreaker.CircuitBreaker,
                _old: pybreaker.CircuitBreakerState | None,
                new: pybreaker.CircuitBreakerState,
            ) -> None:
                gauge.set(_STATES[new.name])
                log.warning("circuit", client=name, state=new.name)

        self._breaker = pybreaker.CircuitBreaker(
            fail_max=open_after,
            reset_timeout=open_seconds,
            # An answer, even an unwelcome one, shows that the other side lives.
            exclude=[_is_throttling],
            listeners=[Listener()],
            throw_new_error_on_trip=False,
        )
        self._trial = threading.Lock()

    def run(self, attempt: Callable[[], httpx2.Response]) -> httpx2.Response:
        """Return what `attempt` does.

        :raises _Busy: it was not tried.
        """
        if self._breaker.current_state == pybreaker.STATE_CLOSED:
            try:
                response = attempt()
            # Only looked at: which of them count as failures the breaker decides.
            except Exception as error:
                self._tell(error)
                raise
            self._tell(None)
            return response
        if not self._trial.acquire(blocking=False):
            raise _Busy
        try:
            return self._breaker.call(attempt)
        except pybreaker.CircuitBreakerError as error:
            raise _Busy from error
        finally:
            self._trial.release()

    def _tell(self, error: Exception | None) -> None:
        def repeat() -> None:
            if error is not None:
                raise error

        # Late news from calls that began before the circuit opened change nothing.
        if self._breaker.current_state == pybreaker.STATE_CLOSED:
            # The circuit may open between the question and the news.
            told = (type(error),) if error is not None else ()
            with contextlib.suppress(pybreaker.CircuitBreakerError, *told):
                self._breaker.call(repeat)


def _is_throttling(error: Any) -> bool:  # noqa: ANN401 (the library's type)
    return (
        isinstance(error, _ServerError) and error.status == HTTPStatus.TOO_MANY_REQUESTS
    )


class ServiceToken:
    """A token of our own by client credentials (RFC 6749 section 4.4), kept in memory."""

    # Renewed in the last fifth of its life, so there is time to try again.
    renew_share = 0.2
    pause_seconds = 5.0

    def __init__(
        self, settings: ServiceSettings, scope: str, deadline_seconds: float
    ) -> None:
        if not (settings.token_url and settings.client_id):
            raise ValueError("Service tokens need TOKEN_URL, CLIENT_ID, CLIENT_SECRET.")
        self._client = Client(
            settings.token_url, settings, name="auth", deadline_seconds=deadline_seconds
        )
        self._auth = (settings.client_id, settings.client_secret.get_secret_value())
        self._url = settings.token_url
        self._scope = scope
        self._token: str | None = None
        self._renew_at = 0.0
        self._expires_at = 0.0
        self._busy = threading.Lock()

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def get(self, call: _Call) -> str:
        """Return a token that is valid for now.

        While auth is away the present one serves until it expires. One thread fetches;
        the others go on with the present token or, without one, wait for the fetch.

        :raises Unreachable: there is no token and auth gives none.
        """
        now = time.monotonic()
        if self._token is not None and now < self._renew_at:
            return self._token
        usable = self._token is not None and now < self._expires_at
        if not self._busy.acquire(timeout=-1 if not usable else 0):
            return cast("str", self._token)
        try:
            now = time.monotonic()
            if self._token is not None and now < self._renew_at:
                return self._token
            return self._fetch(call)
        finally:
            self._busy.release()

    def forget(self, token: str) -> None:
        """Let the next call fetch a new token, if this is still the present one."""
        with self._busy:
            if self._token == token:
                self._token = None

    def _fetch(self, call: _Call) -> str:
        now = time.monotonic()
        try:
            answer = self._client.post(
                self._url,
                data={"grant_type": "client_credentials", "scope": self._scope},
                auth=self._auth,
                # Asking twice makes two tokens and harms nobody.
                idempotent=True,
                deadline_seconds=max(call.left(), 0.001),
            ).json()
        except (Unreachable, Refused) as error:
            if self._token is not None and now < self._expires_at:
                log.warning("token_not_renewed", error=str(error))
                self._renew_at = now + self.pause_seconds
                return self._token
            raise Unreachable(
                "auth gives no service token.", retry_after_seconds=2
            ) from error
        lifetime = float(answer.get("expires_in", 60))
        self._token = str(answer["access_token"])
        self._expires_at = now + lifetime - 1
        self._renew_at = min(self._expires_at, now + lifetime * (1 - self.renew_share))
        return self._token


def backoff_seconds(attempt: int, least: float | None) -> float:
    """Return a random wait up to 0.1, 0.2, 0.4 … 2 s, after what the server asks for."""
    jitter = random.uniform(0, min(2.0, 0.1 * 2**attempt))  # noqa: S311 (no secret)
    return (least or 0.0) + jitter


def retry_after_seconds(headers: httpx2.Headers) -> float | None:
    """Return the wait that `Retry-After` asks for: seconds or a date (RFC 9110)."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    if value.isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def _problem(response: httpx2.Response) -> dict[str, Any]:
    kind = response.headers.get("Content-Type", "").partition(";")[0]
    if kind != "application/problem+json":
        return {}
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
