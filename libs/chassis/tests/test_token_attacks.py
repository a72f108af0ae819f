"""What attackers send as access tokens: all of it is a 401 and none of it a 5xx.

Each case is one of the public attacks on JOSE libraries or a confusion of tokens.
"""

import base64
import hashlib
import hmac
import json
import time

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jwt.utils import base64url_encode

from flagon_chassis import auth, web
from flagon_chassis.settings import ServiceSettings
from flagon_chassis.testing import ISSUER, TokenMaker

ES256 = pyjwt.get_algorithm_by_name("ES256")
# The order of the curve P-256.
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def make_app(jwks):
    options = ServiceSettings(environment="testing", secret_key="s" * 40)
    app = web.create_app(__name__, options, name="things", openapi=False)
    auth.init_app(app, issuer=ISSUER, jwks=jwks)
    app.add_url_rule("/", "thing", auth.requires("things:read")(dict))
    app.add_url_rule("/any", "any", auth.requires()(dict))
    return app


@pytest.fixture(scope="module")
def client(bearer):
    return make_app(bearer.jwks).test_client()


@pytest.fixture
def refused(client):
    """A function that sends a token and asserts that it opens nothing."""

    def check(token):
        answer = client.get("/", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401
        assert answer.mimetype == "application/problem+json"
        assert answer.headers["WWW-Authenticate"].startswith(
            'Bearer realm="flagon-api", error="invalid_token", error_description="'
        )
        assert answer.json["status"] == 401

    return check


def encode(value):
    return base64url_encode(
        value if isinstance(value, bytes) else json.dumps(value).encode()
    )


def claims(**changes):
    now = int(time.time())
    good = {
        "iss": ISSUER,
        "aud": "flagon-api",
        "sub": "ada",
        "client_id": "web",
        "scope": "things:read",
        "roles": [],
        "sid": "session",
        "gid": "grant",
        "jti": "id",
        "iat": now,
        "exp": now + 300,
    }
    return {name: v for name, v in {**good, **changes}.items() if v is not MISSING}


MISSING = object()


def make(bearer, header=None, body=None, sign=None):
    """Return a token signed by auth's own key unless `sign` says otherwise."""
    head = {"typ": "at+jwt", "alg": "ES256", "kid": bearer.kid, **(header or {})}
    head = {name: value for name, value in head.items() if value is not MISSING}
    signed = encode(head) + b"." + encode(claims() if body is None else body)
    signature = sign(signed) if sign else ES256.sign(signed, bearer.key)
    return (signed + b"." + base64url_encode(signature)).decode()


def public_pem(bearer):
    return bearer.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def hmac_of(secret, name="sha256"):
    return lambda text: hmac.digest(secret, text, name)


class TestBaseline:
    def test_the_token_from_which_all_others_are_made_is_good(self, client, bearer):
        headers = {"Authorization": f"Bearer {make(bearer)}"}

        assert client.get("/", headers=headers).status_code == 200


def stranger(text):
    return ES256.sign(text, ec.generate_private_key(ec.SECP256R1()))


def stranger_jwk():
    key = ec.generate_private_key(ec.SECP256R1())
    jwk = pyjwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return key, {**jwk, "alg": "ES256", "use": "sig", "kid": "mine"}


KEY, JWK = stranger_jwk()


def by_stranger(text):
    return ES256.sign(text, KEY)


ATTACKS = {
    # -- algorithms -----------------------------------------------------------------
    "alg none": lambda b: make(b, {"alg": "none"}, sign=lambda _t: b""),
    "alg None": lambda b: make(b, {"alg": "None"}, sign=lambda _t: b""),
    "alg NONE": lambda b: make(b, {"alg": "NONE"}, sign=lambda _t: b""),
    "alg nOnE with a signature": lambda b: make(b, {"alg": "nOnE"}),
    "alg missing": lambda b: make(b, {"alg": MISSING}),
    "alg null": lambda b: make(b, {"alg": None}),
    "alg empty": lambda b: make(b, {"alg": ""}),
    "alg is a list": lambda b: make(b, {"alg": ["ES256"]}),
    "alg lower case": lambda b: make(b, {"alg": "es256"}),
    "HS256 keyed with the public PEM": lambda b: make(
        b, {"alg": "HS256"}, sign=hmac_of(public_pem(b))
    ),
    "HS256 keyed with the JWK": lambda b: make(
        b, {"alg": "HS256"}, sign=hmac_of(json.dumps(b.jwks()["keys"][0]).encode())
    ),
    "HS256 keyed with nothing": lambda b: make(b, {"alg": "HS256"}, sign=hmac_of(b"")),
    "HS384": lambda b: make(b, {"alg": "HS384"}, sign=hmac_of(b"k", "sha384")),
    "HS512": lambda b: make(b, {"alg": "HS512"}, sign=hmac_of(b"k", "sha512")),
    "RS256 with the kid of an EC key": lambda b: make(b, {"alg": "RS256"}, sign=rs256),
    "PS256": lambda b: make(b, {"alg": "PS256"}, sign=rs256),
    "ES384": lambda b: make(b, {"alg": "ES384"}, sign=es384),
    "ES512": lambda b: make(b, {"alg": "ES512"}),
    "ES256K": lambda b: make(b, {"alg": "ES256K"}),
    "EdDSA": lambda b: make(
        b, {"alg": "EdDSA"}, sign=ed25519.Ed25519PrivateKey.generate().sign
    ),
    "encryption instead of a signature": lambda b: make(
        b, {"alg": "RSA-OAEP", "enc": "A256GCM"}
    ),
    # -- signatures ------------------------------------------------------------------
    "psychic signature, r and s zero": lambda b: make(b, sign=lambda _t: bytes(64)),
    "r and s the curve's order": lambda b: make(
        b, sign=lambda _t: N.to_bytes(32) + N.to_bytes(32)
    ),
    "signature empty": lambda b: make(b, sign=lambda _t: b""),
    "signature too short": lambda b: make(b, sign=lambda _t: bytes(63)),
    "signature too long": lambda b: make(b, sign=lambda t: ES256.sign(t, b.key) + b"0"),
    "signature as DER": lambda b: make(
        b, sign=lambda t: b.key.sign(t, ec.ECDSA(hashes.SHA256()))
    ),
    "signature of zeros as DER": lambda b: make(
        b, sign=lambda _t: encode_dss_signature(0, 0)
    ),
    "signed by somebody else": lambda b: make(b, sign=stranger),
    "signature of another token": lambda b: make(
        b, body=claims(sub="root"), sign=lambda _t: signature_of(make(b))
    ),
    "signature left out": lambda b: make(b).rsplit(".", 1)[0] + ".",
    "only two parts": lambda b: make(b).rsplit(".", 1)[0],
    "five parts, as if encrypted": lambda b: make(b) + ".a.b",
    # -- where the key is ------------------------------------------------------------
    "own key in jwk": lambda b: make(b, {"jwk": JWK, "kid": "mine"}, sign=by_stranger),
    "own key in jwk, kid of auth": lambda b: make(b, {"jwk": JWK}, sign=by_stranger),
    "own key at jku": lambda b: make(
        b, {"jku": "http://127.0.0.1:1/keys", "kid": "mine"}, sign=by_stranger
    ),
    "jku with a good signature": lambda b: make(b, {"jku": f"{ISSUER}/keys"}),
    "own certificate at x5u": lambda b: make(
        b, {"x5u": "http://127.0.0.1:1/cert.pem", "kid": "mine"}, sign=by_stranger
    ),
    "x5u with a good signature": lambda b: make(b, {"x5u": "https://else.test/c.pem"}),
    "own certificate in x5c": lambda b: make(
        b, {"x5c": [base64.b64encode(b"cert").decode()]}, sign=by_stranger
    ),
    "kid unknown": lambda b: make(b, {"kid": "nobody"}),
    "kid missing": lambda b: make(b, {"kid": MISSING}),
    "kid a number": lambda b: make(b, {"kid": 0}),
    "kid a list": lambda b: make(b, {"kid": [b.kid]}),
    "kid an object": lambda b: make(b, {"kid": {"$ne": ""}}),
    "kid empty": lambda b: make(b, {"kid": ""}),
    "kid injects SQL": lambda b: make(
        b, {"kid": "' union select 'c2VjcmV0' --"}, sign=hmac_of(b"secret")
    ),
    "kid climbs folders": lambda b: make(
        b, {"kid": "../../../../dev/null", "alg": "HS256"}, sign=hmac_of(b"")
    ),
    "kid runs a command": lambda b: make(b, {"kid": "|/bin/true"}, sign=hmac_of(b"")),
    "kid with NUL": lambda b: make(b, {"kid": f"{b.kid}\0"}),
    "kid of 4 KiB": lambda b: make(b, {"kid": "k" * 4096}),
    # -- what the header says besides ------------------------------------------------
    "crit unknown": lambda b: make(b, {"crit": ["exp2"], "exp2": 1}),
    "crit empty": lambda b: make(b, {"crit": []}),
    "crit names a known claim": lambda b: make(b, {"crit": ["exp"], "exp": 1}),
    "payload not encoded (b64)": lambda b: make(b, {"b64": False, "crit": ["b64"]}),
    "b64 false without crit": lambda b: make(b, {"b64": False}),
    "compressed (zip)": lambda b: make(b, {"zip": "DEF"}),
    # -- other tokens of ours --------------------------------------------------------
    "ID token": lambda b: make(b, {"typ": "JWT"}, claims(aud="web", client_id=MISSING)),
    "ID token for the API's audience": lambda b: make(b, {"typ": "JWT"}),
    "logout token": lambda b: make(b, {"typ": "logout+jwt"}),
    "DPoP proof": lambda b: make(b, {"typ": "dpop+jwt", "jwk": JWK}, sign=by_stranger),
    "client assertion": lambda b: make(b, {"typ": "client-authentication+jwt"}),
    "security event": lambda b: make(b, {"typ": "secevent+jwt"}),
    "typ missing": lambda b: make(b, {"typ": MISSING}),
    "typ a number": lambda b: make(b, {"typ": 5}),
    "typ null": lambda b: make(b, {"typ": None}),
    "typ with a suffix": lambda b: make(b, {"typ": "at+jwt; v=1"}),
    "refresh token": lambda _b: base64.urlsafe_b64encode(bytes(32)).decode(),
    # -- claims ----------------------------------------------------------------------
    "expired": lambda b: make(b, body=claims(exp=int(time.time()) - 6)),
    "never expires": lambda b: make(b, body=claims(exp=MISSING)),
    "expires at null": lambda b: make(b, body=claims(exp=None)),
    "expires at a word": lambda b: make(b, body=claims(exp="tomorrow")),
    "expires at a number in quotes": lambda b: make(b, body=claims(exp="9999999999")),
    "expires at true": lambda b: make(b, body=claims(exp=True)),
    "expires at infinity": lambda b: make(b, body=raw_claims(exp="1e999")),
    "expires at not a number": lambda b: make(b, body=raw_claims(exp="NaN")),
    "not yet valid": lambda b: make(b, body=claims(nbf=int(time.time()) + 60)),
    "nbf a word": lambda b: make(b, body=claims(nbf="soon")),
    "nbf infinity": lambda b: make(b, body=raw_claims(nbf="1e999")),
    "from the future": lambda b: make(b, body=claims(iat=int(time.time()) + 60)),
    "iat missing": lambda b: make(b, body=claims(iat=MISSING)),
    "iat infinity": lambda b: make(b, body=raw_claims(iat="1e999")),
    "jti missing": lambda b: make(b, body=claims(jti=MISSING)),
    "jti a number": lambda b: make(b, body=claims(jti=7)),
    "client_id missing": lambda b: make(b, body=claims(client_id=MISSING)),
    "client_id a list": lambda b: make(b, body=claims(client_id=["web"])),
    "sub missing": lambda b: make(b, body=claims(sub=MISSING)),
    "sub a number": lambda b: make(b, body=claims(sub=1)),
    "sub null": lambda b: make(b, body=claims(sub=None)),
    "sid a number": lambda b: make(b, body=claims(sid=1)),
    "gid a list": lambda b: make(b, body=claims(gid=["g"])),
    "scope a list": lambda b: make(b, body=claims(scope=["things:read"])),
    "roles a word": lambda b: make(b, body=claims(roles="admin")),
    "roles of numbers": lambda b: make(b, body=claims(roles=[1])),
    "cnf a word": lambda b: make(b, body=claims(cnf="jkt")),
    "cnf bound to a certificate": lambda b: make(
        b, body=claims(cnf={"x5t#S256": "thumbprint"})
    ),
    "cnf jkt a number": lambda b: make(b, body=claims(cnf={"jkt": 1})),
    "another issuer": lambda b: make(b, body=claims(iss="https://evil.test")),
    "issuer with a slash": lambda b: make(b, body=claims(iss=f"{ISSUER}/")),
    "issuer missing": lambda b: make(b, body=claims(iss=MISSING)),
    "issuer a list": lambda b: make(b, body=claims(iss=[ISSUER])),
    "another audience": lambda b: make(b, body=claims(aud="web")),
    "audience missing": lambda b: make(b, body=claims(aud=MISSING)),
    "audience an object": lambda b: make(b, body=claims(aud={"flagon-api": 1})),
    "audience of numbers": lambda b: make(b, body=claims(aud=[1])),
    # -- shapes ------------------------------------------------------------------------
    "payload a list": lambda b: make(b, body=[1, 2]),
    "payload a word": lambda b: make(b, body="claims"),
    "payload no JSON": lambda b: make(b, body=b"{"),
    "payload no UTF-8": lambda b: make(b, body=b'{"sub": "\xff"}'),
    "payload empty": lambda b: make(b, body=b""),
    "payload of nested lists": lambda b: make(b, body=b"[" * 2500),
    "header of nested objects": lambda b: f"{nested(2000)}.{'e30'}.{'AAAA'}",
    "header a list": lambda _b: "W10.e30.AAAA",
    "header no UTF-8": lambda _b: f"{encode(bytes([255])).decode()}.e30.AAAA",
    "header of a huge number": lambda _b: (
        encode(b'{"kid":' + b"9" * 5000 + b"}").decode() + ".e30.AAAA"
    ),
    "padded base64": lambda b: make(b).replace(".", "=.", 1),
    "standard base64 alphabet": lambda b: (
        make(b).replace("-", "+").replace("_", "/") + "+"
    ),
    "line break inside": lambda b: make(b).replace(".", ".\t", 1),
    "not ASCII": lambda b: make(b)[:-1] + "é",
    "full width letters": lambda b: make(b)[:-1] + "Ａ",
    "empty": lambda _b: "",
    "dots alone": lambda _b: "..",
    "longer than 8 KiB": lambda b: make(b, body=claims(pad="x" * 8192)),
    "two tokens": lambda b: f"{make(b)} {make(b)}",
    "two tokens with a comma": lambda b: f"{make(b)}, Bearer {make(b)}",
}


def raw_claims(**raw):
    """Claims with numbers that Python would not write."""
    marks = {name: f"<{name}>" for name in raw}
    body = json.dumps(claims(**marks))
    for name, number in raw.items():
        body = body.replace(f'"<{name}>"', number)
    return body.encode()


def nested(depth):
    return encode(b'{"a":' * depth + b"1" + b"}" * depth).decode()


def signature_of(token):
    part = token.rsplit(".", 1)[1]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def rs256(text):
    key = rsa.generate_private_key(65537, 2048)
    return key.sign(text, padding.PKCS1v15(), hashes.SHA256())


def es384(text):
    return pyjwt.get_algorithm_by_name("ES384").sign(
        text, ec.generate_private_key(ec.SECP384R1())
    )


class TestAttack:
    @pytest.mark.parametrize("name", ATTACKS)
    def test_is_refused(self, refused, bearer, name):
        refused(ATTACKS[name](bearer))

    def test_by_another_character_of_the_same_bytes_is_not_a_second_token(
        self, client, bearer
    ):
        # Base64 has several spellings for one value: a denylist of texts misses them.
        token = make(bearer)
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        twin = token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]

        assert signature_of(twin) == signature_of(token)
        headers = {"Authorization": f"Bearer {twin}"}
        assert client.get("/", headers=headers).status_code == 401

    @pytest.mark.parametrize(
        "header",
        [
            "Basic YTpi",
            "Bearer",
            "Bearer ",
            "",
            " ",
            ",",
            "Token x",
            "Bearer\tx.y.z",
            "Basic YTpi, Bearer {token}",
            "{token}",
            "BearerX {token}",
        ],
    )
    def test_by_the_header_is_refused(self, client, bearer, header):
        sent = header.format(token=make(bearer))

        answer = client.get("/", headers={"Authorization": sent})

        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer realm=")

    def test_the_scheme_may_be_written_in_any_case(self, client, bearer):
        # RFC 9110 section 11.1.
        for scheme in ("bearer", "BEARER", "Bearer"):
            headers = {"Authorization": f"{scheme} {make(bearer)}"}
            assert client.get("/", headers=headers).status_code == 200

    def test_no_scope_asked_still_needs_a_token(self, client):
        assert client.get("/any").status_code == 401

    def test_scope_of_another_name_that_begins_alike_is_refused(self, client, bearer):
        for scope in ("things", "things:read:all", "xthings:read", ""):
            token = make(bearer, body=claims(scope=scope))
            answer = client.get("/", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == 403
            assert answer.headers["WWW-Authenticate"] == (
                'Bearer realm="flagon-api", error="insufficient_scope",'
                ' error_description="The scope things:read is needed.",'
                ' scope="things:read"'
            )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.text(max_size=8), children, max_size=3)
    ),
    max_leaves=5,
)
FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
HEADER_NAMES = st.sampled_from(
    [
        "typ",
        "alg",
        "kid",
        "crit",
        "jwk",
        "b64",
        "cty",
        "x5t",
        "x5t#S256",
        "zip",
        "nonce",
    ]
)
CLAIM_NAMES = st.sampled_from(
    [
        *("iss", "aud", "sub", "exp", "iat", "nbf", "jti", "client_id", "scope"),
        *("roles", "sid", "gid", "cnf", "type", "fresh", "csrf", "auth_time", "acr"),
    ]
)


class TestFuzz:
    @FUZZ
    @given(header=st.dictionaries(HEADER_NAMES | st.text(max_size=8), JSON, max_size=4))
    def test_no_header_is_a_5xx(self, client, bearer, header):
        token = make(bearer, header)

        answer = client.get("/", headers={"Authorization": f"Bearer {token}"})

        assert answer.status_code in {200, 401}

    @FUZZ
    @given(changes=st.dictionaries(CLAIM_NAMES | st.text(max_size=8), JSON, max_size=4))
    @example(changes={"sub": "\ud800"})
    def test_no_claim_is_a_5xx_even_when_auth_signed_it(self, client, bearer, changes):
        token = make(bearer, body=claims(**changes))

        answer = client.get("/", headers={"Authorization": f"Bearer {token}"})

        assert answer.status_code in {200, 401, 403}

    @FUZZ
    @given(parts=st.lists(st.binary(max_size=200), min_size=1, max_size=5))
    def test_no_bytes_are_a_5xx(self, client, parts):
        token = ".".join(encode(part).decode() for part in parts)

        answer = client.get("/", headers={"Authorization": f"Bearer {token}"})

        assert answer.status_code == 401

    @FUZZ
    @given(
        text=st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=99)
    )
    def test_no_header_line_is_a_5xx(self, client, text):
        answer = client.get("/", headers={"Authorization": text})

        assert answer.status_code == 401

    @FUZZ
    @given(
        where=st.integers(min_value=0, max_value=10_000),
        bit=st.integers(min_value=0, max_value=6),
    )
    def test_no_flipped_bit_goes_unnoticed(self, client, bearer, where, bit):
        token = make(bearer)
        place = where % len(token)
        flipped = chr(ord(token[place]) ^ (1 << bit))

        changed = token[:place] + flipped + token[place + 1 :]
        if flipped in "\r\n" or (place == len(token) - 1 and flipped.isspace()):
            return
        answer = client.get("/", headers={"Authorization": f"Bearer {changed}"})

        assert answer.status_code == 401


class TestMemory:
    """A token that was found good is not checked again, and still not believed blindly."""

    def test_does_not_hold_the_token(self, client, bearer):
        token = make(bearer)
        client.get("/", headers={"Authorization": f"Bearer {token}"})

        held = client.application.extensions["flagon.proofs"]._proofs

        assert hashlib.sha256(token.encode()).digest() in held
        assert token not in held

    def test_forgets_the_oldest(self, client, bearer, monkeypatch):
        monkeypatch.setattr(auth, "_MOST_REMEMBERED", 2)
        memory = auth._Memory()

        for name in "abc":
            memory.put(name, name)

        assert [memory.get(name) for name in "abc"] == [None, "b", "c"]

    def test_notices_that_the_token_expires(self, client, bearer, monkeypatch):
        token = make(bearer, body=claims(exp=int(time.time()) + 60))
        headers = {"Authorization": f"Bearer {token}"}
        assert client.get("/", headers=headers).status_code == 200

        now = time.time()
        monkeypatch.setattr(auth.time, "time", lambda: now + 61)

        # A few seconds are allowed for clocks that differ; the library looks again.
        assert client.get("/", headers=headers).status_code in {200, 401}

    def test_notices_that_the_key_is_gone(self, bearer):
        published = [bearer.jwks()]
        app = make_app(lambda: published[-1])
        headers = {"Authorization": f"Bearer {make(bearer)}"}
        assert app.test_client().get("/", headers=headers).status_code == 200

        published.append(TokenMaker().jwks())
        app.extensions["flagon.keys"]._refetch()

        assert app.test_client().get("/", headers=headers).status_code == 401
