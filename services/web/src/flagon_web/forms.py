"""The forms that people fill in."""

import json
from collections.abc import Mapping as MappingType
from typing import Any
from uuid import uuid4

from flask_wtf import FlaskForm
from flask_wtf.file import FileField, FileRequired
from wtforms import (
    BooleanField,
    FieldList,
    FloatField,
    IntegerField,
    RadioField,
    SelectField,
    SelectMultipleField,
    StringField,
    TextAreaField,
)
from wtforms.fields.choices import SelectChoice
from wtforms.validators import (
    UUID,
    InputRequired,
    Length,
    NumberRange,
    Optional,
    Regexp,
    ValidationError,
)

from flagon_chassis.http import Refused

from . import i18n
from .domain import edits, imports, money, plans, products, schedules
from .domain.registered_clients import AUTH_METHODS, GRANT_TYPES, OVERLAPS
from .domain.reviews import STARS
from .domain.users import ROLES
from .i18n import LazyText as _
from .i18n import gettext

_YEAR_SECONDS = 366 * 86_400
_PARAMS_CHARS = 20_000
_REVIEW_CHARS = 10_000
_DESCRIPTION_CHARS = 20_000
_CURRENCIES = {code: code for code in money.CURRENCIES}
_FORMATS = {
    "csv": "CSV",
    "csv.gz": _("CSV, compressed"),
    "xlsx": _("Excel workbook (100,000 products at most)"),
    "ndjson": _("NDJSON: every field, exact"),
    "ndjson.gz": _("NDJSON, compressed"),
    "xml": "XML",
    "xml.gz": _("XML, compressed"),
}
_STATUSES = {
    "active": _("On sale"),
    "draft": _("Drafts"),
    "archived": _("Archived"),
    "any": _("All"),
}
_TARGETS = {
    imports.IGNORED: _("Leave out"),
    **imports.TARGETS,
    imports.ATTRIBUTE: _("Keep as an attribute"),
}


def _offered(words: MappingType[str, object]) -> list[SelectChoice]:
    """Return choices whose words are translated when they are shown."""
    return [SelectChoice(value, label) for value, label in words.items()]


class Form(FlaskForm):  # type: ignore[misc]  # it has no types
    """A form whose own messages are in the language of the request."""

    class Meta(FlaskForm.Meta):  # type: ignore[misc]  # as above
        """What is common to all forms."""

        @property
        def locales(self) -> list[str]:
            """Return the language in which WTForms writes."""
            return [i18n.language()]


class Upload(Form):
    """First step of an import: the file."""

    file = FileField(
        _("The file"), validators=[FileRequired(_("Choose a file first."))]
    )


class Mapping(Form):
    """Second step of an import: what the columns mean."""

    targets = FieldList(
        SelectField(_("Becomes"), choices=_offered(_TARGETS)),
        max_entries=imports.MAX_COLUMNS,
    )
    price = StringField(
        _("Price"),
        validators=[Optional(), Length(max=14)],
        description=_("Such as 12.99."),
    )
    currency = SelectField(_("Currency"), choices=_CURRENCIES)
    stock = IntegerField(
        _("Stock"), validators=[Optional(), NumberRange(min=0, max=1_000_000)]
    )
    category = StringField(
        _("Category"),
        validators=[Optional(), Length(max=80)],
        description=_("Made if it does not exist."),
    )
    keep_as = StringField(
        _("Name"),
        validators=[Optional(), Length(max=100)],
        description=_("One that has this name already is replaced."),
    )
    dry_run = BooleanField(_("Only check the file, change nothing"))


class Seen(Form):
    """What a person saw when they decided."""

    etag = StringField(
        validators=[InputRequired(), Length(max=80), Regexp(r'^"[\w.:-]+"$')]
    )


class Price(Seen):
    """A new price for a product."""

    price = StringField(_("New price"), validators=[InputRequired(), Length(max=14)])


class Once(Form):
    """A form that does its work once, however often it is sent."""

    key = StringField(
        default=lambda: uuid4().hex,
        validators=[InputRequired(), Regexp(r"^[0-9a-f]{32}$")],
    )


class Number(FloatField):  # type: ignore[misc]
    """A number, shown as people write it."""

    def _value(self) -> str:
        return self.raw_data[0] if self.raw_data else schedules.plain(self.data)


class Pace(Form):
    """How often something happens; all that can change of the platform's own."""

    interval_seconds = Number(
        _("Seconds between two runs"),
        validators=[Optional(), NumberRange(min=0, max=_YEAR_SECONDS)],
    )
    jitter_seconds = Number(
        _("Jitter, in seconds"),
        default=0,
        validators=[InputRequired(), NumberRange(min=0, max=3600)],
    )
    etag = StringField(validators=[Optional(), Length(max=80)])

    def fields(self) -> dict[str, Any]:
        """Return what the schedules API is told."""
        return {
            "interval_seconds": self.interval_seconds.data,
            "jitter_seconds": self.jitter_seconds.data,
        }


class Plan(Pace, Once):
    """A schedule of somebody's."""

    name = StringField(_("Name"), validators=[InputRequired(), Length(max=64)])
    # The API knows the kinds.
    kind = SelectField(_("Kind of job"), validate_choice=False)
    params = TextAreaField(
        _("Parameters"), default="{}", validators=[Length(max=_PARAMS_CHARS)]
    )
    timing = RadioField(
        _("When"),
        choices=_offered({"cron": _("By the clock"), "interval": _("At an interval")}),
    )
    cron = StringField(_("Cron expression"), validators=[Optional(), Length(max=100)])
    time_zone = StringField(_("Time zone"), default="UTC", validators=[Length(max=64)])
    catch_up = SelectField(_("Missed times"), choices=_offered(schedules.CATCH_UP))

    def validate_params(self, field: Any) -> None:  # noqa: ANN401 (wtforms has no types)
        """Refuse what is no JSON object."""
        _json_object(field)

    def fields(self) -> dict[str, Any]:
        """Return what the schedules API is told."""
        by_clock = self.timing.data == "cron"
        names = ("name", "kind", "time_zone", "catch_up")
        return {
            **super().fields(),
            **{name: self[name].data for name in names},
            "params": json.loads(self.params.data or "{}"),
            "cron": (self.cron.data or "") if by_clock else None,
            "interval_seconds": None if by_clock else self.interval_seconds.data,
        }


class Endpoint(Once):
    """A webhook."""

    url = StringField("URL", validators=[InputRequired(), Length(max=2000)])
    event_types = TextAreaField(
        _("Event types"),
        default="*",
        validators=[InputRequired(), Length(max=_PARAMS_CHARS)],
    )
    description = StringField(_("Description"), validators=[Length(max=200)])
    enabled = BooleanField(_("Send to it"), default=True)
    etag = StringField(validators=[Optional(), Length(max=80)])

    def fields(self) -> dict[str, Any]:
        """Return what the webhooks API is told."""
        return {
            "url": self.url.data.strip(),
            "event_types": self.event_types.data.split(),
            "description": self.description.data or "",
            "enabled": self.enabled.data,
        }


class Roles(Form):
    """What an account may do."""

    roles = SelectMultipleField(
        _("Roles"), choices=_offered({role: role for role in ROLES})
    )
    give_up = BooleanField(_("I give up my own administrator rights"))
    etag = StringField(validators=[Optional(), Length(max=80)])

    def fields(self) -> dict[str, Any]:
        """Return what the API of accounts is told."""
        return {"roles": sorted(self.roles.data)}


class SessionChoice(Form):
    """One of the browsers in which somebody is signed in."""

    sid = StringField(validators=[InputRequired(), Regexp(r"^[\w-]{1,100}$")])


class Registered(Form):
    """What can be changed of an OAuth client."""

    name = StringField(_("Name"), validators=[InputRequired(), Length(max=100)])
    grant_types = SelectMultipleField(
        _("What it may do"),
        choices=_offered(GRANT_TYPES),
        validators=[InputRequired(_("Choose at least one."))],
    )
    scope = StringField(_("Scopes"), validators=[Length(max=1000)])
    redirect_uris = TextAreaField(
        _("Addresses to come back to"), validators=[Length(max=_PARAMS_CHARS)]
    )
    post_logout_redirect_uris = TextAreaField(
        _("Addresses after signing out"), validators=[Length(max=_PARAMS_CHARS)]
    )
    backchannel_logout_uri = StringField(
        _("Address that is told of sign-outs"), validators=[Length(max=500)]
    )
    jwks = TextAreaField(_("Public keys"), validators=[Length(max=_PARAMS_CHARS)])
    id_token_signed_response_alg = SelectField(
        _("ID tokens are signed by"),
        choices=_offered({"RS256": "RS256", "ES256": "ES256"}),
    )
    dpop_bound_access_tokens = BooleanField(_("Its tokens are bound to a key (DPoP)"))
    require_pushed_authorization_requests = BooleanField(
        _("It must push what it asks for (PAR)")
    )
    disabled = BooleanField(_("Disabled: it gets no tokens, and those it has end"))
    etag = StringField(validators=[Optional(), Length(max=80)])

    def validate_jwks(self, field: Any) -> None:  # noqa: ANN401 (wtforms has no types)
        """Refuse what is no JSON object."""
        _json_object(field)

    def fields(self) -> dict[str, Any]:
        """Return what the API of clients is told."""
        return {
            **{
                name: self[name].data
                for name in (
                    "grant_types",
                    "id_token_signed_response_alg",
                    "dpop_bound_access_tokens",
                    "require_pushed_authorization_requests",
                    "disabled",
                )
            },
            "name": (self.name.data or "").strip(),
            "scope": " ".join((self.scope.data or "").split()),
            "redirect_uris": (self.redirect_uris.data or "").split(),
            "post_logout_redirect_uris": (
                self.post_logout_redirect_uris.data or ""
            ).split(),
            "backchannel_logout_uri": (self.backchannel_logout_uri.data or "").strip()
            or None,
            "jwks": json.loads(self.jwks.data or "null"),
        }


class Registration(Registered, Once):
    """A new OAuth client."""

    token_endpoint_auth_method = SelectField(
        _("How it proves who it is"), choices=_offered(AUTH_METHODS)
    )

    def fields(self) -> dict[str, Any]:
        """Return what the API of clients is told."""
        told = super().fields()
        del told["disabled"]
        method = self.token_endpoint_auth_method.data
        return {**told, "token_endpoint_auth_method": method}


class NewSecret(Once):
    """How long the secret before goes on working."""

    overlap_seconds = SelectField(
        _("The present one works"), choices=_offered(OVERLAPS), default="86400"
    )


class Export(Once):
    """Products into a file: which ones, and what file."""

    format = SelectField(_("File"), choices=_offered(_FORMATS))
    status = SelectField(_("Status"), choices=_offered(_STATUSES))
    words = StringField(_("Words"), validators=[Length(max=200)])
    # The catalog knows the categories.
    category = SelectField(_("Category"), validate_choice=False)
    price_from = StringField(_("Price from"), validators=[Length(max=14)])
    price_to = StringField(_("Price to"), validators=[Length(max=14)])
    currency = SelectField(
        _("Currency"), choices=_offered({"": _("Any"), **_CURRENCIES})
    )
    sku = StringField("SKU", validators=[Length(max=64)])
    in_stock = BooleanField(_("Only what is in stock"))

    def validate_currency(self, field: Any) -> None:  # noqa: ANN401 (wtforms has no types)
        """Refuse amounts of nobody knows what."""
        if (self.price_from.data or self.price_to.data) and not field.data:
            raise ValidationError(gettext("Choose the currency of the prices."))

    def validate_price_from(self, field: Any) -> None:  # noqa: ANN401 (wtforms has no types)
        """Refuse what is no amount of the currency."""
        try:
            money.minor_units(field.data or "0", self.currency.data or "EUR")
        except money.AmountUnreadable as failure:
            raise ValidationError(failure.detail) from failure

    validate_price_to = validate_price_from


class Opinion(Once):
    """A review of a product; with an entity tag it changes the one that was seen."""

    rating = SelectField(
        _("Stars"),
        choices=_offered({"": _("Choose"), **{str(n): "★" * n for n in STARS}}),
        validators=[InputRequired(_("Choose between one and five stars."))],
    )
    author = StringField(_("Your name"), validators=[InputRequired(), Length(max=80)])
    title = StringField(
        _("In one sentence"), validators=[InputRequired(), Length(max=120)]
    )
    body = TextAreaField(_("Your review"), validators=[Length(max=_REVIEW_CHARS)])
    etag = StringField(validators=[Optional(), Length(max=80)])
    review = StringField(validators=[Optional(), UUID()])

    def fields(self) -> dict[str, Any]:
        """Return what the catalog is told."""
        return {
            "rating": int(self.rating.data),
            "author": self.author.data,
            "title": self.title.data,
            # Browsers end lines as HTTP did in 1992.
            "body": (self.body.data or "").replace("\r\n", "\n"),
        }


class Wish(Form):
    """When to be told of a lower price; with an entity tag it changes a watch.

    :param currency: of the product, and so of the limit.
    """

    limit = StringField(
        _("Only below"), validators=[Optional(), Length(max=14)], default=""
    )
    etag = StringField(validators=[Optional(), Length(max=120)])

    def __init__(self, *, currency: str, **given: Any) -> None:  # noqa: ANN401 (wtforms)
        super().__init__(**given)
        self._currency = currency

    def validate_limit(self, field: Any) -> None:  # noqa: ANN401 (wtforms has no types)
        """Refuse what is no amount of the currency, and what nothing is below."""
        try:
            limit = money.minor_units(field.data or "", self._currency)
        except money.AmountUnreadable as failure:
            raise ValidationError(failure.detail) from failure
        if limit == 0:
            raise ValidationError(gettext("Nothing is cheaper than that."))

    def fields(self) -> dict[str, Any]:
        """Return what the watches API is told."""
        text = (self.limit.data or "").strip()
        if not text:
            return {}
        below = money.minor_units(text, self._currency)
        return {"below_minor": below, "currency": self._currency}


class Article(Once):
    """A product of the catalog; with an entity tag it changes the one that was seen."""

    name = StringField(_("Name"), validators=[InputRequired(), Length(max=200)])
    sku = StringField("SKU", validators=[InputRequired(), Length(max=64)])
    slug = StringField(_("Address"), validators=[Length(max=120)])
    description = TextAreaField(
        _("Description"), validators=[Length(max=_DESCRIPTION_CHARS)]
    )
    price = StringField(_("Price"), validators=[InputRequired(), Length(max=14)])
    # A product may have one that the form does not offer to others.
    currency = SelectField(
        _("Currency"),
        default="EUR",
        validate_choice=False,
        validators=[InputRequired(), Regexp(r"^[A-Z]{3}$")],
    )
    status = SelectField(
        _("Status"),
        default="draft",
        choices=_offered(products.STATUSES),
    )
    stock = IntegerField(
        _("Stock"),
        default=0,
        validators=[InputRequired(), NumberRange(min=0, max=1_000_000_000)],
    )
    # The catalog knows the categories.
    category = SelectField(_("Category"), validate_choice=False)
    tags = StringField(_("Tags"), validators=[Length(max=2600)])
    attributes = TextAreaField(
        _("Attributes"), default="{}", validators=[Length(max=_PARAMS_CHARS)]
    )
    etag = StringField(validators=[Optional(), Length(max=80)])
    seen = StringField()

    def validate_price(self, field: Any) -> None:  # noqa: ANN401 (wtforms has no types)
        """Refuse what is no amount of the currency."""
        try:
            money.minor_units(field.data or "", self.currency.data)
        except money.AmountUnreadable as failure:
            raise ValidationError(failure.detail) from failure

    def validate_attributes(self, field: Any) -> None:  # noqa: ANN401 (wtforms has no types)
        """Refuse what is no JSON object."""
        _json_object(field)

    def fields(self) -> dict[str, Any]:
        """Return what the catalog is told; no slug where none was written."""
        slug = (self.slug.data or "").strip()
        return {
            "name": self.name.data.strip(),
            "sku": self.sku.data.strip(),
            **({"slug": slug} if slug else {}),
            "description": (self.description.data or "").replace("\r\n", "\n"),
            "price_minor": money.minor_units(self.price.data, self.currency.data),
            "currency": self.currency.data,
            "status": self.status.data,
            "stock": self.stock.data,
            "category": self.category.data or None,
            "tags": sorted(set((self.tags.data or "").replace(",", " ").split())),
            "attributes": json.loads(self.attributes.data or "{}"),
        }

    def marks(self) -> dict[str, str]:
        """Return the marks of what the form was filled with."""
        return edits.read(self.seen.data or "")


class Revaluation(Form):
    """What many products shall cost."""

    how = SelectField(
        _("How it changes"),
        choices=_offered(
            {"percent": _("By a percentage"), "amount": _("To an amount")}
        ),
    )
    value = StringField(
        _("Percentage or amount"), validators=[InputRequired(), Length(max=14)]
    )
    # Those of the products.
    currency = SelectField(
        _("Currency of the amount"),
        validate_choice=False,
        validators=[Optional(), Regexp(r"^[A-Z]{3}$")],
    )

    def validate_value(self, field: Any) -> None:  # noqa: ANN401 (wtforms has no types)
        """Refuse what is neither a percentage nor an amount of the currency."""
        try:
            if self.how.data == "percent":
                plans.percent(field.data or "")
            else:
                money.minor_units(field.data or "", self.currency.data or "EUR")
        except (plans.PercentUnreadable, money.AmountUnreadable) as failure:
            raise ValidationError(failure.detail) from failure

    def after(self, found: products.Present) -> plans.Value:
        """Return the price of a product afterwards, in minor units.

        :raises OtherCurrency: an amount of another currency was written.
        """
        if self.how.data == "percent":
            return plans.by_percent(found.price_minor, plans.percent(self.value.data))
        return plans.to_amount(found, self.value.data, self.currency.data)


class Move(Form):
    """The category into which many products go."""

    # The catalog knows the categories.
    value = SelectField(_("New category"), choices=[])

    def after(self, _found: products.Present) -> plans.Value:
        """Return the category of a product afterwards."""
        return self.value.data or None


class Restock(Form):
    """By how much the stock of many products changes."""

    value = IntegerField(
        _("How many more"),
        validators=[
            InputRequired(),
            NumberRange(min=-1_000_000_000, max=1_000_000_000),
        ],
    )

    def after(self, found: products.Present) -> plans.Value:
        """Return the stock of a product afterwards.

        :raises FewerThanNone: there is not so much to take.
        """
        return plans.by_difference(found.stock, self.value.data)


class Picture(Once):
    """A picture of a product."""

    file = FileField(
        _("Choose a picture"),
        validators=[FileRequired(_("Choose a picture first."))],
    )
    alt = StringField(_("Text instead of it"), validators=[Length(max=300)])


class Shelf(Once):
    """A category: what it is called, and which one it is in."""

    name = StringField(_("Name"), validators=[InputRequired(), Length(max=200)])
    slug = StringField(_("Address"), validators=[Length(max=120)])
    # The catalog knows the categories.
    parent = SelectField(_("In the category"), validate_choice=False)
    description = TextAreaField(
        _("Description"), validators=[Length(max=_DESCRIPTION_CHARS)]
    )
    attribute_schema = TextAreaField(
        _("What it asks of attributes"),
        validators=[Length(max=_PARAMS_CHARS)],
        default="",
    )
    etag = StringField(validators=[Optional(), Length(max=80)])

    def validate_attribute_schema(self, field: Any) -> None:  # noqa: ANN401 (wtforms has no types)
        """Refuse what is no JSON object."""
        _json_object(field)

    def fields(self) -> dict[str, Any]:
        """Return what the catalog is told of it; its address never changes."""
        return {
            "name": self.name.data.strip(),
            "parent": self.parent.data or None,
            "description": (self.description.data or "").replace("\r\n", "\n"),
            "attribute_schema": json.loads(self.attribute_schema.data or "null"),
        }


def _json_object(field: Any) -> None:  # noqa: ANN401 (wtforms has no types)
    """Refuse what is no JSON object.

    :raises ValidationError: it is something else.
    """
    try:
        found = json.loads(field.data or "{}")
        # What Python reads and no other program would: NaN, halves of surrogate pairs.
        json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ValidationError(gettext("This is no JSON.")) from error
    if not isinstance(found, dict):
        raise ValidationError(gettext("Write an object: { … }."))


def blame(
    form: Any,  # noqa: ANN401 (wtforms has no types)
    refused: Refused,
    places: MappingType[str, str] | None = None,
) -> str:
    """Put what another service refused at the fields that it is about.

    :param places: the form's names of members that it calls otherwise.
    :return: a sentence on top of the form, with what is about no field.
    """
    rest, placed = [], False
    found = refused.problem.get("errors")
    for error in found if isinstance(found, list) else ():
        if not isinstance(error, dict):
            continue
        path = str(error.get("pointer", "")).removeprefix("#").strip("/").split("/")
        words = str(error.get("detail") or "").removeprefix("Value error, ")
        if path[0] == "params" and "params" not in form:
            path = path[1:] or [""]
        name = (places or {}).get(path[0], path[0])
        if name not in form:
            rest.append(words)
            continue
        inner = " ".join(part for part in path[1:] if not part.isdigit())
        field = form[name]
        field.errors = [*field.errors, f"{inner}: {words}" if inner else words]
        placed = True
    if any(rest):
        return "; ".join(filter(None, rest))
    if placed:
        return gettext("It was not saved. Look at the marked fields.")
    return refused.detail or gettext("It was not saved.")


def first_error(form: Any) -> str:  # noqa: ANN401 (wtforms has no types)
    """Return one sentence on what is wrong with a form."""
    for field in form:
        for error in field.errors:
            several = isinstance(error, list | tuple)
            found = "; ".join(map(str, error)) if several else error
            return f"{field.label.text}: {found}"
    return ""
