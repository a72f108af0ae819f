"""Signing in with an outside provider, and connecting one to an account."""

import hashlib
import secrets
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import structlog
from apiflask import APIBlueprint
from flask import flash, g, redirect, render_template, request, session
from flask.typing import ResponseReturnValue
from flask_login import current_user
from werkzeug.exceptions import NotFound

from flagon_auth.clients import parts
from flagon_auth.clients.providers import (
    Provider,
    ProviderUnavailable,
    ProviderUntrusted,
)
from flagon_auth.domain import identities
from flagon_auth.domain.addresses import safe_next
from flagon_auth.domain.identities import Profile, identity_key
from flagon_auth.forms import ActionForm, SocialForm
from flagon_auth.i18n import gettext as _
from flagon_chassis import auth
from flagon_chassis.db import transaction

from .sessions import (
    count_login,
    first_factor_passed,
    fresh_sign_in,
    record,
    record_and_tell,
)

bp = APIBlueprint("social", __name__, enable_openapi=False)
log = structlog.get_logger()

IDENTITIES = "/account/identities"
_CONFIRM = f"{IDENTITIES}/confirm"
_UNDER_WAY = "social"
"""Sign-ins under way, by the digest of their state."""
FOUND = "social_found"
"""An identity that waits until its owner has signed in here to connect it."""
_UNDER_WAY_MAX = 5
_SECONDS = 600


class _Stray(Exception):
    """An answer that belongs to no sign-in of this browser."""


@bp.post("/social/<name>/start")
@auth.open_route
def start_social(name: str) -> ResponseReturnValue:
    """Send the person to the provider, from a form of ours."""
    provider, form = _provider(name), SocialForm()
    connecting = form.purpose.data == "connect"
    onward = IDENTITIES if connecting else safe_next(form.next.data)
    if connecting and (first := fresh_sign_in(back=IDENTITIES)):
        return first
    parts().guesses.spend("social")
    now = datetime.now(UTC).timestamp()
    state = secrets.token_urlsafe(32)
    again = form.purpose.data == "again" and current_user.is_authenticated
    # Somebody who is signed in and comes here is to prove once more who they are.
    fresh = current_user.is_authenticated and not connecting
    try:
        target = provider.authorization_url(
            redirect_uri=_callback_uri(name),
            state=state,
            nonce=parts().social.nonce(state),
            verifier=parts().social.verifier(state),
            fresh=fresh,
        )
    except (ProviderUnavailable, ProviderUntrusted) as failure:
        return _failed(provider, failure, onward)
    waiting = dict(session.get(_UNDER_WAY, {}))
    waiting[_digest(state)] = {
        "provider": name,
        "onward": onward,
        "connect": current_user.id if connecting else None,
        "again": current_user.id if again else None,
        "fresh": fresh,
        "since": now,
    }
    session[_UNDER_WAY] = dict(list(waiting.items())[-_UNDER_WAY_MAX:])
    if not target.startswith(f"{provider.origin}/"):
        # Chromium holds the policy of the page with the form against this redirect, and
        # that page could not know yet where the provider receives people.
        return render_template("social_onward.html", target=target, provider=provider)
    return redirect(target, 303)


@bp.get("/social/<name>/callback")
@auth.open_route
def finish_social(name: str) -> ResponseReturnValue:
    """Take the provider's answer: somebody signed in there, or did not."""
    provider = _provider(name)
    try:
        state, under_way = _claim(name)
    except _Stray:
        count_login("refused")
        log.info("social_answer_unasked", provider=name)
        return _failed_page(
            400,
            _("This sign-in was not started here"),
            _("It was started in another browser, took too long or was used before."),
            onward="",
        )
    onward = under_way["onward"]
    try:
        provider.check_issuer(request.args.get("iss"))
        if "code" not in request.args:
            # What the provider says about the reason is not ours to repeat.
            count_login("refused")
            flash(
                _("Signing in with %(name)s did not work.", name=provider.about.label)
            )
            return redirect(_page_before(under_way), 303)
        profile = provider.identify(
            code=request.args["code"],
            redirect_uri=_callback_uri(name),
            nonce=parts().social.nonce(state),
            verifier=parts().social.verifier(state),
            proved_after=under_way["since"] if under_way["fresh"] else None,
        )
    except (ProviderUnavailable, ProviderUntrusted) as failure:
        return _failed(provider, failure, onward)
    if under_way["connect"]:
        return _connect(provider, profile, UUID(under_way["connect"]))
    if under_way["again"]:
        return _confirm(provider, profile, under_way["again"], onward)
    return _sign_in(provider, profile, onward)


def _claim(name: str) -> tuple[str, dict[str, Any]]:
    """Return the sign-in that this answer belongs to; it can be claimed once.

    :raises _Stray: none was started in this browser, with this provider, just now.
    """
    given = request.args
    if any(len(values) > 1 for _name, values in given.lists()):
        raise _Stray
    state = given.get("state", "")
    waiting = dict(session.get(_UNDER_WAY, {}))
    found = waiting.pop(_digest(state), None)
    if found is None:
        raise _Stray
    session[_UNDER_WAY] = waiting
    too_old = datetime.now(UTC).timestamp() - found["since"] > _SECONDS
    # Mix-up: an answer that comes in at the address of another provider.
    if too_old or found["provider"] != name:
        raise _Stray
    return state, found


def _sign_in(provider: Provider, profile: Profile, onward: str) -> ResponseReturnValue:
    now, label = datetime.now(UTC), provider.about.label
    try:
        with transaction() as db:
            account = identities.sign_in(db, profile, now=now)
            if account is None:
                account = identities.register(db, profile, now=now)
                record(
                    db,
                    "registered",
                    account_id=account.id,
                    now=now,
                    provider=profile.provider,
                )
    except identities.AccountClosed:
        count_login("refused")
        return _failed_page(
            403, _("This account cannot be used"), _("Ask who runs this platform."), ""
        )
    except identities.AddressUnverified:
        # Whether an account has this address is nobody's business who has not proved
        # to own it, so this is the answer either way.
        count_login("refused")
        return _failed_page(
            403,
            _("Your address is not confirmed there"),
            _(
                "%(name)s does not say that your e-mail address is yours. Confirm it "
                "there and come back, or create an account here with a password.",
                name=label,
            ),
            onward,
        )
    except identities.AddressInUse as known:
        return _to_existing_account(provider, profile, known.account_id)
    log.info("social_sign_in", provider=profile.provider)
    return first_factor_passed(account, amr=["fed"], onward=onward)


def _confirm(
    provider: Provider, profile: Profile, account_id: str, onward: str
) -> ResponseReturnValue:
    """Take it for a proof of who is signed in, if the identity opens that account."""
    with transaction() as db:
        found = identities.find_account_of(db, profile)
    if found is None or str(found.id) != account_id or found.disabled:
        count_login("refused")
        return _failed_page(
            403,
            _("This is somebody else"),
            _(
                "This account at %(name)s does not open the account you are signed in to.",
                name=provider.about.label,
            ),
            onward,
        )
    return _sign_in(provider, profile, onward)


def _to_existing_account(
    provider: Provider, profile: Profile, account_id: UUID
) -> ResponseReturnValue:
    """Let the person prove in the usual way that the account is theirs."""
    session[FOUND] = {
        "account": str(account_id),
        "provider": profile.provider,
        "issuer": profile.issuer,
        "subject": profile.subject,
        "email": profile.email,
        "since": datetime.now(UTC).timestamp(),
    }
    flash(
        _(
            "There is an account with this address already. Sign in to it as usual; "
            "then you can connect it with %(name)s.",
            name=provider.about.label,
        )
    )
    query = urlencode({"next": _CONFIRM, "login_hint": profile.email or ""})
    return redirect(f"/login?{query}", 303)


def _connect(
    provider: Provider, profile: Profile, account_id: UUID
) -> ResponseReturnValue:
    """Connect the identity to the account that asked for it, if it still may."""
    here = UUID(current_user.id) if current_user.is_authenticated else None
    if here != account_id:
        return redirect(f"/login?{urlencode({'next': IDENTITIES})}", 303)
    if first := fresh_sign_in(back=IDENTITIES):
        return first
    return _link(provider.about.label, profile, account_id)


def _link(label: str, profile: Profile, account_id: UUID) -> ResponseReturnValue:
    now = datetime.now(UTC)
    try:
        with transaction() as db:
            account = identities.link(db, account_id, profile, now=now)
            record_and_tell(
                db, account, "identity_linked", now=now, provider=profile.provider
            )
    except identities.IdentityTaken:
        flash(
            _("This account at %(name)s belongs to another account here.", name=label)
        )
    except identities.AddressUnverified as unproved:
        flash(unproved.detail)
    else:
        flash(_("You can now sign in with %(name)s.", name=label))
    return redirect(IDENTITIES, 303)


@bp.get(IDENTITIES)
@auth.open_route
def list_identities() -> ResponseReturnValue:
    """Show which outside accounts open this one."""
    if not current_user.is_authenticated:
        return redirect(f"/login?{urlencode({'next': IDENTITIES})}", 303)
    with transaction() as db:
        rows = identities.list_identities(db, UUID(current_user.id))
    return render_template(
        "identities.html",
        identities=[(identity_key(row.issuer, row.subject), row) for row in rows],
        labels={
            name: provider.about.label
            for name, provider in parts().social.providers.items()
        },
    )


@bp.get(_CONFIRM)
@auth.open_route
def confirm_identity() -> ResponseReturnValue:
    """Ask whether the identity that was found before the sign-in shall be connected."""
    if not current_user.is_authenticated:
        return redirect(f"/login?{urlencode({'next': _CONFIRM})}", 303)
    if first := fresh_sign_in(back=_CONFIRM):
        return first
    found = _found()
    if found is None:
        flash(_("There is nothing to connect. Start again below."))
        return redirect(IDENTITIES, 303)
    return render_template(
        "identity_confirm.html",
        provider=_provider(found["provider"]),
        email=found["email"],
        person=current_user.account,
    )


@bp.post(_CONFIRM)
@auth.open_route
def link_identity() -> ResponseReturnValue:
    """Connect it, or forget it, as the person chose."""
    if first := fresh_sign_in(back=_CONFIRM):
        return first
    found, form = _found(), ActionForm()
    session.pop(FOUND, None)
    if found is None or form.choice.data != "allow":
        flash(_("Nothing was connected."))
        return redirect(IDENTITIES, 303)
    profile = Profile(
        provider=found["provider"],
        issuer=found["issuer"],
        subject=found["subject"],
        email=found["email"],
        email_verified=True,
        name=None,
    )
    label = _provider(found["provider"]).about.label
    return _link(label, profile, UUID(current_user.id))


@bp.post(f"{IDENTITIES}/<key>/remove")
@auth.open_route
def unlink_identity(key: str) -> ResponseReturnValue:
    """Disconnect an outside account, unless nothing else opens this one."""
    if first := fresh_sign_in(back=IDENTITIES):
        return first
    account_id, now = UUID(current_user.id), datetime.now(UTC)
    try:
        with transaction() as db:
            account, gone = identities.unlink(
                db, account_id, key, issuers=parts().social.issuers
            )
            record_and_tell(
                db, account, "identity_unlinked", now=now, provider=gone.provider
            )
    except identities.LastWayIn as last:
        flash(_("This is the only way to sign in to your account.") + f" {last.detail}")
    except identities.IdentityNotFound:
        flash(_("It was disconnected before."))
    else:
        flash(_("Disconnected."))
    return redirect(IDENTITIES, 303)


def social_providers() -> list[Provider]:
    """Return the providers for the page at hand, whose forms may then lead to them."""
    found = list(parts().social.providers.values())
    targets = [provider.origin for provider in found]
    g.form_targets = [*g.get("form_targets", ()), *targets]
    return found


def connected_providers(account_id: UUID) -> list[Provider]:
    """Return those with which the account can prove who it is; as `social_providers`."""
    with transaction() as db:
        rows = identities.list_identities(db, account_id)
    issuers = {row.issuer for row in rows}
    return [one for one in social_providers() if one.about.issuer in issuers]


def _provider(name: str) -> Provider:
    try:
        return parts().social.providers[name]
    except KeyError:
        raise NotFound from None


def _found() -> dict[str, Any] | None:
    """Return the identity that waits for this very account, if it is still fresh."""
    found: dict[str, Any] | None = session.get(FOUND)
    if (
        found is None
        or found["account"] != current_user.id
        or found["provider"] not in parts().social.providers
        or datetime.now(UTC).timestamp() - found["since"] > _SECONDS
    ):
        return None
    return found


def _callback_uri(name: str) -> str:
    # From the settings: a forged Host header must not lead codes elsewhere.
    return f"{parts().issuer.url}/social/{name}/callback"


def _digest(state: str) -> str:
    return hashlib.sha256(state.encode(errors="replace")).hexdigest()


def _page_before(under_way: dict[str, Any]) -> str:
    if under_way["connect"]:
        return IDENTITIES
    return f"/login?{urlencode({'next': under_way['onward']})}"


def _failed(
    provider: Provider,
    failure: ProviderUnavailable | ProviderUntrusted,
    onward: str,
) -> ResponseReturnValue:
    label = provider.about.label
    if isinstance(failure, ProviderUnavailable):
        count_login("unavailable")
        log.warning("social_provider_down", provider=provider.about.name)
        body, status = _failed_page(
            503,
            _("%(name)s does not answer", name=label),
            _("Try again in a moment, or sign in another way."),
            onward,
        )
        return body, status, {"Retry-After": str(failure.retry_after_seconds or 5)}
    count_login("refused")
    log.warning(
        "social_answer_untrusted", provider=provider.about.name, reason=failure.detail
    )
    return _failed_page(
        403,
        _("Signing in with %(name)s did not work", name=label),
        _("Its answer could not be trusted, so nobody was signed in. Start again."),
        onward,
    )


def _failed_page(status: int, title: str, detail: str, onward: str) -> tuple[str, int]:
    page = render_template(
        "social_failed.html",
        status=status,
        title=title,
        detail=detail,
        onward=safe_next(onward),
        # The address at hand holds a code, and works once.
        this_page=lambda: "/login",
    )
    return page, status
