"""`/api/v1/me` and `/api/v1/users`: accounts for programs."""

from datetime import UTC, datetime
from uuid import UUID

import structlog
from apiflask import APIBlueprint
from flask import Response, request
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from flagon_auth.clients import parts
from flagon_auth.domain import accounts, audit, grants, mails, self_service
from flagon_auth.models import Account
from flagon_auth.schemas import (
    AccountChange,
    AccountPage,
    AccountsQuery,
    AccountView,
    AuditPage,
    AuditQuery,
    NewAccount,
    SessionList,
)
from flagon_chassis import auth, conditional, idempotency, paging
from flagon_chassis.db import transaction
from flagon_chassis.errors import Forbidden, NotFound
from flagon_chassis.web import reply

bp = APIBlueprint("users", __name__, url_prefix="/api/v1", tag="Accounts")
log = structlog.get_logger()


class SessionNotFound(NotFound):
    """There is no such session."""


class NoPerson(Forbidden):
    """A service has no account of its own."""


@bp.get("/me")
@auth.requires()
@bp.output(AccountView)
def find_me() -> ResponseReturnValue:
    """Return the account that the token speaks for."""
    caller = auth.caller()
    if caller.sub == caller.client_id:
        raise NoPerson("Ask with a person's token.")
    with transaction() as db:
        account = accounts.find_account(db, UUID(caller.sub))
        return conditional.tagged(reply(AccountView, account), account.version)


@bp.get("/users")
@auth.requires("users:read")
@bp.input(AccountsQuery, location="query", arg_name="asked")
@bp.output(AccountPage)
def list_users(asked: AccountsQuery) -> ResponseReturnValue:
    """Return accounts, oldest first, a page at a time."""
    after = None
    purpose = f"users {asked.email} {asked.role} {asked.disabled}"
    if asked.cursor is not None:
        created_at, account_id = paging.decode(purpose, asked.cursor)
        after = (datetime.fromisoformat(created_at), UUID(account_id))
    with transaction() as db:
        found = accounts.list_accounts(
            db,
            limit=asked.limit + 1,
            after=after,
            email=asked.email,
            role=asked.role,
            disabled=asked.disabled,
        )
        items = found[: asked.limit]
        following = None
        if len(found) > asked.limit:
            last = items[-1]
            position = [last.created_at.isoformat(), str(last.id)]
            following = paging.encode(purpose, position)
        return reply(AccountPage, {"items": items, "next_cursor": following})


@bp.post("/users")
@auth.requires("users:write")
@bp.input(NewAccount, location="json", arg_name="new")
@bp.output(AccountView, status_code=201)
def create_user(new: NewAccount) -> ResponseReturnValue:
    """Make an account; a mail lets its owner choose a password."""
    now = datetime.now(UTC)
    with transaction() as db:

        def respond() -> Response:
            account = accounts.add_account(
                db,
                email=new.email,
                name=accounts.clean_name(new.name),
                password_hash=None,
                roles=new.roles,
                now=now,
            )
            mails.send(db, account, "reset_password", now=now)
            response = reply(AccountView, account, 201)
            response.headers["Location"] = f"/api/v1/users/{account.id}"
            response.set_etag(conditional.etag(account.version))
            _record(db, "registered", account.id, now, roles=account.roles)
            return response

        return idempotency.once(db, respond)


@bp.get("/users/<uuid:account_id>")
@auth.requires("users:read")
@bp.output(AccountView)
def find_user(account_id: UUID) -> ResponseReturnValue:
    """Return one account."""
    with transaction() as db:
        account = accounts.find_account(db, account_id)
        return conditional.tagged(reply(AccountView, account), account.version)


@bp.get("/users/<uuid:account_id>/events")
@auth.requires("users:read")
@bp.input(AuditQuery, location="query", arg_name="asked")
@bp.output(AuditPage)
def list_user_events(account_id: UUID, asked: AuditQuery) -> ResponseReturnValue:
    """Return what happened to one account, newest first; also to a deleted one."""
    return _audit_page(asked, f"audit:{account_id}", account_id)


@bp.get("/users/events")
@auth.requires("users:read")
@bp.input(AuditQuery, location="query", arg_name="asked")
@bp.output(AuditPage)
def list_events(asked: AuditQuery) -> ResponseReturnValue:
    """Return the audit log, newest first."""
    return _audit_page(asked, "audit", None)


def _audit_page(
    asked: AuditQuery, purpose: str, account_id: UUID | None
) -> ResponseReturnValue:
    with transaction() as db:
        items, following = paging.page(
            purpose,
            asked,
            lambda before, limit: audit.list_records(
                db, account_id, limit=limit, before=before
            ),
            lambda record: record.sequence,
        )
        return reply(AuditPage, {"items": items, "next_cursor": following})


@bp.patch("/users/<uuid:account_id>")
@auth.requires("users:write")
@bp.input(AccountChange, location="json", arg_name="change")
@bp.output(AccountView)
def change_user(account_id: UUID, change: AccountChange) -> ResponseReturnValue:
    """Change name, roles or whether the account is disabled.

    New roles count from the next token on, and the present tokens end at once; a
    disabled account is signed out everywhere. The last administrator stays one.
    """
    now = datetime.now(UTC)
    with transaction() as db:
        account = accounts.find_account(db, account_id, lock=True)
        conditional.require_match(account.version)
        roles = account.roles if change.roles is None else change.roles
        if change.disabled or accounts.ADMIN not in roles:
            accounts.keep_administrator(db, account)
        changed = accounts.change_account(
            account, change.model_dump(exclude_none=True), now=now
        )
        spent = grants.cut_off(db, account, changed, now=now)
        response = reply(AccountView, account)
        response.set_etag(conditional.etag(account.version))
        disabled = account.disabled
        if changed:
            _record(
                db,
                "account_changed",
                account_id,
                now,
                changed=changed,
                **_shown(account),
            )
    if "disabled" in changed and disabled:
        parts().end_account(account_id, spent, now=now)
    elif "roles" in changed:
        parts().denylist.refuse_account(account_id, now=now)
        parts().denylist.refuse_tokens(spent, now=now)
    log.info("account_changed", account=str(account_id), changed=changed)
    return response


@bp.delete("/users/<uuid:account_id>")
@auth.requires("users:write")
@bp.output({}, status_code=204)
def delete_user(account_id: UUID) -> ResponseReturnValue:
    """Delete an account with everything that hangs on it, and sign it out everywhere."""
    now = datetime.now(UTC)
    # Asked first: without the store nothing could be ended at once, and nothing is done.
    sids = parts().sessions.sids(account_id)
    with transaction() as db:
        account = accounts.find_account(db, account_id, lock=True)
        conditional.require_match(account.version)
        spent = self_service.delete_account(db, account_id, sids=sids, now=now)
        _record(db, "account_deleted", account_id, now)
    parts().end_account(account_id, spent, now=now)
    log.info("account_deleted", account=str(account_id))
    return Response(status=204)


@bp.post("/users/<uuid:account_id>/password-reset")
@auth.requires("users:write")
@bp.output({}, status_code=202)
def send_password_reset(account_id: UUID) -> ResponseReturnValue:
    """Have a link mailed with which the owner can choose a new password."""
    now = datetime.now(UTC)
    with transaction() as db:
        account = accounts.find_account(db, account_id)
        mails.send(db, account, "reset_password", now=now)
        _record(db, "password_reset_requested", account_id, now)
    return {}, 202


@bp.get("/users/<uuid:account_id>/sessions")
@auth.requires("users:read")
@bp.output(SessionList)
def list_user_sessions(account_id: UUID) -> ResponseReturnValue:
    """Return the browsers in which an account is signed in."""
    with transaction() as db:
        accounts.find_account(db, account_id)
    return reply(SessionList, {"items": parts().sessions.list_active(account_id)})


@bp.delete("/users/<uuid:account_id>/sessions")
@auth.requires("users:write")
@bp.output({}, status_code=204)
def end_user_sessions(account_id: UUID) -> ResponseReturnValue:
    """Sign an account out everywhere; its API keys go on working."""
    now = datetime.now(UTC)
    sids = parts().sessions.sids(account_id)
    with transaction() as db:
        accounts.find_account(db, account_id)
        spent = grants.revoke_account(
            db, account_id, "ended by an administrator", sids=sids, now=now
        )
        _record(db, "sessions_ended", account_id, now)
    parts().end_account(account_id, spent, now=now)
    return Response(status=204)


@bp.delete("/users/<uuid:account_id>/sessions/<sid>")
@auth.requires("users:write")
@bp.output({}, status_code=204)
def end_user_session(account_id: UUID, sid: str) -> ResponseReturnValue:
    """End one session with everything that was granted in it."""
    now = datetime.now(UTC)
    if sid not in parts().sessions.sids(account_id):
        raise SessionNotFound("The account has no such session.")
    with transaction() as db:
        spent = grants.revoke_session(
            db, sid, "ended by an administrator", account_id=account_id, now=now
        )
        _record(db, "session_ended", account_id, now, sid=sid)
    parts().end_session(sid, spent, now=now)
    return Response(status=204)


def _shown(account: Account) -> dict[str, object]:
    # No name: the log outlives the account and must not keep who it was.
    return {"roles": account.roles, "disabled": account.disabled}


def _record(
    db: Session, action: str, account_id: UUID, now: datetime, **details: object
) -> None:
    audit.record(
        db,
        action,
        account_id=account_id,
        actor=auth.caller().sub,
        address=request.remote_addr,
        now=now,
        **details,
    )
