"""The other machines the worker talks to."""

import contextlib
import smtplib
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from email.message import EmailMessage
from email.utils import parseaddr
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

from flagon_chassis import http

from .domain import deliveries, imports, leases, mails, watches
from .domain.mapping import Item
from .settings import Settings

_SMTP_PERMANENT = 500
# Refusals that pass: a token that is about to be replaced, an operator who has yet to
# give the right, a twin of this very batch whose worker was thought dead.
_PASSING = {
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_MANY_REQUESTS,
}


class _Peer(ABC):
    """Another service of ours."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _http(self) -> http.Client:
        # Made at the first use, in the process that uses it: connections do not survive
        # a fork.
        return self._connect()

    @abstractmethod
    def _connect(self) -> http.Client: ...

    def close(self) -> None:
        """Close the connections."""
        if "_http" in vars(self):
            self._http.close()


class Catalog(_Peer):
    """The catalog service, as imports and thumbnails need it."""

    def _connect(self) -> http.Client:
        return http.Client(
            self._settings.catalog_url,
            self._settings,
            name="catalog",
            scope="catalog:write catalog:read" if self._settings.token_url else None,
            deadline_seconds=self._settings.catalog_seconds,
            retries=3,
        )

    def upsert(self, items: Sequence[Item], *, key: str) -> list[imports.ItemResult]:
        """Create or change products by SKU; a second call with the key does nothing.

        :raises leases.Trouble: the catalog (or auth, for the token) does not answer.
        :raises imports.BatchRefused: the catalog does not understand the batch.
        """
        with _trouble(imports.BatchRefused):
            answer = self._http.post(
                "/api/v1/products/bulk",
                json={"items": items},
                idempotency_key=key,
            )
        return [_result(found) for found in answer.json()["results"]]

    @contextlib.contextmanager
    def export(
        self, filters: Mapping[str, Any], *, after: str | None
    ) -> Iterator[Iterator[bytes]]:
        """Open an export of products as NDJSON, by id, in pieces of any size.

        :param after: only products whose ids come after this one.
        :raises leases.Trouble: the catalog does not answer, or breaks off.
        :raises leases.JobFailed: it does not understand the filters.
        """
        params = {**filters, "format": "ndjson"}
        if after is not None:
            params["after"] = after
        with (
            _trouble(
                lambda reason: leases.JobFailed(
                    f"The catalog refuses the export: {reason}"
                )
            ),
            self._http.stream("/api/v1/products/export", params=params) as pieces,
        ):
            yield pieces

    def count(
        self, facets: Sequence[str], filters: Mapping[str, str]
    ) -> Mapping[str, Any]:
        """Return how many products have which value; drafts and archived ones count.

        :raises leases.Trouble: the catalog does not answer, or not us.
        """
        asked = {"status": "any", "limit": "1", "fields": "id", **filters}
        params = {**asked, "facets": ",".join(facets)}
        return dict(self._told("GET", "/api/v1/products", params=params)["facets"])

    def index_words(self, step: str, asked: Mapping[str, str]) -> Mapping[str, Any]:
        """Have a step done, `learn` or `forget`; safe to repeat.

        :raises leases.Trouble: the catalog does not answer, or not us.
        """
        path = f"/internal/words/{step}"
        return self._told("POST", path, json=dict(asked), idempotent=True)

    def _told(
        self,
        method: str,
        path: str,
        **options: Any,  # noqa: ANN401 (those of httpx)
    ) -> dict[str, Any]:
        """Return what the catalog answers to a question without mistakes of ours."""
        try:
            return dict(self._http.request(method, path, **options).json())
        except http.Unreachable as error:
            raise leases.Trouble(str(error)) from error
        except http.Refused as refusal:
            said = f"The catalog refused: {refusal.status}"
            raise leases.Trouble(said) from refusal

    def picture(self, sha256: str) -> bytes | None:
        """Return a picture of a product; None when it is gone.

        :raises deliveries.NotYet: the catalog does not answer, or not us.
        """
        answer = self._ask("GET", f"/internal/pictures/{sha256}")
        return None if answer is None else answer.content

    def keep_thumbnail(self, sha256: str, width: int, content: bytes) -> bool:
        """Hand over a thumbnail; say whether it is still wanted.

        :raises deliveries.NotYet: the catalog does not answer, or not us.
        """
        path = f"/internal/pictures/{sha256}/{width}"
        return self._ask("PUT", path, content=content) is not None

    def _ask(self, method: str, path: str, **options: Any) -> Any:  # noqa: ANN401 (the library's answer)
        """Return the answer; None where there is no such thing (any more)."""
        try:
            return self._http.request(method, path, **options)
        except http.Unreachable as error:
            raise deliveries.NotYet(str(error)) from error
        except http.Refused as refusal:
            if refusal.status == HTTPStatus.NOT_FOUND:
                return None
            detail = f"the catalog refused: {refusal.status}"
            raise deliveries.NotYet(detail) from refusal


class Products(_Peer):
    """The catalog as the public sees it: who watches a product waits for the answer."""

    def _connect(self) -> http.Client:
        # No token: what is hidden from the public is not there to be watched.
        return http.Client(
            self._settings.catalog_url,
            self._settings,
            name="products",
            deadline_seconds=2.0,
            retries=1,
        )

    def find(self, product_id: UUID) -> watches.Offer:
        """Return a product.

        :raises watches.ProductUnknown: the public sees none with this id.
        :raises watches.CatalogAway: it does not answer.
        """
        try:
            found = self._http.get(f"/api/v1/products/{product_id}").json()
        except http.Unreachable as error:
            raise watches.CatalogAway(str(error)) from error
        except http.Refused as refusal:
            if refusal.status == HTTPStatus.NOT_FOUND:
                detail = f"There is no product {product_id}."
                raise watches.ProductUnknown(detail) from refusal
            raise watches.CatalogAway(str(refusal.status)) from refusal
        return watches.Offer(
            found["price_minor"], found["currency"], found["status"], found["version"]
        )


class Auth(_Peer):
    """auth, as the delivery of mails and logout notices needs it."""

    def _connect(self) -> http.Client:
        # Calls below `/internal/`, with a token of our own.
        return http.Client(
            self._settings.auth_url,
            self._settings,
            name="auth",
            scope="mails:send logout:deliver" if self._settings.token_url else None,
            deadline_seconds=10.0,
        )

    def ask(
        self,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        method: str = "POST",
    ) -> dict[str, Any] | None:
        """Return what auth says, None where it knows nothing (any more).

        :raises deliveries.NotYet: it does not answer, or not us.
        """
        try:
            # Asking twice does no harm: so auth's endpoints for the worker are made.
            answer = self._http.request(
                method, f"/internal/{path}", json=body, idempotent=True
            )
        except http.Unreachable as error:
            raise deliveries.NotYet(str(error)) from error
        except http.Refused as refusal:
            if refusal.status == HTTPStatus.NOT_FOUND:
                return None
            raise deliveries.NotYet(f"auth refused: {refusal.status}") from refusal
        return dict(answer.json()) if answer.content else {}

    def compose_logout(self, notice_id: UUID) -> tuple[str, str] | None:
        """Return where a logout notice goes and its token; None when it is over."""
        found = self.ask(f"logout-notices/{notice_id}")
        return (found["uri"], found["logout_token"]) if found else None

    def logout_delivered(self, notice_id: UUID) -> None:
        """Say that the client knows."""
        self.ask(f"logout-notices/{notice_id}/delivered")

    def logout_refused(self, notice_id: UUID, status: int) -> None:
        """Say that the client would not hear it."""
        self.ask(f"logout-notices/{notice_id}/refused", {"status": status})

    def compose_mail(self, mail_id: UUID, attempt: str) -> dict[str, Any] | None:
        """Return recipient, subject and both texts of a mail; None when it is over."""
        return self.ask(f"mails/{mail_id}", {"attempt": attempt})

    def order_mail(self, mail_id: UUID, order: Mapping[str, object]) -> bool:
        """Have a mail sent, once for its id; say whether anybody is to get it.

        :raises deliveries.NotYet: auth does not answer, or not us.
        """
        return self.ask(f"mails/{mail_id}", order, method="PUT") is not None

    def mail_ended(self, mail_id: UUID, outcome: mails.Outcome) -> None:
        """Say what became of a mail that was composed."""
        self.ask(f"mails/{mail_id}/{outcome}")


class MailServer:
    """A server that takes mails by SMTP.

    :param url: `smtp://[user:password@]host[:port]`, encrypted by STARTTLS, or `smtps://`;
        with `?tls=off` in the clear, for a server on this machine.
    """

    def __init__(self, url: str, *, seconds: float) -> None:
        self._url = urlsplit(url)
        self._seconds = seconds

    def send(self, message: EmailMessage) -> None:
        """Hand over a mail.

        :raises deliveries.NotYet: the server does not answer, or says: later.
        :raises mails.Undeliverable: it says: never.
        """
        try:
            server = self._connect()
            try:
                server.send_message(message)
            finally:
                # The server has it or not; how it says good-bye changes nothing.
                with contextlib.suppress(smtplib.SMTPException, OSError):
                    server.quit()
                server.close()
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _text in error.recipients.values()]
            raise _refusal(codes[0]) from error
        except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
            raise _refusal(error.smtp_code) from error
        except smtplib.SMTPNotSupportedError as error:
            # The address needs SMTPUTF8 (RFC 6531), or the encryption is not offered.
            raise deliveries.NotYet("the mail server lacks an extension") from error
        except (smtplib.SMTPException, OSError) as error:
            # Login and connection included: those are the operator's to put right, and
            # the mail waits. What the server said may name the recipient: not logged.
            raise deliveries.NotYet(f"mail server: {type(error).__name__}") from error

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        # Reading whom to trust takes tens of milliseconds.
        return ssl.create_default_context()

    def _connect(self) -> smtplib.SMTP:
        host, port = self._url.hostname or "", self._url.port or 0
        server: smtplib.SMTP
        if self._url.scheme == "smtps":
            server = smtplib.SMTP_SSL(
                host, port, timeout=self._seconds, context=self._trust
            )
        else:
            server = smtplib.SMTP(host, port, timeout=self._seconds)
        with contextlib.ExitStack() as unless_ready:
            unless_ready.callback(server.close)
            if self._url.scheme == "smtp" and self._url.query != "tls=off":
                server.starttls(context=self._trust)
            if self._url.username:
                server.login(
                    unquote(self._url.username), unquote(self._url.password or "")
                )
            unless_ready.pop_all()
        return server


def _refusal(code: int) -> Exception:
    if code < _SMTP_PERMANENT:
        return deliveries.NotYet(f"mail server: {code}")
    return mails.Undeliverable(f"mail server: {code}")


class MailFolder:
    """A folder in place of a mail server, for people to look into: `make mail`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def send(self, message: EmailMessage) -> None:
        """Write a mail into the folder.

        :raises deliveries.NotYet: the disk does not take it.
        """
        try:
            mails.keep(self._folder, message)
        except OSError as error:
            raise deliveries.NotYet(f"mail folder: {type(error).__name__}") from error


def post(settings: Settings) -> mails.Post:
    """Return what takes mails: the server, or the folder where there is none."""
    if settings.smtp_url is None:
        return MailFolder(mail_folder(settings))
    return MailServer(
        settings.smtp_url.get_secret_value(), seconds=settings.smtp_seconds
    )


def mail_folder(settings: Settings) -> Path:
    """Return the folder of mails that were not sent."""
    return settings.mail_dir or settings.files_dir / "mail"


def mail_sender(settings: Settings) -> mails.Sender:
    """Return whom mails come from."""
    name, address = parseaddr(settings.mail_from)
    host = urlsplit(settings.public_url).hostname or "localhost"
    return mails.Sender(name, address, host)


class Strangers:
    """Programs of others, at addresses that an administrator registered with auth."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def post_logout(self, uri: str, token: str) -> int:
        """Bring a logout token to a client and return the status of its answer.

        Redirects are not followed and nothing of the answer is kept: the address is
        the registered one, and what is behind it gets nothing out of us.

        :raises deliveries.NotYet: there is no answer in time.
        """
        client = http.Client(
            uri,
            self._settings,
            name="logout",
            deadline_seconds=self._settings.logout_seconds,
            retries=0,
            response_bytes=65_536,
        )
        try:
            return client.post(uri, data={"logout_token": token}).status_code
        except http.Refused as refusal:
            return refusal.status
        except http.Unreachable as error:
            raise deliveries.NotYet(str(error)) from error
        finally:
            client.close()


def _result(found: Mapping[str, Any]) -> imports.ItemResult:
    return imports.ItemResult(found["outcome"], _sentences(found.get("errors") or ()))


def _sentences(errors: Sequence[Mapping[str, Any]]) -> str:
    return " ".join(
        f"{str(error.get('pointer', '')).lstrip('#/')}: {error.get('detail', '')}"
        for error in errors
    )


@contextlib.contextmanager
def _trouble(refused: Callable[[str], Exception]) -> Iterator[None]:
    """Say what of the catalog's answers is trouble that passes.

    :param refused: makes what is raised for the others, from the catalog's reason.
    """
    try:
        yield
    except http.Unreachable as error:
        raise leases.Trouble(str(error)) from error
    except http.Refused as refusal:
        reason = _reason(refusal.problem) or f"status {refusal.status}"
        if refusal.status in _PASSING:
            raise leases.Trouble(f"The catalog refused: {reason}") from refusal
        raise refused(reason) from refusal


def _reason(problem: Mapping[str, Any]) -> str:
    said = [str(problem.get("detail") or problem.get("title") or "")]
    errors = problem.get("errors")
    if isinstance(errors, list):
        said.append(_sentences([found for found in errors if isinstance(found, dict)]))
    return " ".join(filter(None, said))[:500]
