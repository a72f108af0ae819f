"""Checks of our own for Schemathesis, which loads this file (`SCHEMATHESIS_HOOKS`)."""

import schemathesis

ANYWHERE = {414}
"""What the gateway says of itself, before it knows which operation is meant."""


@schemathesis.check
def status_named(ctx, response, case):
    """Refuse a status that stands in the document under `default` at best."""
    named = case.operation.definition.raw["responses"]
    if str(response.status_code) not in named and response.status_code not in ANYWHERE:
        raise AssertionError(
            f"{response.status_code} is not among {', '.join(sorted(named))}"
        )


@schemathesis.check
def errors_are_problems(ctx, response, case):
    """Refuse an error that is no problem, wherever it was made."""
    kind = response.headers.get("content-type", [""])[0].split(";")[0]
    graphql = kind == "application/graphql-response+json"
    if response.status_code >= 400 and not graphql:
        assert kind == "application/problem+json", kind
        assert response.json()["status"] == response.status_code


@schemathesis.hook
def before_call(_context, case, _kwargs):
    """Ask for whole products: `fields` leaves out what the schema promises."""
    if case.query:
        case.query.pop("fields", None)
