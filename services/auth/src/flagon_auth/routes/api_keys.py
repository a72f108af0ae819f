"""API keys: `/api/v1/api-keys`, the page of the account, the exchange for a token."""

import hashlib
import threading
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode
from uuid import UUID

import structlog
from apiflask import APIBlueprint
from flask import Response, flash, redirect, render_template, request
from flask.typing import ResponseReturnValue
from flask_login import current_user
from sqlalchemy.orm import Session

from flagon_auth.clients import parts
from flagon_auth.domain import accounts, api_keys, audit, clients
from flagon_auth.forms import ApiKeyForm
from flagon_auth.i18n import gettext as _
from flagon_auth.models import ApiKey
from flagon_auth.schemas import ApiKeyList, ApiKeyView, NewApiKey, NewApiKeyView
from flagon_chassis import auth, idempotency
from flagon_chassis.db import transaction
from flagon_chassis.errors import Forbidden
from flagon_chassis.web import reply

from .sessions import fresh_sign_in

bp = APIBlueprint("api_keys", __name__, url_prefix="/api/v1", tag="API keys")
pages = APIBlueprint("api_key_pages", __name__, enable_openapi=False)
internal = APIBlueprint("api_key_exchange", __name__, enable_openapi=False)
log = structlog.get_logger()

PAGE = "/account/api-keys"


class NotOurProgram(Forbidden):
    """Only the platform's own programs may manage API keys."""


@bp.get("/api-keys")
@auth.requires()
@bp.output(ApiKeyList)
def list_api_keys() -> ResponseReturnValue:
    """Return the own API keys."""
    with transaction() as db:
        account_id = _owner(db)
        return reply(ApiKeyList, {"items": api_keys.list_keys(db, account_id)})


@bp.post("/api-keys")
@auth.requires()
@bp.input(NewApiKey, location="json", arg_name="new")
@bp.output(NewApiKeyView, status_code=201)
def create_api_key(new: NewApiKey) -> ResponseReturnValue:
    """Make an API key; its text is in this answer and never shown again."""
    now = datetime.now(UTC)
    with transaction() as db:
        account = accounts.find_account(db, _owner(db))

        def respond() -> Response:
            key, text = api_keys.create_key(
                db,
                account,
                name=new.name,
                scope=new.scope,
                life=timedelta(days=new.expires_in_days),
                now=now,
            )
            shown = ApiKeyView.model_validate(key).model_dump()
            response = reply(NewApiKeyView, {**shown, "key": text}, 201)
            response.headers["Location"] = f"/api/v1/api-keys/{key.id}"
            _record(db, "api_key_created", key, now)
            return response

        return idempotency.once(db, respond, sealer=parts().issuer.sealer)


@bp.get("/api-keys/<uuid:key_id>")
@auth.requires()
@bp.output(ApiKeyView)
def find_api_key(key_id: UUID) -> ResponseReturnValue:
    """Return one of the own API keys."""
    with transaction() as db:
        return reply(ApiKeyView, api_keys.find_key(db, _owner(db), key_id))


@bp.delete("/api-keys/<uuid:key_id>")
@auth.requires()
@bp.output({}, status_code=204)
def revoke_api_key(key_id: UUID) -> ResponseReturnValue:
    """Revoke one of the own API keys; its tokens end at once."""
    with transaction() as db:
        account_id = _owner(db)
    _revoke(account_id, key_id)
    return Response(status=204)


def _owner(db: Session) -> UUID:
    """Return the account that the keys belong to.

    A program of somebody else, or an API key itself, must not be able to make keys that
    outlive what the person let it do.

    :raises NotOurProgram: the token was not given to one of the platform's own clients.
    """
    caller = auth.caller()
    client = clients.find_client(db, caller.client_id)
    if client is None or not client.first_party or caller.sub == caller.client_id:
        raise NotOurProgram("Use the pages of your account.")
    return UUID(caller.sub)


@pages.get("/account/api-keys")
@auth.open_route
def show_api_keys() -> ResponseReturnValue:
    """Show the own API keys and a form for one more."""
    if not current_user.is_authenticated:
        return redirect(f"/login?{urlencode({'next': PAGE})}", 303)
    return _page(ApiKeyForm(formdata=None))


@pages.post("/account/api-keys")
@auth.open_route
def make_api_key() -> ResponseReturnValue:
    """Make an API key and show it once."""
    stale = fresh_sign_in(back=PAGE)
    if stale:
        return stale
    form = ApiKeyForm()
    form.scopes.choices = _offered()
    if not form.validate():
        return _page(form, status=422)
    now = datetime.now(UTC)
    try:
        with transaction() as db:
            key, text = api_keys.create_key(
                db,
                accounts.find_account(db, current_user.account.id),
                name=str(form.name.data),
                scope=" ".join(form.scopes.data),
                life=timedelta(days=form.days.data),
                now=now,
            )
            _record(db, "api_key_created", key, now)
    except (api_keys.ApiKeyInvalid, api_keys.TooManyApiKeys) as refused:
        form.form_errors = [f"{refused.title()}. {refused.detail}"]
        return _page(form, status=refused.status)
    # Not a redirect: the key would have to wait somewhere to be shown.
    return _page(ApiKeyForm(formdata=None), made=text, status=201)


@pages.post("/account/api-keys/<uuid:key_id>/revoke")
@auth.open_route
def end_api_key(key_id: UUID) -> ResponseReturnValue:
    """Revoke one of the own API keys."""
    if not current_user.is_authenticated:
        return redirect(f"/login?{urlencode({'next': PAGE})}", 303)
    try:
        _revoke(current_user.account.id, key_id)
    except api_keys.ApiKeyNotFound:
        # Revoked in another window: what the person wants is the case.
        log.info("api_key_revoked_before")
    flash(_("The key works no more."))
    return redirect(PAGE, 303)


def _page(
    form: ApiKeyForm, *, made: str | None = None, status: int = 200
) -> ResponseReturnValue:
    with transaction() as db:
        keys = api_keys.list_keys(db, current_user.account.id)
        page = render_template(
            "api_keys.html",
            form=form,
            keys=keys,
            made=made,
            offered=_offered(),
            now=datetime.now(UTC),
        )
    return page, status


def _offered() -> list[str]:
    """Return the scopes that a key of the person can have, in the usual order."""
    allowed = accounts.scopes_of(current_user.account.roles)
    return [scope for scope in accounts.API_SCOPES if scope in allowed]


def _revoke(account_id: UUID, key_id: UUID) -> None:
    now = datetime.now(UTC)
    with transaction() as db:
        key = api_keys.find_key(db, account_id, key_id)
        spent = api_keys.revoke_key(db, key, now=now)
        _record(db, "api_key_revoked", key, now)
    parts().denylist.refuse_session(api_keys.sid_of(key_id))
    parts().denylist.refuse_tokens(spent, now=now)


def _record(db: Session, action: str, key: ApiKey, now: datetime) -> None:
    audit.record(
        db,
        action,
        account_id=key.account_id,
        # Only the owner gets here, with a token or with a page.
        actor=str(key.account_id),
        address=request.remote_addr,
        now=now,
        prefix=key.prefix,
        scope=key.scope,
    )


class _Recent:
    """Tokens of the last second: a script that asks often costs one exchange a second.

    The key is remembered by its hash. A second is as long as a revoked key or a lost
    role may go unnoticed.
    """

    def __init__(self, seconds: float = 1.0, most: int = 1000) -> None:
        self._seconds = seconds
        self._most = most
        self._lock = threading.Lock()
        self._found: dict[bytes, tuple[float, str]] = {}

    def get(self, text: str) -> str | None:
        with self._lock:
            since, token = self._found.get(self._key(text), (0.0, ""))
        return token if token and time.monotonic() - since < self._seconds else None

    def put(self, text: str, token: str) -> None:
        with self._lock:
            if len(self._found) >= self._most:
                self._found.clear()
            self._found[self._key(text)] = (time.monotonic(), token)

    def _key(self, text: str) -> bytes:
        return hashlib.sha256(text.encode("utf-8", "replace")).digest()


_recent = _Recent()


@internal.get("/internal/api-key")
@auth.open_route
def exchange_api_key() -> ResponseReturnValue:
    """Tell the gateway the access token that the request's API key is worth.

    The gateway serves nothing below `/internal/` to the outside.
    """
    _scheme, _blank, text = request.headers.get("Authorization", "").partition(" ")
    token = _recent.get(text)
    if token is None:
        with transaction() as db:
            token, key = api_keys.exchange(
                db, parts().issuer, text.strip(), now=datetime.now(UTC)
            )
            log.info("api_key_exchanged", prefix=key.prefix, sub=str(key.account_id))
        _recent.put(text, token)
    response = Response(status=204)
    response.headers["X-Access-Token"] = token
    response.headers["Cache-Control"] = "no-store"
    return response
