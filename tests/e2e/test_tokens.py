"""What a stolen token is worth at the other services: nothing, within a second."""

import time

import pytest
from harness.people import Person

from flagon_chassis.testing import ProofMaker

# One request for each service that anybody with a token may send.
WAYS = {
    "auth": "/api/v1/me",
    "worker": "/api/v1/jobs",
    "catalog": "/api/v1/products",
}
SCOPE = "openid offline_access jobs:read"


@pytest.fixture
def person(stack, accounts):
    with Person(stack, accounts["customer"]) as found:
        yield found


@pytest.fixture
def http(stack):
    with stack.client() as client:
        yield client


def refresh(http, token, **headers):
    return http.post(
        "/oauth/token",
        data={
            "grant_type": "refresh_token",
            "client_id": "cli",
            "refresh_token": token,
        },
        headers=headers,
    )


def bearer(answer):
    return {"Authorization": f"Bearer {answer['access_token']}"}


class TestThreatStolenRefreshToken:
    def test_reuse_ends_the_family_at_every_service_within_a_second(self, person, http):
        first = person.sign_in(SCOPE)
        second = refresh(http, first["refresh_token"]).json()
        for path in WAYS.values():
            assert http.get(path, headers=bearer(second)).status_code == 200

        stolen = refresh(http, first["refresh_token"])
        ended_at = time.monotonic()

        assert stolen.json()["error"] == "invalid_grant"
        time.sleep(max(0, ended_at + 1 - time.monotonic()))
        for answer in (first, second):
            found = {
                service: http.get(path, headers=bearer(answer)).status_code
                for service, path in WAYS.items()
            }
            assert found == dict.fromkeys(WAYS, 401)


class TestThreatStolenBoundToken:
    @pytest.fixture
    def prover(self):
        return ProofMaker()

    @pytest.fixture
    def token(self, stack, person, prover):
        proof = prover("POST", f"{stack.url}/oauth/token")
        answer = person.sign_in(SCOPE, {"DPoP": proof})
        assert answer["token_type"] == "DPoP"
        return answer["access_token"]

    def ask(self, http, path, token, proof=None, scheme="DPoP"):
        headers = {"Authorization": f"{scheme} {token}"}
        if proof:
            headers["DPoP"] = proof
        return http.get(path, headers=headers)

    @pytest.mark.parametrize("path", WAYS.values(), ids=WAYS)
    def test_opens_nothing_without_the_key(self, stack, http, token, prover, path):
        def proof(prover=prover, url=f"{stack.url}{path}", token=token):
            return prover("GET", url, token)

        used = proof()

        assert self.ask(http, path, token, used).status_code == 200
        for refused in (
            self.ask(http, path, token, used),
            self.ask(http, path, token),
            self.ask(http, path, token, scheme="Bearer"),
            self.ask(http, path, token, proof(), scheme="Bearer"),
            self.ask(http, path, token, proof(ProofMaker())),
            self.ask(http, path, token, proof(url=f"{stack.url}/other")),
            self.ask(http, path, token, proof(token="another")),
        ):
            assert refused.status_code == 401
            assert refused.headers["WWW-Authenticate"].startswith("DPoP ")
