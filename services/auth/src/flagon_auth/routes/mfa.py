"""The second step of signing in, and proving once more who one is."""

from datetime import UTC, datetime
from urllib.parse import urlencode

import structlog
from apiflask import APIBlueprint
from flask import flash, g, redirect, render_template, request
from flask.typing import ResponseReturnValue
from flask_login import current_user

from flagon_auth.clients import TooManyAttempts, parts
from flagon_auth.domain import accounts, factors, passkeys, recovery, totp
from flagon_auth.domain.addresses import safe_next
from flagon_auth.domain.factors import Factors, SecondStepRefused
from flagon_auth.domain.passkeys import PasskeyCloned, PasskeyRefused
from flagon_auth.forms import ProofForm
from flagon_auth.i18n import gettext as _
from flagon_auth.models import Account
from flagon_chassis import auth
from flagon_chassis.db import transaction

from .challenges import new_challenge, party, take_challenge
from .sessions import (
    CONFIRM,
    SECOND_STEP,
    add_factor,
    begin,
    count_login,
    login_session,
    record,
    record_and_tell,
)
from .showing import allow_onward, too_many

bp = APIBlueprint("mfa", __name__, enable_openapi=False)
log = structlog.get_logger()


@bp.get(SECOND_STEP)
@auth.open_route
def second_step_page() -> ResponseReturnValue:
    """Ask for the second factor, or go on if there is nothing to ask for."""
    account, onward = _who_is_to_prove()
    if account is None:
        return redirect(f"/login?{urlencode({'next': onward})}", 303)
    if not _second_step_missing(account):
        return _nothing_to_prove(onward)
    form = ProofForm(formdata=None, data={"next": onward})
    return _proof_page("mfa.html", form, account, onward, "second_step")


@bp.post(SECOND_STEP)
@auth.open_route
def pass_second_step() -> ResponseReturnValue:
    """Let in who has proved the second factor as well."""
    form = ProofForm()
    account, onward = _who_is_to_prove()
    if account is None:
        flash(_("That took too long. Please sign in again."))
        return redirect(f"/login?{urlencode({'next': onward})}", 303)
    if not _second_step_missing(account):
        return _nothing_to_prove(onward)
    try:
        amr = prove(account, form, purpose="second_step")
    except TooManyAttempts as slow:
        count_login("throttled")
        form.form_errors = [too_many(slow)]
        return _proof_page("mfa.html", form, account, onward, "second_step"), 429
    except (SecondStepRefused, PasskeyRefused):
        count_login("refused")
        form.form_errors = [_not_right()]
        return _proof_page("mfa.html", form, account, onward, "second_step"), 422
    here = login_session()
    pending = here.pending(datetime.now(UTC).timestamp())
    if pending is None:
        add_factor(account, amr=amr)
    else:
        begin(account, amr=list(dict.fromkeys([*pending.amr, *amr])))
    if "few_codes" in g:
        # Not before: signing in forgets what was said to whoever was there before.
        flash(
            _(
                "Recovery codes that are left: %(count)s. Make new ones soon.",
                count=g.few_codes,
            )
        )
    return redirect(onward, 303)


@bp.get(CONFIRM)
@auth.open_route
def confirm_page() -> ResponseReturnValue:
    """Ask who is signed in to prove it once more."""
    onward = safe_next(request.args.get("next"))
    if not current_user.is_authenticated:
        return redirect(f"/login?{urlencode({'next': onward})}", 303)
    form = ProofForm(formdata=None, data={"next": onward})
    return _confirmation(form, onward)


@bp.post(CONFIRM)
@auth.open_route
def confirm() -> ResponseReturnValue:
    """Remember that the person has just proved once more who they are."""
    form = ProofForm()
    onward = safe_next(form.next.data)
    if not current_user.is_authenticated:
        return redirect(f"/login?{urlencode({'next': onward})}", 303)
    account = current_user.account
    try:
        amr = prove(account, form, purpose="confirm")
    except TooManyAttempts as slow:
        form.form_errors = [too_many(slow)]
        return _confirmation(form, onward, status=429)
    except (SecondStepRefused, PasskeyRefused, accounts.SignInRefused):
        form.form_errors = [_not_right()]
        return _confirmation(form, onward, status=422)
    now = datetime.now(UTC)
    login_session().confirm(now.timestamp())
    with transaction() as db:
        record(db, "confirmed", account_id=account.id, now=now, amr=amr)
    return redirect(onward, 303)


def prove(account: Account, form: ProofForm, *, purpose: str) -> list[str]:
    """Check what the form holds and return how it proves who they are (RFC 8176).

    :param purpose: what a passkey's challenge was made for; `confirm` also takes the
        password, and no recovery code.
    :raises TooManyAttempts: it must not be tried now.
    :raises SecondStepRefused: the code is wrong or was used.
    :raises PasskeyRefused: the passkey does not prove it.
    :raises SignInRefused: the password is wrong.
    """
    try:
        return _prove(account, form, purpose)
    except (SecondStepRefused, PasskeyRefused, accounts.SignInRefused) as refused:
        _remember_refusal(account, purpose, refused)
        raise


def _prove(account: Account, form: ProofForm, purpose: str) -> list[str]:
    if not form.validate():
        raise SecondStepRefused("It is too long.")
    if form.credential.data:
        return _prove_by_passkey(account, form.credential.data, purpose)
    if purpose == "confirm" and form.password.data:
        return _prove_by_password(account, form.password.data)
    if purpose != "confirm" and form.recovery_code.data:
        return _prove_by_recovery_code(account, form.recovery_code.data)
    return _prove_by_code(account, form.code.data or "")


def _prove_by_code(account: Account, code: str) -> list[str]:
    with (
        parts().guesses.guess("second_factor", account=account.email_key) as guess,
        transaction() as db,
    ):
        now = datetime.now(UTC)
        totp.use_code(db, parts().issuer.sealer, account.id, code, now=now)
    guess.right()
    return ["otp", "mfa"]


def _prove_by_recovery_code(account: Account, code: str) -> list[str]:
    with (
        parts().guesses.guess("recovery_code", account=account.email_key) as guess,
        transaction() as db,
    ):
        now = datetime.now(UTC)
        left = recovery.use_code(db, account.id, code, now=now)
        record_and_tell(db, account, "recovery_code_used", now=now, left=left)
    guess.right()
    if left <= recovery.FEW:
        g.few_codes = left
    return ["otp", "mfa"]


def _prove_by_passkey(account: Account, credential: str, purpose: str) -> list[str]:
    with parts().guesses.guess("passkey", account=account.email_key) as guess:
        challenge = take_challenge(f"{purpose}:{account.id}", credential)
        with transaction() as db:
            proof = passkeys.use_passkey(
                db,
                party(),
                credential=credential,
                challenge=challenge,
                account_id=account.id,
                now=datetime.now(UTC),
            )
    guess.right()
    return proof.amr


def _prove_by_password(account: Account, password: str) -> list[str]:
    with (
        parts().guesses.guess("password", account=account.email_key) as guess,
        transaction() as db,
    ):
        accounts.sign_in(
            db,
            parts().hasher,
            email=account.email,
            password=password,
            now=datetime.now(UTC),
        )
    guess.right()
    return ["pwd"]


def tell_of_copy(refused: PasskeyCloned) -> None:
    """Record that somebody uses a copy of a passkey, and mail its owner."""
    log.warning("passkey_copied", passkey=str(refused.passkey_id))
    with transaction() as db:
        record_and_tell(
            db,
            accounts.find_account(db, refused.account_id),
            "passkey_refused",
            now=datetime.now(UTC),
            passkey=str(refused.passkey_id),
            reason="its counter went backwards",
        )


def _remember_refusal(account: Account, purpose: str, refused: Exception) -> None:
    if isinstance(refused, PasskeyCloned):
        tell_of_copy(refused)
        return
    now = datetime.now(UTC)
    with transaction() as db:
        record(db, "second_step_refused", account_id=account.id, now=now, step=purpose)
    log.info("second_step_refused", sub=str(account.id), step=purpose)


def _who_is_to_prove() -> tuple[Account | None, str]:
    """Return who has passed the first of two factors and where they want to go.

    That is somebody who is signing in, or somebody who is signed in by one factor.
    """
    here = login_session()
    wanted = safe_next(request.values.get("next"))
    pending = here.pending(datetime.now(UTC).timestamp())
    if pending is not None:
        with transaction() as db:
            account = accounts.find_account_if_enabled(db, pending.account_id)
        counts = account is not None and factors.first_factor_still_counts(
            account, pending.amr, pending.since
        )
        if counts:
            return account, pending.onward
        here.forget_pending()
        return None, pending.onward
    if current_user.is_authenticated:
        return current_user.account, wanted
    return None, wanted


def _nothing_to_prove(onward: str) -> ResponseReturnValue:
    """Lead on who has proved all, or to where a second factor can be added."""
    if login_session().acr == factors.AAL2:
        return redirect(onward, 303)
    flash(_("For this you need a second factor. Set one up, then go on."))
    return redirect(f"/account/two-factor?{urlencode({'next': onward})}", 303)


def _second_step_missing(account: Account) -> bool:
    here = login_session()
    waiting = here.pending(datetime.now(UTC).timestamp()) is not None
    with transaction() as db:
        found = factors.find_factors(db, account.id)
    return found.second_step and (waiting or here.acr != factors.AAL2)


def _confirmation(
    form: ProofForm, onward: str, *, status: int = 200
) -> ResponseReturnValue:
    account = current_user.account
    with transaction() as db:
        found = factors.find_factors(db, account.id)
    if account.password_hash is None and not (found.totp or found.passkeys):
        # Signs in with another provider alone: that is what can be proved anew.
        now = datetime.now(UTC).timestamp()
        login_session()["reauthentication"] = {"since": now}
        return redirect(f"/login?{urlencode({'next': onward})}", 303)
    return _proof_page("again.html", form, account, onward, "confirm"), status


def _proof_page(
    template: str, form: ProofForm, account: Account, onward: str, purpose: str
) -> str:
    allow_onward(onward)
    with transaction() as db:
        found: Factors = factors.find_factors(db, account.id)
        options = None
        if found.passkeys:
            g.scripts = True
            options = passkeys.request_options(
                party(),
                new_challenge(f"{purpose}:{account.id}"),
                passkeys.list_passkeys(db, account.id),
            )
    return render_template(
        template,
        form=form,
        account=account,
        factors=found,
        onward=onward,
        options=options,
    )


def _not_right() -> str:
    return _("That is not right, or it has been used before. Check it and try again.")
