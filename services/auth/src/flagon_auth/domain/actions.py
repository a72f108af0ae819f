"""What the audit log's actions are called in front of people."""

from flagon_auth.i18n import LazyText as _
from flagon_auth.i18n import gettext

WORDS = {
    "account_changed": _("An administrator changed the account."),
    "account_deleted": _("The account was deleted."),
    "account_exported": _("The data of the account were downloaded."),
    "address_change_requested": _("Another e-mail address was asked for."),
    "address_changed": _("The e-mail address was changed."),
    "address_verified": _("The e-mail address was confirmed."),
    "api_key_created": _("An API key was made."),
    "api_key_revoked": _("An API key was revoked."),
    "confirmed": _("The sign-in was confirmed once more."),
    "consent_given": _("A program was allowed to use the account."),
    "consent_withdrawn": _("A program may not use the account any more."),
    "device_approved": _("A device was connected."),
    "device_denied": _("A device was turned away."),
    "factors_removed": _("An operator removed the second factors."),
    "identity_linked": _("Signing in with another provider was added."),
    "identity_unlinked": _("Signing in with another provider was removed."),
    "logout_not_delivered": _("A program could not be told of a sign-out."),
    "mail_refused": _("A mail could not be delivered."),
    "passkey_added": _("A passkey was added."),
    "passkey_refused": _("A passkey was refused."),
    "passkey_removed": _("A passkey was removed."),
    "password_changed": _("The password was changed."),
    "password_reset": _("A new password was chosen with a link from a mail."),
    "password_reset_requested": _("A link to choose a new password was asked for."),
    "profile_changed": _("Name or language was changed."),
    "recovery_code_used": _("A recovery code was used."),
    "recovery_codes_replaced": _("New recovery codes were made."),
    "registered": _("The account was created."),
    "registration_repeated": _("Somebody tried to register the address again."),
    "roles_changed": _("The roles were changed."),
    "second_step_refused": _("A wrong code was entered when signing in."),
    "session_ended": _("A session ended."),
    "sessions_ended": _("All other sessions were ended."),
    "sign_in_refused": _("A wrong password was entered."),
    "signed_in": _("Signed in."),
    "signed_out": _("Signed out."),
    "stepped_up": _("A second factor was shown."),
    "token_replayed": _("A copied token was used, and its program was signed out."),
    "totp_disabled": _("The authenticator app was removed."),
    "totp_enabled": _("An authenticator app was added."),
}
"""A sentence for each action that can concern an account."""


def spoken_action(action: str) -> str:
    """Return what happened as a sentence; its bare name if it has none."""
    found = WORDS.get(action)
    return str(found) if found else gettext(action.replace("_", " "))
