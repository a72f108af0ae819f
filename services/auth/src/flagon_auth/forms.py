"""The forms of the hosted pages; each carries a CSRF token."""

from flask_wtf import FlaskForm
from wtforms import (
    EmailField,
    HiddenField,
    PasswordField,
    SelectField,
    SelectMultipleField,
    StringField,
)
from wtforms.validators import DataRequired, Length

from .domain.passkeys import CREDENTIAL_LENGTH_MAX, NAME_LENGTH_MAX
from .domain.passwords import LENGTH_MAX, LENGTH_MIN
from .i18n import LazyText as _
from .i18n import language


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


class ApiKeyForm(Form):
    """A new API key."""

    name = StringField(_("Name"), validators=[DataRequired(), Length(max=100)])
    scopes = SelectMultipleField(
        _("It may …"), validators=[DataRequired(_("Choose what the key may do."))]
    )
    days = SelectField(
        _("It works for"),
        coerce=int,
        choices=[
            (7, _("a week")),
            (30, _("a month")),
            (90, _("three months")),
            (365, _("a year")),
        ],
        default=90,
    )
