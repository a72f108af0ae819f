"""The forms of the hosted pages; each carries a CSRF token."""

from flask_wtf import FlaskForm
from wtforms import (
    EmailField,
    HiddenField,
    IntegerField,
    PasswordField,
    SelectField,
    SelectMultipleField,
    StringField,
)
from wtforms.fields.choices import SelectChoice
from wtforms.validators import AnyOf, DataRequired, Length

from .domain.passkeys import CREDENTIAL_LENGTH_MAX, NAME_LENGTH_MAX
from .domain.passwords import LENGTH_MAX, LENGTH_MIN
from .i18n import LANGUAGES, language
from .i18n import LazyText as _


class Form(FlaskForm):  # type: ignore[misc]
    """A form whose own messages are in the language of the request."""

    class Meta(FlaskForm.Meta):  # type: ignore[misc]
        """What is common to all forms."""

        @property
        def locales(self) -> list[str]:
            """Return the language in which WTForms writes."""
            return [language()]


class LoginForm(Form):
    """The sign-in page."""

    email = EmailField(
        _("E-mail address"), validators=[DataRequired(), Length(max=254)]
    )
    password = PasswordField(
        _("Password"), validators=[DataRequired(), Length(max=1024)]
    )
    next = HiddenField()


class RegisterForm(Form):
    """The registration page."""

    name = StringField(_("Name"), validators=[DataRequired(), Length(max=100)])
    email = EmailField(
        _("E-mail address"), validators=[DataRequired(), Length(max=254)]
    )
    password = PasswordField(
        _("Password"),
        validators=[DataRequired(), Length(min=LENGTH_MIN, max=LENGTH_MAX)],
    )
    next = HiddenField()


class ActionForm(Form):
    """A page with nothing to fill in, only buttons to press."""

    request = HiddenField()
    choice = HiddenField()


class SocialForm(Form):
    """A button that leads to an outside provider."""

    next = HiddenField()
    purpose = HiddenField()


class ProofForm(Form):
    """One more proof of who somebody is, in whichever way they have."""

    password = PasswordField(_("Password"), validators=[Length(max=1024)])
    code = StringField(_("Code"), validators=[Length(max=32)])
    recovery_code = StringField(_("Recovery code"), validators=[Length(max=64)])
    credential = HiddenField(validators=[Length(max=CREDENTIAL_LENGTH_MAX)])
    next = HiddenField()


class PasskeyForm(Form):
    """A passkey: the browser's answer, or the name that its owner gives it."""

    name = StringField(_("Name"), validators=[Length(max=NAME_LENGTH_MAX)])
    credential = HiddenField(validators=[Length(max=CREDENTIAL_LENGTH_MAX)])
    next = HiddenField()


class FactorForm(Form):
    """A page of second factors: the first code of an app, or only a button."""

    code = StringField(_("Code"), validators=[Length(max=32)])
    next = HiddenField()


KEY_DAYS = (7, 30, 90, 365)
"""How long a new API key may work; `api_keys.html` says it in words."""


class ApiKeyForm(Form):
    """A new API key."""

    name = StringField(_("Name"), validators=[DataRequired(), Length(max=100)])
    scopes = SelectMultipleField(
        _("It may …"), validators=[DataRequired(_("Choose what the key may do."))]
    )
    days = IntegerField(_("It works for"), validators=[AnyOf(KEY_DAYS)], default=90)


class DeviceForm(Form):
    """The code that a device shows."""

    user_code = StringField(
        _("Code on the device"), validators=[DataRequired(), Length(max=40)]
    )


def _new_password(label: _) -> PasswordField:
    return PasswordField(
        label, validators=[DataRequired(), Length(min=LENGTH_MIN, max=LENGTH_MAX)]
    )


class ForgotForm(Form):
    """Where a link to choose a new password goes."""

    email = EmailField(
        _("E-mail address"), validators=[DataRequired(), Length(max=254)]
    )


class LinkForm(Form):
    """A link from a mail, to be used by pressing a button."""

    code = HiddenField(validators=[Length(max=200)])


class ResetForm(LinkForm):
    """A new password, allowed by a link from a mail."""

    password = _new_password(_("New password"))


class PasswordForm(Form):
    """Another password."""

    present = PasswordField(_("Present password"), validators=[Length(max=1024)])
    password = _new_password(_("New password"))


class AddressForm(Form):
    """Another e-mail address."""

    email = EmailField(
        _("New e-mail address"), validators=[DataRequired(), Length(max=254)]
    )


class ProfileForm(Form):
    """What a person is called and which language they read."""

    name = StringField(_("Name"), validators=[DataRequired(), Length(max=100)])
    locale = SelectField(
        _("Language"),
        choices=[SelectChoice(code, name) for code, name in LANGUAGES.items()],
    )


class DeleteForm(Form):
    """The address typed once more, so that nobody deletes an account by accident."""

    email = StringField(
        _("Your e-mail address"), validators=[DataRequired(), Length(max=254)]
    )
