"""What tokens take of auth, counted as in the catalog's `test_cost.py`.

Argon2id and signatures are not among it: they are C, and are limits of their own.
"""

import pytest

from .conftest import basic, me, refresh, token_request
from .registering import post

LIMITS = {
    "the keys": 2.4,
    "a token check": 2.9,
    "an introspection": 4.65,
    "a service token": 2.95,
    "a refresh": 7.8,
}
"""Times the emptiest answer; about 8 % above what they are."""


@pytest.fixture
def runs(app, ada):
    """What is counted, by its name."""
    answers = [ada.tokens()]
    token = answers[0]["access_token"]

    def right(response):
        assert response.status_code == 200, response.text
        return response

    def introspect():
        found = right(post(app, "/oauth/introspect", basic(), token=token))
        assert found.json["active"] is True

    def again():
        found = right(refresh(app, answers[-1]["refresh_token"]))
        answers.append(found.json)

    return {
        "the keys": lambda: right(app.test_client().get("/.well-known/jwks.json")),
        "a token check": lambda: right(me(app, answers[0])),
        "an introspection": introspect,
        "a service token": lambda: right(
            token_request(app, "worker", grant_type="client_credentials")
        ),
        "a refresh": again,
    }


class TestCost:
    @pytest.mark.parametrize("what", LIMITS)
    def test_is_not_above_its_limit(self, app, runs, calls, what):
        empty = calls(lambda: app.test_client().get("/livez"))

        assert calls(runs[what]) / empty <= LIMITS[what]
