"""The forms of the hosted pages; each carries a CSRF token."""

from flask_wtf import FlaskForm
from wtforms import EmailField, HiddenField, PasswordField, StringField
from wtforms.validators import DataRequired, Length

from .domain.passwords import LENGTH_MAX, LENGTH_MIN


class LoginForm(FlaskForm):  # type: ignore[misc]
    """The sign-in page."""

    email = EmailField("E-mail address", validators=[DataRequired(), Length(max=254)])
    password = PasswordField("Password", validators=[DataRequired(), Length(max=1024)])
    next = HiddenField()


class RegisterForm(FlaskForm):  # type: ignore[misc]
    """The registration page."""

    name = StringField("Name", validators=[DataRequired(), Length(max=100)])
    email = EmailField("E-mail address", validators=[DataRequired(), Length(max=254)])
    password = PasswordField(
        "Password", validators=[DataRequired(), Length(min=LENGTH_MIN, max=LENGTH_MAX)]
    )
    next = HiddenField()


class ActionForm(FlaskForm):  # type: ignore[misc]
    """A page with nothing to fill in, only buttons to press."""

    request = HiddenField()
    choice = HiddenField()
