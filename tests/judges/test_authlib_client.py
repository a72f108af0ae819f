"""Authlib's client, which shares no code with our provider, against a running auth."""

import re
from html import unescape
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2
import pytest
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.httpx_client import OAuth2Client
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

VERIFIER = "v" * 64
SCOPE = "openid profile email offline_access reviews:write"


class Person:
    """Somebody with a browser."""

    def __init__(self, provider):
        self.provider = provider
        self.http = httpx2.Client(headers={"Accept": "text/html"})

    def go(self, url, data=None):
        """Follow redirects to a page of the provider or to an address elsewhere."""
        for _ in range(10):
            if not url.startswith(self.provider.issuer):
                return url, None
            method = "POST" if data else "GET"
            answer = self.http.request(method, url, data=data)
            if "Location" not in answer.headers:
                return url, answer.text
            url, data = urljoin(url, answer.headers["Location"]), None
        pytest.fail("redirects without an end")

    def submit(self, page, holding, **typed):
        url, text = page
        forms = re.findall(r"<form.*?</form>", text, re.DOTALL)
        form = next(one for one in forms if holding in one)
        fields = {
            re.search(r'name="([^"]*)"', tag)[1]: unescape(
                re.search(r'value="([^"]*)"', tag)[1]
            )
            for tag in re.findall(r'<input[^>]*type="hidden"[^>]*>', form)
        }
        action = unescape(re.search(r'action="([^"]*)"', form)[1])
        return self.go(urljoin(url, action), {**fields, **typed})

    def sign_in(self, url):
        page = self.go(url)
        if page[1] is None:
            return page[0]
        return self.submit(
            page,
            'type="password"',
            email=self.provider.email,
            password=self.provider.password,
        )[0]


@pytest.fixture(scope="module")
def metadata(provider):
    found = httpx2.get(f"{provider.issuer}/.well-known/openid-configuration").json()
    assert found["issuer"] == provider.issuer
    return found


@pytest.fixture(scope="module")
def keys(metadata):
    return KeySet.import_key_set(httpx2.get(metadata["jwks_uri"]).json())


@pytest.fixture
def person(provider):
    found = Person(provider)
    yield found
    found.http.close()


@pytest.fixture
def make(provider):
    made = []

    def client(name, **changes):
        made.append(
            OAuth2Client(
                client_id=name,
                **{
                    "client_secret": provider.secret,
                    "scope": SCOPE,
                    "redirect_uri": provider.callback,
                    "code_challenge_method": "S256",
                    "revocation_endpoint_auth_method": "client_secret_basic",
                    **changes,
                },
            )
        )
        return made[-1]

    yield client
    for one in made:
        one.close()


def sign_in(client, metadata, person, **parameters):
    url, state = client.create_authorization_url(
        metadata["authorization_endpoint"], code_verifier=VERIFIER, **parameters
    )
    back = person.sign_in(url)
    assert parse_qs(urlsplit(back).query)["iss"] == [metadata["issuer"]]
    return client.fetch_token(
        metadata["token_endpoint"],
        authorization_response=back,
        state=state,
        code_verifier=VERIFIER,
    )


def claims_of(token, keys, metadata, client_id, nonce, alg="RS256"):
    found = jwt.decode(token["id_token"], keys, algorithms=[alg])
    claims = CodeIDToken(
        found.claims,
        found.header,
        options={
            "iss": {"essential": True, "value": metadata["issuer"]},
            "aud": {"essential": True, "value": client_id},
        },
        params={
            "nonce": nonce,
            "client_id": client_id,
            "access_token": token["access_token"],
        },
    )
    claims.validate()
    return claims


class TestAuthlibClient:
    def test_signs_in_with_code_and_pkce(self, make, person, provider, metadata, keys):
        client = make("basic", token_endpoint_auth_method="client_secret_basic")

        token = sign_in(client, metadata, person, nonce="n-1", max_age="600")

        claims = claims_of(token, keys, metadata, "basic", "n-1")
        assert claims["email"] == provider.email
        assert claims["auth_time"]

    def test_reads_an_id_token_by_es256(self, make, person, provider, metadata, keys):
        client = make("curve", token_endpoint_auth_method="client_secret_basic")

        token = sign_in(client, metadata, person, nonce="n")

        assert claims_of(token, keys, metadata, "curve", "n", "ES256")["sub"]

    def test_authenticates_in_the_body(self, make, person, provider, metadata):
        client = make("post", token_endpoint_auth_method="client_secret_post")

        assert sign_in(client, metadata, person)["access_token"]

    def test_authenticates_by_nothing(self, make, person, provider, metadata):
        client = make("public", client_secret=None, token_endpoint_auth_method="none")

        assert sign_in(client, metadata, person)["access_token"]

    def test_authenticates_by_its_key(self, make, person, provider, metadata):
        key = ECKey.import_key(provider.private_jwk)
        client = make(
            "signs",
            client_secret=key,
            token_endpoint_auth_method=PrivateKeyJWT(
                metadata["token_endpoint"], alg="ES256", headers={"kid": "judge"}
            ),
        )

        assert sign_in(client, metadata, person)["access_token"]
        own = client.fetch_token(
            metadata["token_endpoint"], grant_type="client_credentials"
        )
        assert own["token_type"] == "Bearer"

    def test_asks_for_user_info(self, make, person, provider, metadata):
        client = make("basic", token_endpoint_auth_method="client_secret_basic")
        sign_in(client, metadata, person)

        got = client.get(metadata["userinfo_endpoint"]).json()
        posted = client.post(metadata["userinfo_endpoint"]).json()

        assert got == posted
        assert got["email"] == provider.email

    def test_refreshes_and_a_reuse_ends_it_all(self, make, person, provider, metadata):
        client = make("basic", token_endpoint_auth_method="client_secret_basic")
        first = sign_in(client, metadata, person)
        url = metadata["token_endpoint"]

        second = client.refresh_token(url, first["refresh_token"])
        assert second["refresh_token"] != first["refresh_token"]
        for old in (first, second):
            with pytest.raises(OAuthError, match="invalid_grant"):
                client.refresh_token(url, old["refresh_token"])
        client.token = second
        assert client.get(metadata["userinfo_endpoint"]).status_code == 401

    def test_introspects_and_revokes(self, make, person, provider, metadata):
        client = make("basic", token_endpoint_auth_method="client_secret_basic")
        token = sign_in(client, metadata, person)
        url = metadata["introspection_endpoint"]

        before = client.introspect_token(url, token["access_token"]).json()
        client.revoke_token(metadata["revocation_endpoint"], token["refresh_token"])
        after = client.introspect_token(url, token["access_token"]).json()

        assert before["active"] is True
        assert after == {"active": False}

    def test_signs_out(self, make, person, provider, metadata):
        client = make("basic", token_endpoint_auth_method="client_secret_basic")
        token = sign_in(client, metadata, person)
        asked = httpx2.QueryParams(
            id_token_hint=token["id_token"],
            post_logout_redirect_uri=provider.goodbye,
            state="bye",
        )

        url, _ = person.go(f"{metadata['end_session_endpoint']}?{asked}")

        assert url == f"{provider.goodbye}?state=bye"
        silent, _ = client.create_authorization_url(
            metadata["authorization_endpoint"], code_verifier=VERIFIER, prompt="none"
        )
        back = parse_qs(urlsplit(person.sign_in(silent)).query)
        assert back["error"] == ["login_required"]
