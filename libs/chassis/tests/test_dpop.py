"""Proofs of possession, read alone; `test_auth` has what a service does with them."""

import json
import time

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.utils import base64url_encode

from flagon_chassis import dpop
from flagon_chassis.dpop import ProofInvalid

URL = "https://shop.test/api/v1/things"


def check(proof, **changes):
    asked = {"method": "GET", "url": URL, "now": time.time(), **changes}
    return dpop.check(proof, **asked)


def signed(prover, header, payload):
    """Return a proof that no library would make."""
    body = b".".join(base64url_encode(part) for part in (header, payload))
    es256 = pyjwt.get_algorithm_by_name("ES256")
    return (body + b"." + base64url_encode(es256.sign(body, prover.key))).decode()


class TestCheck:
    def test_returns_the_key_and_the_id(self, prover):
        proof = check(prover("GET", URL, jti="one"))

        assert (proof.jkt, proof.jti) == (prover.jkt, "one")

    def test_knows_the_thumbprint_of_rfc_7638(self):
        # The key of the document's section 3.1.
        modulus = (
            "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1"
            "L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4"
            "QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbO"
            "pbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csF"
            "Cur-kEgU8awapJzKnqDKgw"
        )

        found = dpop.thumbprint({"kty": "RSA", "n": modulus, "e": "AQAB"})

        assert found == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"

    @pytest.mark.parametrize("alg", ["RS256", "PS256", "EdDSA", "Ed25519"])
    def test_takes_the_other_algorithms(self, prover, alg):
        if alg.startswith("Ed"):
            key = ed25519.Ed25519PrivateKey.generate()
            jwk = pyjwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
        else:
            key = rsa.generate_private_key(65537, 2048)
            jwk = pyjwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        claims = pyjwt.decode(prover("GET", URL), options={"verify_signature": False})

        library = pyjwt.PyJWS()
        library.register_algorithm("Ed25519", pyjwt.get_algorithm_by_name("EdDSA"))
        head = {"typ": "dpop+jwt", "jwk": jwk}
        proof = check(library.encode(json.dumps(claims).encode(), key, alg, head))

        assert proof.jkt == dpop.thumbprint(jwk)

    @pytest.mark.parametrize(
        "htu",
        [
            URL + "?page=2#top",
            "HTTPS://SHOP.test:443/api/v1/things",
            "https://shop.test/api/v1/%74hings",
        ],
    )
    def test_compares_addresses_not_spellings(self, prover, htu):
        assert check(prover("GET", htu))

    @pytest.mark.parametrize(
        "htu",
        [
            "http://shop.test/api/v1/things",
            "https://evil.test/api/v1/things",
            "https://shop.test:8443/api/v1/things",
            "https://shop.test/api/v1/things/",
            "https://shop.test/API/v1/things",
            "https://shop.test:port/api/v1/things",
            "https://[::1/",
            "/api/v1/things",
            "",
            None,
            7,
        ],
    )
    def test_refuses_another_address(self, prover, htu):
        with pytest.raises(ProofInvalid, match="htu"):
            check(prover("GET", URL, htu=htu))

    @pytest.mark.parametrize("htm", ["POST", "get", "", None, 7])
    def test_refuses_another_method(self, prover, htm):
        with pytest.raises(ProofInvalid, match="htm"):
            check(prover("GET", URL, htm=htm))

    @pytest.mark.parametrize("age", [61, -11, 3600, -3600])
    def test_refuses_an_old_one_and_one_of_tomorrow(self, prover, age):
        now = time.time()

        with pytest.raises(ProofInvalid, match="iat"):
            check(prover("GET", URL, iat=now - age), now=now)

    @pytest.mark.parametrize("age", [59, -9])
    def test_forgives_clocks_that_differ_a_little(self, prover, age):
        now = time.time()

        assert check(prover("GET", URL, iat=now - age), now=now)

    @pytest.mark.parametrize("iat", [None, "now", True, float("inf"), float("nan"), []])
    def test_refuses_a_time_that_is_none(self, prover, iat):
        with pytest.raises(ProofInvalid):
            check(prover("GET", URL, iat=iat))

    @pytest.mark.parametrize("jti", [None, "", 7, ["x"]])
    def test_refuses_one_without_an_id(self, prover, jti):
        with pytest.raises(ProofInvalid):
            check(prover("GET", URL, jti=jti))

    def test_is_for_one_token(self, prover):
        proof = prover("GET", URL, "the token")

        assert check(proof, access_token="the token")
        for token, ath in [("another", proof), ("the token", prover("GET", URL))]:
            with pytest.raises(ProofInvalid, match="ath"):
                check(ath, access_token=token)

    def test_ids_have_one_digest_each_whatever_they_hold(self, prover):
        odd = check(prover("GET", URL, jti="\ud800"))
        other = check(prover("GET", URL, jti="\ud801"))

        assert len(odd.digest) == 64
        assert odd.digest != other.digest

    @pytest.mark.parametrize(
        "header",
        [
            {"typ": "JWT"},
            {"typ": None},
            {"jwk": None},
            {"jwk": "key"},
            {"jwk": {}},
            {"jwk": {"kty": "EC", "crv": "P-256"}},
            {"jwk": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}},
            {"jwk": {"kty": "EC", "crv": "P-256", "x": "!", "y": "ü"}},
            {"jwk": {"kty": "EC", "crv": "P-256", "x": 1, "y": 2}},
            {"jwk": {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}},
            {"jwk": {"kty": "oct", "k": "AA"}},
            {"jwk": {"kty": ["EC"]}},
            {"crit": ["b64"], "b64": False},
        ],
    )
    def test_refuses_headers_that_are_not_a_proofs(self, prover, header):
        with pytest.raises(ProofInvalid):
            check(prover("GET", URL, header=header))

    def test_refuses_a_private_key(self, prover):
        jwk = pyjwt.algorithms.ECAlgorithm.to_jwk(prover.key, as_dict=True)

        with pytest.raises(ProofInvalid, match="public"):
            check(prover("GET", URL, header={"jwk": jwk}))

    def test_refuses_the_signature_of_another_key(self, prover):
        other = ec.generate_private_key(ec.SECP256R1()).public_key()
        jwk = pyjwt.algorithms.ECAlgorithm.to_jwk(other, as_dict=True)

        with pytest.raises(ProofInvalid):
            check(prover("GET", URL, header={"jwk": jwk}))

    @pytest.mark.parametrize("alg", ["none", "HS256", "ES512", "RS256", 5, None])
    def test_refuses_algorithms_that_do_not_fit(self, prover, alg):
        header = {"typ": "dpop+jwt", "alg": alg, "jwk": prover.jwk}
        claims = pyjwt.decode(prover("GET", URL), options={"verify_signature": False})

        with pytest.raises(ProofInvalid):
            check(
                signed(prover, json.dumps(header).encode(), json.dumps(claims).encode())
            )

    @pytest.mark.parametrize("bits", [1024, 16384])
    def test_refuses_rsa_keys_that_are_weak_or_dear(self, prover, bits):
        jwk = {"kty": "RSA", "e": "AQAB", "n": "x" * (bits // 6)}

        header = json.dumps({"typ": "dpop+jwt", "alg": "RS256", "jwk": jwk}).encode()

        with pytest.raises(ProofInvalid, match="bits"):
            check(signed(prover, header, b"{}"))

    @pytest.mark.parametrize(
        "proof", ["", "a.b", "a.b.c", "a.b.c.d", "a.b.c, a.b.c", "ü.b.c", "x" * 9000]
    )
    def test_refuses_what_is_no_jws(self, proof):
        with pytest.raises(ProofInvalid):
            check(proof)

    @pytest.mark.parametrize("text", [b"[" * 4000, b"[]", b"{", b"\xff", b"7"])
    @pytest.mark.parametrize("part", ["header", "payload"])
    def test_refuses_json_that_is_no_object(self, prover, text, part):
        header = json.dumps({"typ": "dpop+jwt", "alg": "ES256", "jwk": prover.jwk})
        parts = {"header": header.encode(), "payload": b"{}", part: text}

        with pytest.raises(ProofInvalid):
            check(signed(prover, parts["header"], parts["payload"]))
