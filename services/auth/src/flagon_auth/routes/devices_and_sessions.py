"""The browsers in which an account is signed in: see them, end them."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from apiflask import APIBlueprint
from flask import flash, redirect, request
from flask.typing import ResponseReturnValue
from flask_login import current_user

from flagon_auth.clients import parts
from flagon_auth.domain import self_service
from flagon_auth.domain.browsers import named
from flagon_auth.forms import ActionForm
from flagon_auth.i18n import gettext as _
from flagon_chassis import auth
from flagon_chassis.db import transaction

from .sessions import end, login_session
from .showing import form_page, only_signed_in

bp = APIBlueprint("devices_and_sessions", __name__, enable_openapi=False)

PAGE = "/account/sessions"


@bp.get(PAGE)
@auth.open_route
def list_sessions() -> ResponseReturnValue:
    """Show where the account is signed in."""
    return only_signed_in() or form_page(
        "sessions.html",
        ActionForm(formdata=None),
        "",
        sessions=shown_sessions(current_user.account.id),
    )


@bp.post(f"{PAGE}/end")
@auth.open_route
def end_session() -> ResponseReturnValue:
    """End one session of one's own, at once and with all that was given in it."""
    elsewhere = only_signed_in(PAGE)
    if elsewhere is not None:
        return elsewhere
    person, sid = current_user.account, request.form.get("choice", "")
    # Somebody else's session is none that can be ended here.
    if sid in parts().sessions.sids(person.id):
        here = login_session()
        end(sid, "ended by the person", account_id=person.id)
        if sid == here.sid:
            here.end()
            return redirect("/login", 303)
    flash(_("The session was ended."))
    return redirect(PAGE, 303)


@bp.post(f"{PAGE}/end-others")
@auth.open_route
def end_other_sessions() -> ResponseReturnValue:
    """End all sessions but this one."""
    elsewhere = only_signed_in(PAGE)
    if elsewhere is not None:
        return elsewhere
    end_others(current_user.account.id, "ended by the person", now=datetime.now(UTC))
    flash(_("All other sessions were ended."))
    return redirect(PAGE, 303)


def end_others(account_id: UUID, reason: str, *, now: datetime) -> None:
    """End every session of the account but this one, and grants of past ones."""
    with transaction() as db:
        sids = self_service.sessions_with_grants(db, account_id)
    sids.update(parts().sessions.sids(account_id))
    for sid in sorted(sids - {login_session().sid or ""}):
        end(sid, reason, account_id=account_id, now=now)


def shown_sessions(account_id: UUID) -> list[dict[str, Any]]:
    """Return the account's sessions as people see them, this one first."""
    here = login_session().sid
    found = [
        {
            "id": one.sid,
            "browser": named(one.agent),
            "agent": one.agent,
            "address": one.address,
            "created_at": datetime.fromtimestamp(one.created_at, UTC),
            "seen_at": datetime.fromtimestamp(one.seen_at, UTC),
            "methods": one.amr,
            "this_one": one.sid == here,
        }
        for one in parts().sessions.list_active(account_id)
    ]
    return sorted(found, key=lambda one: not one["this_one"])
