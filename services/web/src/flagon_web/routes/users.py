"""Accounts: who has one, what they may do, where they are signed in."""

from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flagon_chassis.http import Refused, Unreachable
from flagon_web.clients import backends
from flagon_web.domain.terms import capitalized, term
from flagon_web.domain.users import ADMIN, ROLES, Account, AccountPage, is_person
from flagon_web.forms import Roles, SessionChoice
from flagon_web.i18n import LazyText as _
from flagon_web.i18n import gettext

from . import access, office

bp = Blueprint("users", __name__, url_prefix="/back-office/users")
office.degrades(bp, _("Accounts cannot be shown right now."), "users.users")

_PAGE_SIZE = 30
_EVENTS = 10
_STATES = {"false": _("Active"), "true": _("Disabled")}
_CHANGED = _(
    "Somebody changed this account while you were editing it."
    " Yours was not saved. Save again to replace theirs."
)
_LAST = _(
    "This is the last account that may change others."
    " Give the role to another one before."
)


@bp.get("")
@access.needs("users:read")
def users() -> ResponseReturnValue:
    """Show all accounts, or those that fit the filters."""
    cursor = request.args.get("after", "")
    wanted = {
        "email": request.args.get("email", "").strip()[:254],
        "role": request.args.get("role", ""),
        "disabled": request.args.get("disabled", ""),
    }
    for name, known in (("role", ROLES), ("disabled", _STATES)):
        if wanted[name] not in known:
            wanted[name] = ""
    found, why = AccountPage(items=[]), ""
    try:
        found = backends().users.find_page(
            token=access.token(), limit=_PAGE_SIZE, cursor=cursor, **wanted
        )
    except Refused as refused:
        if not office.is_about(refused, "email-invalid"):
            raise
        why = gettext("Write a whole address, such as name@example.com.")
    page = render_template(
        "users.html",
        users=found,
        cursor=cursor,
        wanted=wanted,
        roles=ROLES,
        states=_STATES,
        why=why,
    )
    return page, HTTPStatus.UNPROCESSABLE_ENTITY if why else HTTPStatus.OK


@bp.get("/<uuid:account_id>")
@access.needs("users:read")
def user(account_id: UUID) -> ResponseReturnValue:
    """Show one account: roles, sessions and what happened to it."""
    found = _find(account_id)
    form = Roles(formdata=None, etag=found.etag, roles=found.roles)
    return _page(found, form)


@bp.post("/<uuid:account_id>/roles")
@access.needs("users:write")
def change_roles(account_id: UUID) -> ResponseReturnValue:
    """Give an account these roles and no others, unless it changed meanwhile."""
    found, form = _find(account_id), Roles()
    if not form.validate_on_submit():
        return _page(found, form, office.MARKED, 422)
    gives_up = ADMIN in found.roles and ADMIN not in form.roles.data
    if gives_up and _is_own(found) and not form.give_up.data:
        form.give_up.errors = [
            gettext("These are your own rights: nobody asks you again. Tick this.")
        ]
        return _page(found, form, office.MARKED, 422)
    try:
        _change(found, form.fields(), office.seen_etag())
    except Refused as refused:
        if refused.status == HTTPStatus.PRECONDITION_FAILED:
            return _conflict(_find(account_id), form)
        form.roles.errors = [_refusal(refused)]
        return _page(found, form, office.MARKED, 409)
    except Unreachable:
        return _page(found, form, office.SILENT, 503)
    if gives_up and _is_own(found):
        # The page is closed to them from here on.
        flash(gettext("You are no administrator any more."), "success")
        return redirect(url_for("office.office"), 303)
    flash(gettext("The roles are saved."), "success")
    return _back(account_id)


@bp.post("/<uuid:account_id>/<any(disable, enable):turn>")
@access.needs("users:write")
def switch_user(account_id: UUID, turn: str) -> ResponseReturnValue:
    """Keep somebody out or let them in again."""
    found, off = _find(account_id), turn == "disable"

    def switch() -> None:
        _change(found, {"disabled": off}, office.seen_etag())

    done = _("The account is disabled and signed out.") if off else _("It is active.")
    try:
        office.act(switch, done, judged="last-administrator")
    except Refused as refused:
        form = Roles(formdata=None, etag=found.etag, roles=found.roles)
        return _page(found, form, blocked=_refusal(refused), status=409)
    return _back(account_id)


@bp.post("/<uuid:account_id>/password-reset")
@access.needs("users:write")
def send_password_reset(account_id: UUID) -> ResponseReturnValue:
    """Have the owner mailed a link to choose another password."""
    return _do(
        account_id, backends().users.send_password_reset, _("The mail is on its way.")
    )


@bp.post("/<uuid:account_id>/sessions/end")
@access.needs("users:write")
def end_session(account_id: UUID) -> ResponseReturnValue:
    """Sign somebody out in one browser."""
    form = SessionChoice()
    if not form.validate_on_submit():
        return redirect(url_for("users.user", account_id=account_id), 303)
    end = partial(backends().users.end_sessions, sid=str(form.sid.data))
    return _do(
        account_id, end, _("The session is ended."), gone=_("It had ended already.")
    )


@bp.post("/<uuid:account_id>/sessions/end-all")
@access.needs("users:write")
def end_sessions(account_id: UUID) -> ResponseReturnValue:
    """Sign somebody out everywhere."""
    return _do(
        account_id, backends().users.end_sessions, _("They are signed out everywhere.")
    )


def _do(
    account_id: UUID,
    change: Callable[..., object],
    done: office.Text,
    *,
    gone: office.Text = "",
) -> ResponseReturnValue:
    step = partial(change, str(account_id), token=access.token())
    office.act(step, done, gone=gone)
    return _back(account_id)


def _find(account_id: UUID) -> Account:
    return backends().users.find(str(account_id), token=access.token())


def _change(found: Account, changes: dict[str, object], etag: str) -> None:
    backends().users.change(found.id, changes, etag=etag, token=access.token())


def _back(account_id: UUID) -> ResponseReturnValue:
    return redirect(url_for("users.user", account_id=account_id), 303)


def _is_own(found: Account) -> bool:
    person = access.visitor()
    return person is not None and person.sub == found.id


def _refusal(refused: Refused) -> str:
    """Return why the account cannot be changed like this.

    :raises Refused: it is not about what the person wants.
    """
    if office.is_about(refused, "last-administrator"):
        return str(_LAST)
    raise refused


def _conflict(present: Account, form: Roles) -> ResponseReturnValue:
    theirs = office.renewed(
        form, present, lambda _, roles: ", ".join(roles) or gettext("none")
    )
    return _page(present, form, _CHANGED, 409, theirs)


def _page(
    found: Account,
    form: Roles,
    why: office.Text = "",
    status: int = 200,
    theirs: list[tuple[str, str]] | None = None,
    *,
    blocked: str = "",
) -> ResponseReturnValue:
    api, token, cursor = backends(), access.token(), request.args.get("after", "")
    parts = api.gather(
        {
            "sessions": lambda: api.users.list_sessions(found.id, token=token),
            "events": lambda: api.users.list_events(
                found.id, token=token, limit=_EVENTS, cursor=cursor
            ),
        }
    )
    page = render_template(
        "user.html",
        user=found,
        form=form,
        why=why,
        theirs=theirs or [],
        blocked=blocked,
        cursor=cursor,
        own=_is_own(found),
        is_person=is_person,
        roles=[(role, capitalized(term(role)), what) for role, what in ROLES.items()],
        **parts,
    )
    return page, status
