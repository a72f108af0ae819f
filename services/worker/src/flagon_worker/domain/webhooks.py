"""Webhooks: endpoints of others, and what is delivered to them.

A delivery is a row, written in the transaction in which its event is taken from the
stream. Messages only wake a worker: who claims the row sends, and marks it. A worker that
is killed in between leaves a claim that runs out; the receiver then gets a second copy
with the same `webhook-id`.
"""

import base64
import hashlib
import hmac
import json
import random
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import delete, func, or_, select
from sqlalchemy import insert as plain_insert
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from flagon_chassis import events
from flagon_chassis.errors import Conflict, NotFound
from flagon_chassis.tables import outbox
from flagon_worker.models import WebhookDelivery, WebhookEndpoint

from . import audit
from .runs import Begin

TASK = "worker.deliver_webhook"
QUEUE = "maintenance"
TEST_TYPE = "market.flagon.webhook.test.v1"

PAUSES_SECONDS = (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 28_800)
"""Before the second attempt, the third …: sixteen hours in all, then it is dead."""
OPEN_AFTER = 5
"""Failures in a row after which an endpoint gets nothing for a while."""
OPEN_SECONDS = 60.0
OPEN_SECONDS_MAX = 3600.0
ENDPOINTS_MAX = 100
LOG_MAX = 20

_CLAIM_SECONDS = 60.0
_ASK_SECONDS = 60.0
_SWEEP_MAX = 500
_SECRET_PREFIX = "whsec_"  # noqa: S105 (of the published format)
_GONE = 410
_OK = range(200, 300)
_REDIRECT = range(300, 400)


class WebhookNotFound(NotFound):
    """There is no such webhook."""


class DeliveryNotFound(NotFound):
    """The webhook has no such delivery."""


class WebhookDisabled(Conflict):
    """The webhook is disabled."""


class WebhooksTooMany(Conflict):
    """There are as many webhooks as there may be."""


@dataclass(frozen=True)
class Answer:
    """What came of one attempt."""

    status: int | None
    """None: there was no answer."""
    duration_ms: int
    text: str
    """How the answer began."""
    error: str | None
    """Why there was none, for people."""

    @property
    def fine(self) -> bool:
        """Say whether the receiver has it."""
        return self.status in _OK

    def reason(self) -> str | None:
        """Return why it does not count as delivered."""
        if self.fine or self.error is not None:
            return self.error
        if self.status in _REDIRECT:
            return f"It answered {self.status}; redirects are not followed."
        return f"It answered {self.status}."


class Receivers(Protocol):
    """Whom webhooks are for."""

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send a webhook and return what came of it."""


class Sealer(Protocol):
    """Keeps secrets."""

    def seal(self, name: str, content: bytes) -> bytes:
        """Return the content encrypted, bound to a name."""

    def open(self, name: str, sealed: bytes) -> bytes:
        """Return what was sealed under this name."""


def present() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


# -- Endpoints ----------------------------------------------------------------------------


def create_webhook(
    session: Session,
    sealer: Sealer,
    *,
    owner: str,
    **fields: Any,  # noqa: ANN401
) -> tuple[WebhookEndpoint, str]:
    """Add an endpoint and return it with its secret, which nobody sees again.

    :param fields: `url`, `event_types`, `enabled`, `description`, valid.
    :raises WebhooksTooMany: there are as many as there may be.
    """
    if (session.scalar(select(func.count(WebhookEndpoint.id))) or 0) >= ENDPOINTS_MAX:
        raise WebhooksTooMany(f"There may be {ENDPOINTS_MAX}; delete one first.")
    endpoint_id, at = uuid7(), present()
    shown, sealed = _new_secret(sealer, endpoint_id)
    endpoint = WebhookEndpoint(
        id=endpoint_id,
        owner=owner,
        secret=sealed,
        failures=0,
        created_at=at,
        updated_at=at,
        version=1,
        **fields,
    )
    session.add(endpoint)
    session.flush()
    audit.record(session, "created", endpoint)
    return endpoint, shown


def _new_secret(sealer: Sealer, endpoint_id: UUID) -> tuple[str, bytes]:
    key = secrets.token_bytes(32)
    shown = _SECRET_PREFIX + base64.b64encode(key).decode()
    return shown, sealer.seal(f"webhook {endpoint_id}", key)


def find_webhook(
    session: Session, endpoint_id: UUID, *, lock: bool = False
) -> WebhookEndpoint:
    """Return one endpoint.

    :raises WebhookNotFound: there is none.
    """
    statement = select(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id)
    if lock:
        # Not in the way of the deliveries that refer to it.
        statement = statement.with_for_update(key_share=True)
    found = session.scalar(statement)
    if found is None:
        raise WebhookNotFound(f"There is no webhook {endpoint_id}.")
    return found


def list_webhooks(
    session: Session, *, before: UUID | None, limit: int
) -> list[WebhookEndpoint]:
    """Return endpoints, newest first."""
    statement = select(WebhookEndpoint).order_by(WebhookEndpoint.id.desc())
    if before is not None:
        statement = statement.where(WebhookEndpoint.id < before)
    return list(session.scalars(statement.limit(limit)))


def change_webhook(
    session: Session, endpoint: WebhookEndpoint, changes: Mapping[str, Any]
) -> None:
    """Change an endpoint; with another URL, or enabled again, it has a clean sheet.

    :param endpoint: locked by this transaction.
    """
    changed = {
        name: value
        for name, value in changes.items()
        if getattr(endpoint, name) != value
    }
    if not changed:
        return
    before = audit.members(endpoint)
    for name, value in changed.items():
        setattr(endpoint, name, value)
    endpoint.updated_at = present()
    endpoint.version += 1
    if "url" in changed or changed.get("enabled"):
        endpoint.failures, endpoint.paused_until = 0, None
    session.flush()
    audit.record(session, "updated", endpoint, before=before)


def delete_webhook(session: Session, endpoint: WebhookEndpoint) -> None:
    """Forget an endpoint and all its deliveries."""
    audit.record(session, "deleted", endpoint)
    session.delete(endpoint)


def rotate_secret(
    session: Session, sealer: Sealer, endpoint: WebhookEndpoint, *, overlap: timedelta
) -> str:
    """Give an endpoint a new secret and return it; both sign until the overlap is over."""
    shown, sealed = _new_secret(sealer, endpoint.id)
    endpoint.previous_secret, endpoint.secret = endpoint.secret, sealed
    endpoint.updated_at = present()
    endpoint.previous_until = endpoint.updated_at + overlap
    endpoint.version += 1
    session.flush()
    audit.record(session, "updated", endpoint, secret=True)
    return shown


# -- Deliveries ---------------------------------------------------------------------------


def take_events(session: Session, envelopes: Sequence[Mapping[str, Any]]) -> None:
    """Write a delivery for each endpoint that wants an event; safe to repeat."""
    wanting = session.scalars(
        select(WebhookEndpoint).where(WebhookEndpoint.enabled)
    ).all()
    rows = [
        _row(endpoint.id, UUID(envelope["id"]), envelope["type"], envelope)
        for envelope in envelopes
        for endpoint in wanting
        if wants(endpoint.event_types, envelope["type"])
    ]
    _write(session, rows)


def wants(patterns: Iterable[str], type_: str) -> bool:
    """Say whether an event type is one of these: a name, `prefix.*`, or `*`."""
    return any(
        pattern in {"*", type_}
        or (pattern.endswith(".*") and type_.startswith(pattern[:-1]))
        for pattern in patterns
    )


def _row(
    endpoint_id: UUID, event_id: UUID, type_: str, envelope: Mapping[str, Any]
) -> dict[str, Any]:
    at = present()
    # Where it is delivered inside is nobody's business outside.
    told = {name: value for name, value in envelope.items() if name != "topics"}
    return {
        "id": uuid7(),
        "endpoint_id": endpoint_id,
        "event_id": event_id,
        "event_type": type_,
        "body": json.dumps(told, ensure_ascii=False, separators=(",", ":")),
        "state": "waiting",
        "attempts": 0,
        "log": [],
        "due_at": at,
        "ask_at": at + timedelta(seconds=_ASK_SECONDS),
        "created_at": at,
    }


def _write(session: Session, rows: list[dict[str, Any]]) -> list[UUID]:
    if not rows:
        return []
    written = session.scalars(
        insert(WebhookDelivery)
        .values(rows)
        .on_conflict_do_nothing(index_elements=["endpoint_id", "event_id"])
        .returning(WebhookDelivery.id)
    ).all()
    _wake(session, written)
    return list(written)


def _wake(session: Session, ids: Sequence[UUID]) -> None:
    if not ids:
        return
    rows = [
        {
            "id": uuid7(),
            "channel": "task",
            "name": TASK,
            "subject": str(delivery_id),
            "body": {
                "queue": QUEUE,
                "kwargs": {"delivery_id": str(delivery_id)},
                # The row is asked for again: messages need not pile up.
                "expires_seconds": _ASK_SECONDS,
            },
        }
        for delivery_id in ids
    ]
    session.execute(plain_insert(outbox), rows)
    events.wake_relay(session)


def send_test(session: Session, endpoint: WebhookEndpoint) -> WebhookDelivery:
    """Send an event without meaning to an endpoint, also while its circuit is open.

    :raises WebhookDisabled: it gets nothing.
    """
    if not endpoint.enabled:
        raise WebhookDisabled("Enable it first.")
    endpoint.paused_until = None
    event_id = uuid7()
    envelope = {
        "specversion": "1.0",
        "id": str(event_id),
        "source": "/services/worker",
        "type": TEST_TYPE,
        "subject": str(endpoint.id),
        "time": present().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": {"webhook_id": str(endpoint.id)},
    }
    (written,) = _write(session, [_row(endpoint.id, event_id, TEST_TYPE, envelope)])
    audit.record(session, "tested", endpoint, delivery_id=written)
    return session.get_one(WebhookDelivery, written)


def resend(
    session: Session, endpoint: WebhookEndpoint, delivery_id: UUID
) -> WebhookDelivery:
    """Have a delivery sent anew, with all its attempts, under the same `webhook-id`.

    :raises DeliveryNotFound: there is none.
    :raises WebhookDisabled: the endpoint gets nothing.
    """
    delivery = session.scalar(
        select(WebhookDelivery)
        .where(
            WebhookDelivery.id == delivery_id,
            WebhookDelivery.endpoint_id == endpoint.id,
        )
        .with_for_update()
    )
    if delivery is None:
        raise DeliveryNotFound(f"The webhook has no delivery {delivery_id}.")
    if not endpoint.enabled:
        raise WebhookDisabled("Enable it first.")
    at = present()
    endpoint.paused_until = None
    delivery.state, delivery.attempts, delivery.ended_at = "waiting", 0, None
    delivery.due_at, delivery.ask_at = at, at + timedelta(seconds=_ASK_SECONDS)
    _wake(session, [delivery.id])
    session.flush()
    audit.record(session, "resent", endpoint, delivery_id=delivery.id)
    return delivery


def list_deliveries(
    session: Session,
    endpoint_id: UUID,
    *,
    state: str | None,
    before: UUID | None,
    limit: int,
) -> list[WebhookDelivery]:
    """Return deliveries of an endpoint, newest first."""
    statement = select(WebhookDelivery).where(
        WebhookDelivery.endpoint_id == endpoint_id
    )
    if state is not None:
        statement = statement.where(WebhookDelivery.state == state)
    if before is not None:
        statement = statement.where(WebhookDelivery.id < before)
    newest = statement.order_by(WebhookDelivery.id.desc()).limit(limit)
    return list(session.scalars(newest))


@dataclass(frozen=True)
class _Claim:
    token: UUID
    url: str
    headers: dict[str, str]
    body: bytes


def deliver(
    begin: Begin, sealer: Sealer, receivers: Receivers, delivery_id: UUID
) -> str:
    """Send one delivery and mark it; return `delivered`, `postponed`, `dead` or `over`.

    Safe to run any number of times, also at once: the row's claim says who sends.
    """
    with begin() as session:
        claim = _claim(session, sealer, delivery_id)
    if claim is None:
        return "over"
    answer = receivers.post(claim.url, claim.headers, claim.body)
    with begin() as session:
        return _mark(session, delivery_id, claim.token, answer)


def _claim(session: Session, sealer: Sealer, delivery_id: UUID) -> _Claim | None:
    at = present()
    found = session.execute(
        select(WebhookEndpoint, WebhookDelivery)
        .join(WebhookDelivery, WebhookDelivery.endpoint_id == WebhookEndpoint.id)
        .where(
            WebhookDelivery.id == delivery_id,
            WebhookDelivery.state == "waiting",
            WebhookDelivery.due_at <= at,
            or_(
                WebhookDelivery.claimed_until.is_(None),
                WebhookDelivery.claimed_until < at,
            ),
            WebhookEndpoint.enabled,
        )
        .with_for_update(key_share=True)
    ).one_or_none()
    if found is None:
        return None
    endpoint, delivery = found
    if endpoint.paused_until is not None and endpoint.paused_until > at:
        delivery.due_at = delivery.ask_at = _later(endpoint.paused_until)
        return None
    until = at + timedelta(seconds=_CLAIM_SECONDS)
    if endpoint.failures >= OPEN_AFTER:
        # Half open: this one tries whether it may close, the others wait for that.
        endpoint.paused_until = until
    delivery.claim, delivery.claimed_until = uuid7(), until
    delivery.ask_at = _later(until)
    delivery.attempts += 1
    body = delivery.body.encode()
    keys = [sealer.open(f"webhook {endpoint.id}", endpoint.secret)]
    if endpoint.previous_secret and (endpoint.previous_until or at) > at:
        keys.append(sealer.open(f"webhook {endpoint.id}", endpoint.previous_secret))
    headers = {
        "Content-Type": "application/cloudevents+json",
        "User-Agent": "flagon-webhooks",
        **signed(str(delivery.id), at, body, keys),
    }
    return _Claim(delivery.claim, endpoint.url, headers, body)


def signed(
    message_id: str, at: datetime, body: bytes, keys: Sequence[bytes]
) -> dict[str, str]:
    """Return the headers of Standard Webhooks: one signature for each key.

    Source: https://www.standardwebhooks.com
    """
    timestamp = str(int(at.timestamp()))
    content = f"{message_id}.{timestamp}.".encode() + body
    signatures = [
        "v1,"
        + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
        for key in keys
    ]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(signatures),
    }


def _mark(session: Session, delivery_id: UUID, token: UUID, answer: Answer) -> str:
    endpoint_id = select(WebhookDelivery.endpoint_id).where(
        WebhookDelivery.id == delivery_id
    )
    endpoint = session.scalar(
        select(WebhookEndpoint)
        .where(WebhookEndpoint.id == endpoint_id.scalar_subquery())
        # The endpoint's row first, everywhere: nobody waits in a circle.
        .with_for_update(key_share=True)
    )
    delivery = session.scalar(
        select(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id, WebhookDelivery.claim == token)
        .with_for_update()
    )
    if endpoint is None or delivery is None:
        # Deleted meanwhile, or so slow that another one took it.
        return "over"
    at = present()
    delivery.claim = delivery.claimed_until = None
    entry = {
        "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "status": answer.status,
        "duration_ms": answer.duration_ms,
        "answer": answer.text,
        "error": answer.reason(),
    }
    delivery.log = [*delivery.log, entry][-LOG_MAX:]
    if answer.fine:
        endpoint.failures, endpoint.paused_until = 0, None
        delivery.state, delivery.ended_at = "delivered", at
        return "delivered"
    endpoint.failures += 1
    if endpoint.failures >= OPEN_AFTER:
        seconds = OPEN_SECONDS * 2.0 ** min(endpoint.failures - OPEN_AFTER, 10)
        seconds = min(seconds, OPEN_SECONDS_MAX)
        endpoint.paused_until = at + timedelta(seconds=seconds)
    if answer.status == _GONE:
        # The receiver asks for that.
        endpoint.enabled = False
        endpoint.version += 1
    if answer.status == _GONE or delivery.attempts > len(PAUSES_SECONDS):
        delivery.state, delivery.ended_at = "dead", at
        return "dead"
    pause = PAUSES_SECONDS[delivery.attempts - 1] * random.uniform(0.8, 1.2)  # noqa: S311
    delivery.due_at = delivery.ask_at = at + timedelta(seconds=pause)
    return "postponed"


def _later(at: datetime) -> datetime:
    # Not all at the same moment.
    return at + timedelta(seconds=random.uniform(1, 10))  # noqa: S311


def sweep(session: Session) -> int:
    """Send the messages of deliveries whose time has come, or whose message was lost."""
    at = present()
    found = session.scalars(
        select(WebhookDelivery)
        .join(WebhookEndpoint, WebhookEndpoint.id == WebhookDelivery.endpoint_id)
        .where(
            WebhookDelivery.state == "waiting",
            WebhookDelivery.ask_at <= at,
            WebhookEndpoint.enabled,
        )
        .order_by(WebhookDelivery.ask_at)
        .limit(_SWEEP_MAX)
        .with_for_update(of=WebhookDelivery, skip_locked=True)
    ).all()
    for delivery in found:
        delivery.ask_at = at + timedelta(seconds=_ASK_SECONDS)
    _wake(session, [delivery.id for delivery in found])
    return len(found)


def purge_deliveries(session: Session, *, keep: timedelta) -> int:
    """Forget deliveries that ended long ago, or wait for an endpoint that is disabled."""
    before = present() - keep
    gone = session.scalars(
        delete(WebhookDelivery)
        .where(
            WebhookDelivery.created_at < before,
            or_(
                WebhookDelivery.state != "waiting",
                WebhookDelivery.endpoint_id.in_(
                    select(WebhookEndpoint.id).where(~WebhookEndpoint.enabled)
                ),
            ),
        )
        .returning(WebhookDelivery.id)
    )
    return len(gone.all())
