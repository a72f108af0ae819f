"""`/api/v1/clients`: the programs that may ask for tokens, service accounts among them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from apiflask import APIBlueprint
from flask import Response, request
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from flagon_auth.clients import parts
from flagon_auth.domain import audit, clients, grants
from flagon_auth.domain.accounts import API_SCOPES, INSIDE_SCOPES
from flagon_auth.models import Client
from flagon_auth.schemas import (
    ClientChange,
    ClientPage,
    ClientsQuery,
    ClientView,
    NewClient,
    NewClientView,
    NewSecret,
    NewSecretView,
)
from flagon_chassis import auth, conditional, idempotency, paging
from flagon_chassis.db import transaction
from flagon_chassis.errors import Forbidden
from flagon_chassis.web import reply

bp = APIBlueprint("clients", __name__, url_prefix="/api/v1", tag="Clients")
log = structlog.get_logger()


class MoreThanOneHas(Forbidden):
    """A service account cannot be given more than one has oneself."""


class PlatformsOwn(Forbidden):
    """The platform's own clients are changed where it is installed."""


@bp.get("/clients")
@auth.requires("users:read")
@bp.input(ClientsQuery, location="query", arg_name="asked")
@bp.output(ClientPage)
def list_clients(asked: ClientsQuery) -> ResponseReturnValue:
    """Return clients by id, a page at a time."""
    with transaction() as db:
        items, following = paging.page(
            "clients",
            asked,
            lambda after, limit: clients.list_clients(
                db, limit=limit, after=after or ""
            ),
            lambda client: client.id,
        )
        return reply(ClientPage, {"items": items, "next_cursor": following})


@bp.post("/clients")
@auth.requires("users:write")
@bp.input(NewClient, location="json", arg_name="new")
@bp.output(NewClientView, status_code=201)
def create_client(new: NewClient) -> ResponseReturnValue:
    """Register a client; its secret is in this answer and never shown again."""
    now = datetime.now(UTC)
    _check_scope(new.scope, new.grant_types)
    needs_secret = new.token_endpoint_auth_method in clients.SECRET_METHODS
    with transaction() as db:

        def respond() -> Response:
            secret = clients.new_secret() if needs_secret else None
            registration = clients.Registration(
                client_id=clients.new_client_id(),
                client_secret=secret,
                **new.model_dump(),
            )
            clients.put_client(db, registration, now=now)
            client = clients.get_client(db, registration.client_id)
            shown = ClientView.model_validate(client).model_dump()
            response = reply(NewClientView, {**shown, "client_secret": secret}, 201)
            response.headers["Location"] = f"/api/v1/clients/{client.id}"
            response.set_etag(conditional.etag(client.version))
            _record(db, "client_created", client.id, now)
            return response

        return idempotency.once(db, respond, sealer=parts().issuer.sealer)


@bp.get("/clients/<client_id>")
@auth.requires("users:read")
@bp.output(ClientView)
def find_client(client_id: str) -> ResponseReturnValue:
    """Return one client."""
    with transaction() as db:
        client = clients.get_client(db, client_id)
        return conditional.tagged(reply(ClientView, client), client.version)


@bp.patch("/clients/<client_id>")
@auth.requires("users:write")
@bp.input(ClientChange, location="json", arg_name="change")
@bp.output(ClientView)
def change_client(client_id: str, change: ClientChange) -> ResponseReturnValue:
    """Change a client; one that is disabled loses every token at once."""
    now = datetime.now(UTC)
    with transaction() as db:
        client = _of_others(clients.get_client(db, client_id, lock=True))
        conditional.require_match(client.version)
        changes = change.model_dump(exclude_unset=True)
        may_be_null = {"backchannel_logout_uri", "jwks"}
        changes = {
            name: value
            for name, value in changes.items()
            if value is not None or name in may_be_null
        }
        wanted = {"scope": client.scope, "grant_types": client.grant_types} | changes
        _check_scope(wanted["scope"], wanted["grant_types"])
        changed = clients.change_client(client, changes, now=now)
        ended = "disabled" in changed and client.disabled
        spent = []
        if ended:
            spent = grants.revoke_client(db, client_id, "client disabled", now=now)
        db.flush()
        response = reply(ClientView, client)
        response.set_etag(conditional.etag(client.version))
        if changed:
            _record(db, "client_changed", client_id, now, changed=changed)
    if ended:
        parts().denylist.refuse_client(client_id, now=now)
        parts().denylist.refuse_tokens(spent, now=now)
    return response


@bp.delete("/clients/<client_id>")
@auth.requires("users:write")
@bp.output({}, status_code=204)
def delete_client(client_id: str) -> ResponseReturnValue:
    """Forget a client; every token and consent that it was given ends at once."""
    now = datetime.now(UTC)
    with transaction() as db:
        client = _of_others(clients.get_client(db, client_id, lock=True))
        conditional.require_match(client.version)
        spent = grants.revoke_client(db, client_id, "client deleted", now=now)
        clients.delete_client(db, client)
        _record(db, "client_deleted", client_id, now)
    parts().denylist.refuse_client(client_id, now=now)
    parts().denylist.refuse_tokens(spent, now=now)
    return Response(status=204)


@bp.post("/clients/<client_id>/secret")
@auth.requires("users:write")
@bp.input(NewSecret, location="json", arg_name="new")
@bp.output(NewSecretView, status_code=201)
def rotate_client_secret(client_id: str, new: NewSecret) -> ResponseReturnValue:
    """Give a client a new secret; the present one works on for the overlap."""
    now = datetime.now(UTC)
    with transaction() as db:
        _of_others(clients.get_client(db, client_id, lock=True))

        def respond() -> Response:
            secret = clients.rotate_secret(
                db, client_id, overlap_seconds=new.overlap_seconds, now=now
            )
            until = now + timedelta(seconds=new.overlap_seconds)
            _record(db, "client_secret_rotated", client_id, now)
            return reply(
                NewSecretView,
                {
                    "client_secret": secret,
                    "previous_works_until": until if new.overlap_seconds else None,
                },
                201,
            )

        response = idempotency.once(db, respond, sealer=parts().issuer.sealer)
    if not new.overlap_seconds:
        # Whoever had the old secret has tokens that it brought.
        parts().denylist.refuse_client(client_id, now=now)
    return response


def _of_others(client: Client) -> Client:
    """Return the client, unless it is one that the platform itself relies on.

    :raises PlatformsOwn: changing it here would last until the next start, or stop a
        service.
    """
    if client.first_party:
        raise PlatformsOwn("Use `flask clients` or the installation's clients file.")
    return client


def _check_scope(scope: str, grant_types: Sequence[str]) -> None:
    wanted = set(scope.split())
    inside = sorted(wanted & set(INSIDE_SCOPES))
    if inside:
        raise PlatformsOwn(
            "These scopes are for the platform's services.", scopes=inside
        )
    if "client_credentials" not in grant_types:
        return
    # Reading the catalog needs no scope; nobody but services has this one.
    excess = sorted(wanted - auth.caller().scopes - {"catalog:read"})
    excess = [name for name in excess if name in API_SCOPES]
    if excess:
        raise MoreThanOneHas(f"You have no {' '.join(excess)}.", scopes=excess)


def _record(
    db: Session,
    action: str,
    client_id: str,
    now: datetime,
    **details: Any,  # noqa: ANN401 (whatever JSON can say)
) -> None:
    audit.record(
        db,
        action,
        actor=auth.caller().sub,
        address=request.remote_addr,
        now=now,
        client_id=client_id,
        **details,
    )
