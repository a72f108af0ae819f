"""The own account: overview, profile, what happened, taking it along, deleting it."""

import json
from datetime import UTC, datetime

import structlog
from apiflask import APIBlueprint
from flask import Response, flash, redirect, render_template, request
from flask.typing import ResponseReturnValue
from flask_login import current_user

from flagon_auth.clients import TooManyAttempts, parts
from flagon_auth.domain import accounts, audit, self_service
from flagon_auth.domain.actions import spoken_action
from flagon_auth.forms import ActionForm, DeleteForm, ProfileForm
from flagon_auth.i18n import gettext as _
from flagon_auth.i18n import language
from flagon_chassis import auth
from flagon_chassis.db import transaction
from flagon_chassis.languages import remember

from .devices_and_sessions import shown_sessions
from .sessions import fresh_sign_in, login_session, record
from .showing import form_page, only_signed_in, too_many

bp = APIBlueprint("account", __name__, enable_openapi=False)
log = structlog.get_logger()

_RECORDS = 50


@bp.get("/account")
@auth.open_route
def account() -> ResponseReturnValue:
    """Show the own account."""
    return only_signed_in() or form_page(
        "account.html", ActionForm(formdata=None), "", person=current_user.account
    )


@bp.get("/account/profile")
@auth.open_route
def profile_page() -> ResponseReturnValue:
    """Show name and language."""
    elsewhere = only_signed_in()
    if elsewhere is not None:
        return elsewhere
    person = current_user.account
    known = {"name": person.name, "locale": person.locale or language()}
    return form_page("profile.html", ProfileForm(formdata=None, data=known), "")


@bp.post("/account/profile")
@auth.open_route
def change_profile() -> ResponseReturnValue:
    """Change name and language."""
    elsewhere = only_signed_in()
    if elsewhere is not None:
        return elsewhere
    form, now = ProfileForm(), datetime.now(UTC)
    if not form.validate():
        return form_page("profile.html", form, "", status=422)
    try:
        with transaction() as db:
            found = accounts.find_account(db, current_user.account.id, lock=True)
            changed = self_service.change_profile(
                found, name=str(form.name.data), locale=str(form.locale.data), now=now
            )
            if changed:
                # What it was and is now is nobody's business but the person's.
                record(
                    db,
                    "profile_changed",
                    account_id=found.id,
                    now=now,
                    changed=changed,
                )
    except accounts.NameInvalid as invalid:
        form.name.errors = [invalid.detail]
        return form_page("profile.html", form, "", status=422)
    answer = redirect("/account/profile", 303)
    remember(answer, str(form.locale.data))
    flash(_("Your profile was saved."))
    return answer


@bp.get("/account/activity")
@auth.open_route
def activity() -> ResponseReturnValue:
    """Show what happened to the account, newest first."""
    elsewhere = only_signed_in()
    if elsewhere is not None:
        return elsewhere
    before = request.args.get("before", type=int)
    with transaction() as db:
        found = audit.list_records(
            db, current_user.account.id, limit=_RECORDS + 1, before=before
        )
    records = [
        {
            "at": one.occurred_at,
            "what": spoken_action(one.action),
            "address": one.address,
        }
        for one in found[:_RECORDS]
    ]
    older = found[_RECORDS - 1].sequence if len(found) > _RECORDS else None
    return render_template("activity.html", records=records, older=older)


@bp.get("/account/data")
@auth.open_route
def data_page() -> ResponseReturnValue:
    """Offer to take everything along and to delete the account."""
    return only_signed_in() or form_page("data.html", ActionForm(formdata=None), "")


@bp.post("/account/export")
@auth.open_route
def export() -> ResponseReturnValue:
    """Hand out everything that is known about the person, as one JSON file."""
    elsewhere = fresh_sign_in(back="/account/data")
    if elsewhere is not None:
        return elsewhere
    person, now = current_user.account, datetime.now(UTC)
    try:
        parts().guesses.spend("export", account=person.email)
    except TooManyAttempts as slow:
        form = ActionForm(formdata=None)
        form.form_errors = [too_many(slow)]
        return form_page("data.html", form, "", status=429)
    sessions = shown_sessions(person.id)
    with transaction() as db:
        found = accounts.find_account(db, person.id)
        content = self_service.export_account(db, found, sessions=sessions)
        record(db, "account_exported", account_id=person.id, now=now)
    return Response(
        json.dumps(content, default=_as_json, indent=2, ensure_ascii=False) + "\n",
        mimetype="application/json",
        headers={
            "Content-Disposition": 'attachment; filename="flagon-account.json"',
            "Cache-Control": "no-store",
        },
    )


def _as_json(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


@bp.get("/account/delete")
@auth.open_route
def delete_page() -> ResponseReturnValue:
    """Say what deleting means and ask for the address as a confirmation."""
    return fresh_sign_in() or form_page(
        "delete.html", DeleteForm(formdata=None), "", person=current_user.account
    )


@bp.post("/account/delete")
@auth.open_route
def delete() -> ResponseReturnValue:
    """Delete the account, with everything that is signed in to it."""
    elsewhere = fresh_sign_in(back="/account/delete")
    if elsewhere is not None:
        return elsewhere
    person, form, now = current_user.account, DeleteForm(), datetime.now(UTC)
    if not form.validate():
        return form_page("delete.html", form, "", status=422, person=person)
    if not _same_address(str(form.email.data), person.email_key):
        form.email.errors = [_("This is not the address of this account.")]
        return form_page("delete.html", form, "", status=422, person=person)
    # Asked first: without the store nothing could be ended at once, and nothing is done.
    sids = parts().sessions.sids(person.id)
    try:
        with transaction() as db:
            spent = self_service.delete_account(db, person.id, sids=sids, now=now)
            # Without the network address: the record stays when the person has gone.
            audit.record(
                db,
                "account_deleted",
                account_id=person.id,
                actor=str(person.id),
                now=now,
            )
    except accounts.LastAdministrator:
        form.form_errors = [
            _("Nobody else may change accounts. Give the role to another one before.")
        ]
        return form_page("delete.html", form, "", status=409, person=person)
    parts().end_account(person.id, spent, now=now)
    login_session().end()
    log.info("account_deleted", sub=str(person.id))
    return redirect("/account/deleted", 303)


def _same_address(typed: str, key: str) -> bool:
    try:
        return accounts.email_key(typed) == key
    except accounts.EmailInvalid:
        return False


@bp.get("/account/deleted")
@auth.open_route
def deleted_page() -> ResponseReturnValue:
    """Say good-bye."""
    return render_template("deleted.html")
