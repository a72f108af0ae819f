"""The forms that people fill in."""

from typing import Any

from flask_wtf import FlaskForm
from flask_wtf.file import FileField, FileRequired
from wtforms import (
    BooleanField,
    FieldList,
    IntegerField,
    SelectField,
    StringField,
)
from wtforms.validators import InputRequired, Length, NumberRange, Optional, Regexp

from .domain import imports, money

_CURRENCIES = {code: code for code in money.CURRENCIES}
_TARGETS = {
    imports.IGNORED: "Leave out",
    **imports.TARGETS,
    imports.ATTRIBUTE: "Keep as an attribute",
}


class Upload(FlaskForm):  # type: ignore[misc]
    """First step of an import: the file."""

    file = FileField("The file", validators=[FileRequired("Choose a file first.")])


class Mapping(FlaskForm):  # type: ignore[misc]
    """Second step of an import: what the columns mean."""

    targets = FieldList(
        SelectField("Becomes", choices=_TARGETS), max_entries=imports.MAX_COLUMNS
    )
    price = StringField(
        "Price", validators=[Optional(), Length(max=14)], description="Such as 12.99."
    )
    currency = SelectField("Currency", choices=_CURRENCIES)
    stock = IntegerField(
        "Stock", validators=[Optional(), NumberRange(min=0, max=1_000_000)]
    )
    category = StringField(
        "Category",
        validators=[Optional(), Length(max=80)],
        description="Made if it does not exist.",
    )
    dry_run = BooleanField("Only check the file, change nothing")


class Seen(FlaskForm):  # type: ignore[misc]
    """What a person saw when they decided."""

    etag = StringField(
        validators=[InputRequired(), Length(max=80), Regexp(r'^"[\w.:-]+"$')]
    )


class Price(Seen):
    """A new price for a product."""

    price = StringField("New price", validators=[InputRequired(), Length(max=14)])


def first_error(form: Any) -> str:  # noqa: ANN401 (wtforms has no types)
    """Return one sentence on what is wrong with a form."""
    for field in form:
        for error in field.errors:
            found = error if isinstance(error, str) else "; ".join(map(str, error))
            return f"{field.label.text}: {found}"
    return ""
