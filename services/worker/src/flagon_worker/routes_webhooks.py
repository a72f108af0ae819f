"""The webhooks API: endpoints of others, and what was delivered to them."""

import hashlib
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from apiflask import APIBlueprint
from flask import Response, current_app, request, url_for

from flagon_chassis import auth, conditional, idempotency, paging, web
from flagon_chassis.db import transaction
from flagon_chassis.errors import Invalid

from .domain import addresses, webhooks
from .domain.sealing import Sealer
from .models import WebhookDelivery, WebhookEndpoint
from .schedule_schemas import PageQuery
from .settings import Settings
from .webhook_schemas import (
    DeliveryPage,
    DeliveryQuery,
    DeliveryView,
    NewWebhook,
    WebhookChange,
    WebhookPage,
    WebhookView,
    WebhookWithSecret,
)

bp = APIBlueprint("webhooks", __name__, url_prefix="/api/v1/webhooks", tag="Webhooks")
bp.before_request(web.refuse_other_patches)
# Events tell of everybody's jobs and accounts: whoever has them sent out sees all.
MANAGE = "jobs:manage"


class WebhookUrlRefused(Invalid):
    """Nothing is sent to such a URL."""


def _settings() -> Settings:
    return cast("Settings", current_app.extensions["flagon.settings"])


def _sealer() -> Sealer:
    return cast("Sealer", current_app.extensions["flagon.sealer"])


def _check(url: str) -> None:
    try:
        addresses.place(url, loopback=_settings().webhook_loopback)
    except addresses.AddressRefused as refused:
        raise WebhookUrlRefused(
            f"The URL {refused}.",
            errors=[{"pointer": "#/url", "detail": str(refused)}],
        ) from refused


def _view(endpoint: WebhookEndpoint) -> dict[str, Any]:
    at = webhooks.present()
    open_ = endpoint.paused_until is not None and endpoint.paused_until > at
    tired = endpoint.failures >= webhooks.OPEN_AFTER
    until = endpoint.previous_until
    names = (
        "id url event_types description enabled owner failures created_at updated_at"
        " version"
    )
    return {
        **{name: getattr(endpoint, name) for name in names.split()},
        "circuit": "open" if open_ else "half_open" if tired else "closed",
        "paused_until": endpoint.paused_until if open_ else None,
        "previous_secret_until": until if until is not None and until > at else None,
    }


def _delivery(delivery: WebhookDelivery) -> dict[str, Any]:
    names = "id event_id event_type state attempts log created_at ended_at"
    return {
        **{name: getattr(delivery, name) for name in names.split()},
        "due_at": delivery.due_at if delivery.state == "waiting" else None,
    }


def _health(view: dict[str, Any]) -> str:
    """Return what tells two views of one version apart: deliveries change none."""
    names = ("circuit", "failures", "paused_until", "previous_secret_until")
    told = repr([view[name] for name in names])
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def _shown(
    endpoint: WebhookEndpoint, status: int = 200, secret: str | None = None
) -> Response:
    view = _view(endpoint)
    if secret is None:
        response = web.reply(WebhookView, view, status)
    else:
        response = web.reply(WebhookWithSecret, {**view, "secret": secret}, status)
    response.headers["Cache-Control"] = (
        "private, no-cache" if secret is None else "no-store"
    )
    response.set_etag(conditional.etag(endpoint.version, _health(view)))
    return response


def _locked(session: Any, webhook_id: UUID) -> WebhookEndpoint:  # noqa: ANN401 (sqlalchemy is below)
    endpoint = webhooks.find_webhook(session, webhook_id, lock=True)
    conditional.require_match(endpoint.version, extras=[_health(_view(endpoint))])
    return endpoint


@bp.get("")
@auth.requires(MANAGE)
@bp.doc(operation_id="list_webhooks", summary="List webhooks, newest first")
@bp.input(PageQuery, location="query", arg_name="asked")
@bp.output(WebhookPage)
def list_webhooks(asked: PageQuery) -> Response:
    """List all endpoints that get webhooks."""
    with transaction() as session:
        found, cursor = paging.page(
            "webhooks",
            asked,
            lambda before, limit: webhooks.list_webhooks(
                session, before=before and UUID(before), limit=limit
            ),
            lambda endpoint: str(endpoint.id),
        )
    return web.reply_page(WebhookPage, [_view(one) for one in found], cursor)


@bp.post("")
@auth.requires(MANAGE)
@bp.doc(
    operation_id="create_webhook",
    summary="Make a webhook",
    responses={409: "There are as many as there may be"},
)
@bp.input(NewWebhook, arg_name="new")
@bp.output(WebhookWithSecret, 201)
def create_webhook(new: NewWebhook) -> Response:
    """Have events sent to an endpoint, signed; the answer shows the secret, once.

    With an `Idempotency-Key` it can be repeated without a second effect.
    """
    _check(new.url)

    def respond() -> Response:
        endpoint, secret = webhooks.create_webhook(
            session, _sealer(), owner=auth.caller().sub, **new.model_dump()
        )
        response = _shown(endpoint, 201, secret)
        response.headers["Location"] = url_for(
            "webhooks.find_webhook", webhook_id=endpoint.id
        )
        return response

    with transaction() as session:
        return idempotency.once(session, respond, sealer=_sealer())


@bp.get("/<uuid:webhook_id>")
@auth.requires(MANAGE)
@bp.doc(operation_id="find_webhook", summary="Show a webhook", responses=[304, 404])
@bp.output(WebhookView)
def find_webhook(webhook_id: UUID) -> Response:
    """Show an endpoint and how it does."""
    with transaction() as session:
        response = _shown(webhooks.find_webhook(session, webhook_id))
    response.make_conditional(request)
    return response


@bp.patch("/<uuid:webhook_id>")
@auth.requires(MANAGE)
@bp.doc(
    operation_id="change_webhook",
    summary="Change a webhook",
    responses=[404, 412, 415, 428],
)
@bp.input(WebhookChange, arg_name="change")
@bp.output(WebhookView)
def change_webhook(webhook_id: UUID, change: WebhookChange) -> Response:
    """Change some fields by JSON merge patch (RFC 7396).

    With another URL, or enabled again, its circuit is closed.
    """
    changes = change.model_dump(exclude_unset=True)
    if "url" in changes:
        _check(changes["url"])
    with transaction() as session:
        endpoint = _locked(session, webhook_id)
        webhooks.change_webhook(session, endpoint, changes)
        return _shown(endpoint)


@bp.delete("/<uuid:webhook_id>")
@auth.requires(MANAGE)
@bp.doc(
    operation_id="delete_webhook",
    summary="Forget a webhook",
    responses={
        204: "Gone",
        404: "Not Found",
        412: "Precondition Failed",
        428: "Precondition Required",
    },
)
def delete_webhook(webhook_id: UUID) -> Response:
    """Forget an endpoint and all its deliveries."""
    with transaction() as session:
        webhooks.delete_webhook(session, _locked(session, webhook_id))
    return Response(status=204)


@bp.post("/<uuid:webhook_id>/rotate")
@auth.requires(MANAGE)
@bp.doc(operation_id="rotate_webhook", summary="Give a new secret", responses=[404])
@bp.output(WebhookWithSecret)
def rotate_webhook(webhook_id: UUID) -> Response:
    """Give an endpoint a new secret, shown once; for a while the old one signs, too.

    With an `Idempotency-Key` it can be repeated without a second effect.
    """
    overlap = timedelta(hours=_settings().webhook_overlap_hours)

    def respond() -> Response:
        endpoint = webhooks.find_webhook(session, webhook_id, lock=True)
        secret = webhooks.rotate_secret(session, _sealer(), endpoint, overlap=overlap)
        return _shown(endpoint, secret=secret)

    with transaction() as session:
        return idempotency.once(session, respond, sealer=_sealer())


@bp.post("/<uuid:webhook_id>/test")
@auth.requires(MANAGE)
@bp.doc(operation_id="test_webhook", summary="Send a test", responses=[404, 409])
@bp.output(DeliveryView, 202)
def test_webhook(webhook_id: UUID) -> Response:
    """Send an event of the type `market.flagon.webhook.test.v1` to the endpoint.

    Its circuit, if open, tries whether it may close.
    """
    with transaction() as session:
        endpoint = webhooks.find_webhook(session, webhook_id, lock=True)
        delivery = webhooks.send_test(session, endpoint)
    return web.reply(DeliveryView, _delivery(delivery), 202)


@bp.get("/<uuid:webhook_id>/deliveries")
@auth.requires(MANAGE)
@bp.doc(
    operation_id="list_deliveries",
    summary="List deliveries, newest first",
    responses=[404],
)
@bp.input(DeliveryQuery, location="query", arg_name="asked")
@bp.output(DeliveryPage)
def list_deliveries(webhook_id: UUID, asked: DeliveryQuery) -> Response:
    """List what was sent to an endpoint, with each attempt."""
    purpose = f"deliveries {webhook_id} {asked.state}"
    with transaction() as session:
        webhooks.find_webhook(session, webhook_id)
        found, cursor = paging.page(
            purpose,
            asked,
            lambda before, limit: webhooks.list_deliveries(
                session,
                webhook_id,
                state=asked.state,
                before=before and UUID(before),
                limit=limit,
            ),
            lambda delivery: str(delivery.id),
        )
    return web.reply_page(DeliveryPage, [_delivery(one) for one in found], cursor)


@bp.post("/<uuid:webhook_id>/deliveries/<uuid:delivery_id>/resend")
@auth.requires(MANAGE)
@bp.doc(operation_id="resend_delivery", summary="Send again", responses=[404, 409])
@bp.output(DeliveryView, 202)
def resend_delivery(webhook_id: UUID, delivery_id: UUID) -> Response:
    """Send a delivery anew, whatever came of it, under the same `webhook-id`."""
    with transaction() as session:
        endpoint = webhooks.find_webhook(session, webhook_id, lock=True)
        delivery = webhooks.resend(session, endpoint, delivery_id)
    return web.reply(DeliveryView, _delivery(delivery), 202)
