"""What mails say. None names a person: whoever registers could write to strangers else."""

from dataclasses import dataclass, field
from datetime import timedelta

from flagon_auth.i18n import LazyText as _

from .email_tokens import LIVES, Purpose

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Letter:
    """One kind of mail."""

    subject: _
    lines: tuple[_, ...]
    button: _
    path: str
    """Where the button leads; it may name values, too."""
    after: tuple[_, ...] = ()
    purpose: Purpose | None = None
    """What the code in the link is for; None: there is no code."""
    lives: timedelta = field(default=7 * _DAY)
    """How late the mail may be sent."""


_CONFIRM = _("Press the button to confirm that it is yours.")
_FOR_A_DAY = (
    _("The link works once and for 24 hours."),
    _("If it was not you, ignore this mail."),
)

LETTERS = {
    "verify_email": Letter(
        subject=_("Confirm your e-mail address"),
        lines=(
            _("Somebody, most likely you, created a Flagon account with this address."),
            _CONFIRM,
        ),
        button=_("Confirm the address"),
        path="/verify-email",
        after=_FOR_A_DAY,
        purpose="verify",
        lives=LIVES["verify"],
    ),
    "known_address": Letter(
        subject=_("You already have an account"),
        lines=(
            _(
                "Somebody, most likely you, tried to create a Flagon account with this"
                " address."
            ),
            _(
                "There is one already: sign in with it. If you have forgotten the"
                " password, you can choose a new one there."
            ),
        ),
        button=_("Sign in"),
        path="/login",
        after=(_("If it was not you, nothing has changed. Ignore this mail."),),
        lives=_DAY,
    ),
    "reset_password": Letter(
        subject=_("Choose a new password"),
        lines=(
            _(
                "Somebody, most likely you, asked for a new password for your Flagon"
                " account."
            ),
        ),
        button=_("Choose a new password"),
        path="/password/reset",
        after=(
            _("The link works once and for 15 minutes."),
            _("If it was not you, ignore this mail: the password stays as it is."),
        ),
        purpose="reset",
        lives=timedelta(hours=1),
    ),
    "password_changed": Letter(
        subject=_("Your password was changed"),
        lines=(
            _(
                "The password of your Flagon account was changed, and other browsers"
                " and programs were signed out."
            ),
            _("If it was not you, choose a new password at once."),
        ),
        button=_("Choose a new password"),
        path="/password/forgot",
    ),
    "confirm_address": Letter(
        subject=_("Confirm your new e-mail address"),
        lines=(
            _("You asked to use this address for your Flagon account."),
            _CONFIRM,
        ),
        button=_("Confirm the address"),
        path="/verify-email",
        after=_FOR_A_DAY,
        purpose="change",
        lives=LIVES["change"],
    ),
    "address_changed": Letter(
        subject=_("Your e-mail address was changed"),
        lines=(
            _("Your Flagon account has another e-mail address from now on."),
            _(
                "If it was not you, somebody else can use your account: tell the shop"
                " at once."
            ),
        ),
        button=_("Go to the shop"),
        path="/",
    ),
    "security_changed": Letter(
        subject=_("Something changed in how you sign in"),
        lines=(
            _("This happened in your Flagon account: %(action)s"),
            _("If it was not you, choose a new password at once."),
        ),
        button=_("Look at your account"),
        path="/account/activity",
    ),
    "price_dropped": Letter(
        subject=_("A price that you watch has fallen"),
        lines=(
            _("%(product)s costs %(price)s now. Before, it was %(previous_price)s."),
        ),
        button=_("Look at it"),
        path="/products/%(product_id)s",
        after=(_("You get this mail because you watch the price of this product."),),
        # By then it may cost something else.
        lives=_DAY,
    ),
    "account_deleted": Letter(
        subject=_("Your account was deleted"),
        lines=(
            _("Your Flagon account and what belongs to it were deleted, as you asked."),
        ),
        button=_("Go to the shop"),
        path="/",
    ),
}
