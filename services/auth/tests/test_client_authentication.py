"""How clients prove who they are: exactly as they are registered, and how they change."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from sqlalchemy import text

from flagon_auth.domain import clients
from flagon_auth.domain.clients import ClientInvalid, Registration
from flagon_chassis import db

from .conftest import (
    CALLBACK,
    ISSUER,
    VERIFIER,
    basic,
    claims_of,
    header_of,
    query_of,
)
from .registering import (
    ASSERTION_TYPE,
    EC,
    RSA,
    SECRET,
    asserted,
    assertion,
    jwks,
    post,
    register,
)
from .test_commands import run


@pytest.fixture(autouse=True)
def clean(app):
    yield
    with app.app_context(), db.transaction() as session:
        session.execute(text("delete from client where name like 'Test%'"))
        session.execute(text("delete from used_proof"))


def ask(app, headers=None, path="/oauth/token", **form):
    return post(app, path, headers, grant_type="client_credentials", **form)


WAYS = {
    "client_secret_basic": lambda name: {"headers": basic(name, SECRET)},
    "client_secret_post": lambda name: {"client_id": name, "client_secret": SECRET},
    "private_key_jwt": asserted,
    "none": lambda name: {"client_id": name},
}


class TestMethod:
    """A client authenticates by the method it registered, and by no other."""

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("registered", clients.AUTH_METHODS)
    def test_is_the_registered_one(self, app, registered, way):
        secret = None if registered in {"private_key_jwt", "none"} else SECRET
        register(app, "m", token_endpoint_auth_method=registered, client_secret=secret)
        good = way == registered or (
            registered == "client_secret" and way.startswith(registered)
        )

        answer = ask(app, path="/oauth/revoke", token="x", **WAYS[way]("m"))

        assert answer.status_code == (200 if good else 401), answer.json
        if not good:
            assert answer.json["error"] == "invalid_client"

    def test_none_gets_no_token_of_its_own(self, app):
        register(app, "m", client_secret=None)

        assert ask(app, client_id="m").status_code == 401

    @pytest.mark.parametrize(
        "form",
        [
            {"client_secret": SECRET, "client_id": "m", **asserted("m")},
            {"client_secret": SECRET, "client_assertion_type": ASSERTION_TYPE},
        ],
    )
    def test_two_at_once_are_refused(self, app, form):
        register(app, "m")

        assert ask(app, **form).json["error"] == "invalid_request"
        by_header = ask(app, headers=basic("m", SECRET), **asserted("m"))
        assert by_header.json["error"] == "invalid_request"

    @pytest.mark.parametrize("method", ["client_secret_basic", "private_key_jwt"])
    def test_of_a_disabled_client_is_refused(self, app, ada, method):
        register(app, "m", token_endpoint_auth_method=method)
        with app.app_context(), db.transaction() as session:
            session.execute(text("update client set disabled = true where id = 'm'"))

        answer = ask(app, **WAYS[method]("m"))

        assert answer.status_code == 401
        assert ada.authorize(client_id="m").status_code == 400


class TestPrivateKeyJwt:
    @pytest.fixture(autouse=True)
    def client(self, app):
        register(app, "signer", token_endpoint_auth_method="private_key_jwt")

    @pytest.mark.parametrize(
        ("key", "alg"), [(EC, "ES256"), (RSA, "RS256"), (RSA, "PS256")]
    )
    def test_proves_the_client(self, app, key, alg):
        answer = ask(app, **asserted("signer", key=key, alg=alg))

        assert answer.status_code == 200
        assert claims_of(answer.json["access_token"])["sub"] == "signer"

    @pytest.mark.parametrize(
        "audience",
        [
            ISSUER,
            f"{ISSUER}/oauth/token",
            [ISSUER],
            [ISSUER, f"{ISSUER}/oauth/token"],
        ],
    )
    def test_is_for_us(self, app, audience):
        assert ask(app, **asserted("signer", aud=audience)).status_code == 200

    def test_may_be_for_the_very_endpoint(self, app):
        for path in ("/oauth/revoke", "/oauth/introspect"):
            form = asserted("signer", aud=ISSUER + path)
            assert post(app, path, token="x", **form).status_code == 200

    @pytest.mark.parametrize(
        "claims",
        [
            {"aud": "https://other.test"},
            {"aud": [ISSUER, "https://other.test"]},
            {"aud": []},
            {"aud": None},
            {"aud": {ISSUER: 1}},
            {"aud": ISSUER + "/"},
            {"aud": f"{ISSUER}/oauth/revoke"},
            {"iss": "web"},
            {"iss": None},
            {"jti": None},
            {"jti": ""},
            {"jti": 7},
            {"exp": None},
            {"exp": "soon"},
            {"exp": int(time.time()) - 60},
            {"exp": int(time.time()) + 86_400},
            {"exp": float("nan")},
            {"exp": float("inf")},
            {"nbf": int(time.time()) + 3600},
            {"nbf": "x"},
            {"iat": int(time.time()) + 3600},
        ],
    )
    def test_that_does_not_fit_is_refused(self, app, claims):
        answer = ask(app, **asserted("signer", **claims))

        assert answer.status_code == 401
        assert answer.json["error"] == "invalid_client"

    def test_of_another_client_is_refused(self, app):
        register(
            app,
            "another",
            token_endpoint_auth_method="private_key_jwt",
            jwks=jwks(ECKey.generate_key("P-256", {"kid": "ec"})),
        )

        answer = ask(app, **asserted("another"))
        mixed = ask(app, client_id="another", **asserted("signer"))

        assert answer.status_code == 401
        assert mixed.json["error"] == "invalid_request"

    def test_for_a_client_without_keys_is_refused(self, app):
        assert ask(app, **asserted("web")).status_code == 401
        assert ask(app, **asserted("nobody")).status_code == 401

    @pytest.mark.parametrize(
        ("key", "alg", "header"),
        [
            (ECKey.generate_key("P-256", {"kid": "ec"}), "ES256", {}),
            (EC, "ES256", {"kid": "rsa"}),
            (EC, "ES256", {"kid": "unknown"}),
            (OctKey.import_key(b"k" * 64, {"kid": "ec"}), "HS256", {}),
        ],
    )
    def test_of_another_key_is_refused(self, app, key, alg, header):
        form = asserted("signer", key=key, alg=alg, header=header)

        assert ask(app, **form).status_code == 401

    def test_by_the_public_key_as_a_secret_is_refused(self, app):
        # The classic confusion: HMAC with what everybody knows.
        secret = OctKey.import_key(json.dumps(jwks(RSA)).encode(), {"kid": "rsa"})

        assert (
            ask(app, **asserted("signer", key=secret, alg="HS256")).status_code == 401
        )

    def test_needs_no_kid_when_the_key_can_be_found(self, app):
        assert ask(app, **asserted("signer", header={"kid": None})).status_code == 200

    def test_key_without_an_id_is_the_only_one(self, app):
        alone = ECKey.generate_key("P-256")
        register(
            app,
            "alone",
            token_endpoint_auth_method="private_key_jwt",
            jwks=jwks(alone),
        )

        form = asserted("alone", key=alone, header={"kid": "any"})

        assert ask(app, **form).status_code == 200

    def test_algorithm_that_the_key_is_not_for_is_refused(self, app):
        fixed = RSAKey.generate_key(2048, {"kid": "fixed", "alg": "PS256"})
        register(
            app,
            "fixed",
            token_endpoint_auth_method="private_key_jwt",
            jwks=jwks(fixed),
        )

        assert ask(app, **asserted("fixed", key=fixed, alg="PS256")).status_code == 200
        other = RSAKey.import_key(
            {**fixed.as_dict(private=True), "alg": "RS256"}, {"kid": "fixed"}
        )
        assert ask(app, **asserted("fixed", key=other, alg="RS256")).status_code == 401

    def test_replay_is_refused(self, app):
        form = asserted("signer")

        assert ask(app, **form).status_code == 200
        assert ask(app, **form).status_code == 401

    def test_replay_of_an_id_is_refused_whatever_else_it_says(self, app):
        first = asserted("signer", jti="same")
        second = asserted("signer", jti="same", key=RSA, alg="RS256")

        assert ask(app, **first).status_code == 200
        assert ask(app, **second).status_code == 401

    def test_succeeds_once_of_eight_at_once(self, app):
        form = asserted("signer")

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: ask(app, **form).status_code, range(8)))

        assert sorted(answers) == [200] + [401] * 7

    def test_is_remembered_as_a_hash_until_it_ends(self, app):
        ask(app, **asserted("signer", jti="readable-id"))

        with app.app_context(), db.transaction() as session:
            (row,) = session.execute(text("select digest, expires_at from used_proof"))
        left = (row.expires_at - datetime.now(UTC)).total_seconds()
        assert b"readable-id" not in bytes(row.digest)
        assert 60 <= left <= 75

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "x",
            "a.b.c",
            "..",
            "e30.e30.",
            "W10.W10.AA",
            "bnVsbA.bnVsbA.AA",
            "ü.ü.ü",
            # Deeply nested JSON, which exhausts a parser's stack.
            f"{'W1tb' * 900}.e30.AA",
            f"e30.{'W1tb' * 900}.AA",
        ],
    )
    def test_that_is_none_is_refused(self, app, value):
        form = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": value}

        assert ask(app, client_id="signer", **form).status_code in {400, 401}
        assert ask(app, **form).status_code in {400, 401}

    @pytest.mark.parametrize(
        "header", ["e30", "W10", "AA", "W1tb" * 900, "eyJhbGciOjV9", "!", ""]
    )
    def test_with_a_header_that_is_none_is_refused(self, app, header):
        _, body, signature = assertion("signer").split(".")
        form = {
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": f"{header}.{body}.{signature}",
        }

        assert ask(app, **form).status_code == 401

    def test_of_an_unknown_type_is_refused(self, app):
        form = {**asserted("signer"), "client_assertion_type": "urn:saml2"}

        assert ask(app, **form).json["error"] == "invalid_request"

    def test_with_a_critical_header_is_refused(self, app):
        form = asserted("signer", header={"crit": ["b64"], "b64": True})

        assert ask(app, **form).status_code == 401

    def test_redeems_codes(self, app, ada):
        code = ada.code(client_id="signer")

        answer = post(
            app,
            "/oauth/token",
            grant_type="authorization_code",
            code=code,
            redirect_uri=CALLBACK,
            code_verifier=VERIFIER,
            **asserted("signer"),
        )

        assert answer.status_code == 200


class TestKeys:
    """Which keys can be registered for assertions."""

    @pytest.mark.parametrize(
        "bad",
        [
            {},
            {"keys": []},
            {"keys": {}},
            {"keys": ["key"]},
            {"keys": [{"kty": "EC"}]},
            {"keys": [{"kty": "RSA", "e": "AQAB"}]},
            {"keys": [{"kty": "RSA", "e": "AQAB", "n": "x" * 171}]},
            {"keys": [EC.as_dict(private=True)]},
            {"keys": [{**EC.as_dict(private=False), "use": "enc"}]},
            {"keys": [{**EC.as_dict(private=False), "key_ops": ["sign"]}]},
            {"keys": [{**EC.as_dict(private=False), "alg": "RS256"}]},
            {"keys": [{**EC.as_dict(private=False), "kid": 7}]},
            {"keys": [{**EC.as_dict(private=False), "x": "AAAA"}]},
            {"keys": [EC.as_dict(private=False)] * 2},
            {"keys": [EC.as_dict(private=False), {**jwks(RSA)["keys"][0], "kid": ""}]},
            {"keys": [ECKey.generate_key("P-384").as_dict(private=False)]},
            {"keys": [OKPKey.generate_key("Ed25519").as_dict(private=False)]},
            {"keys": [OctKey.generate_key(256).as_dict(private=True)]},
        ],
    )
    def test_that_prove_nothing_are_refused(self, bad):
        with pytest.raises(ClientInvalid):
            clients.assertion_keys(bad)

    @pytest.mark.parametrize(
        "changes",
        [
            {"token_endpoint_auth_method": "private_key_jwt"},
            {"jwks": jwks()},
            {"token_endpoint_auth_method": "none"},
            {"token_endpoint_auth_method": "tls_client_auth"},
            {"client_secret": None, "token_endpoint_auth_method": "client_secret_post"},
            {"id_token_signed_response_alg": "none"},
            {"id_token_signed_response_alg": "HS256"},
            {"backchannel_logout_uri": "http://a.test/out"},
            {"backchannel_logout_uri": "com.example.app:/out"},
        ],
    )
    def test_and_methods_that_do_not_go_together_are_refused(self, changes):
        good = {"client_secret": SECRET, "redirect_uris": [CALLBACK]}
        with pytest.raises(ClientInvalid):
            clients._check(Registration("id", "Name", **{**good, **changes}))


class TestRotateSecret:
    def test_leaves_the_old_secret_working_for_a_while(self, app):
        register(app, "turning")

        (line,) = run(app, "clients", "rotate-secret", "turning")

        for secret in (SECRET, line["client_secret"]):
            assert ask(app, headers=basic("turning", secret)).status_code == 200

    def test_ends_the_old_secret_after_it(self, app):
        register(app, "turning")
        (line,) = run(
            app, "clients", "rotate-secret", "turning", "--overlap-hours", "1"
        )
        with app.app_context(), db.transaction() as session:
            row = clients.find_client(session, "turning")
            later = datetime.now(UTC) + timedelta(minutes=61)

            assert not clients.secret_matches(row, SECRET, now=later)
            assert clients.secret_matches(row, line["client_secret"], now=later)

    def test_ends_a_leaked_secret_at_once(self, app):
        register(app, "turning")
        (line,) = run(
            app, "clients", "rotate-secret", "turning", "--overlap-hours", "0"
        )

        assert ask(app, headers=basic("turning", SECRET)).status_code == 401
        answer = ask(app, headers=basic("turning", line["client_secret"]))
        assert answer.status_code == 200

    def test_leaves_no_more_than_two(self, app):
        register(app, "turning")
        (second,) = run(app, "clients", "rotate-secret", "turning")
        (third,) = run(app, "clients", "rotate-secret", "turning")

        found = [
            ask(app, headers=basic("turning", secret)).status_code
            for secret in (SECRET, second["client_secret"], third["client_secret"])
        ]

        assert found == [401, 200, 200]

    def test_stores_no_secret(self, app):
        register(app, "turning")
        (line,) = run(app, "clients", "rotate-secret", "turning")

        with app.app_context(), db.transaction() as session:
            row = session.execute(text("select * from client where id = 'turning'"))
            stored = str(row.one())
        assert SECRET not in stored
        assert line["client_secret"] not in stored

    @pytest.mark.parametrize("name", ["nobody", "cli", "a b", "x" * 200])
    def test_refuses_who_has_none(self, app, name):
        result = run(app, "clients", "rotate-secret", name, ok=False)

        assert "Traceback" not in result.output

    def test_is_in_the_audit_log(self, app):
        register(app, "turning")
        run(app, "clients", "rotate-secret", "turning")

        with app.app_context(), db.transaction() as session:
            (details,) = session.execute(
                text(
                    "select details from audit_event"
                    " where action = 'client_secret_rotated'"
                    " order by sequence desc limit 1"
                )
            ).one()
        assert details["client_id"] == "turning"


class TestCreate:
    """`clients create` with everything that can be registered."""

    def make(self, app, *options):
        (line,) = run(
            app, *("clients", "create", "Test", "--redirect-uri", CALLBACK), *options
        )
        with app.app_context(), db.transaction() as session:
            row = clients.find_client(session, line["client_id"])
            session.expunge(row)
        return line, row

    def test_registers_either_way_of_sending_a_secret(self, app):
        line, row = self.make(app)
        name, secret = line["client_id"], line["client_secret"]

        assert row.token_endpoint_auth_method == "client_secret"
        for way in (
            {"headers": basic(name, secret)},
            {"client_id": name, "client_secret": secret},
        ):
            answer = post(app, "/oauth/revoke", token="x", **way)
            assert answer.status_code == 200

    def test_registers_keys_from_a_file(self, app, tmp_path):
        (tmp_path / "set.json").write_text(json.dumps(jwks()))
        (tmp_path / "key.json").write_text(json.dumps(EC.as_dict(private=False)))

        for name in ("set.json", "key.json"):
            line, row = self.make(app, "--jwks", str(tmp_path / name))
            assert line["client_secret"] is None
            assert row.token_endpoint_auth_method == "private_key_jwt"
            form = asserted(line["client_id"])
            assert post(app, "/oauth/revoke", token="x", **form).status_code == 200

    def test_registers_the_rest(self, app):
        _, row = self.make(
            app,
            *("--id-token-alg", "ES256", "--dpop", "--require-par"),
            *("--backchannel-logout-uri", "https://a.test/out"),
            *("--post-logout-redirect-uri", "https://a.test/bye"),
            *("--auth-method", "client_secret_post"),
        )

        assert row.id_token_signed_response_alg == "ES256"
        assert row.dpop_bound_access_tokens
        assert row.require_pushed_authorization_requests
        assert row.backchannel_logout_uri == "https://a.test/out"
        assert row.post_logout_redirect_uris == ["https://a.test/bye"]
        assert row.token_endpoint_auth_method == "client_secret_post"

    def test_refuses_what_contradicts_itself(self, app, tmp_path):
        (tmp_path / "no.json").write_text("{")
        (tmp_path / "private.json").write_text(json.dumps(EC.as_dict(private=True)))
        for options in (
            ("--public", "--auth-method", "client_secret_post"),
            ("--jwks", str(tmp_path / "no.json")),
            ("--jwks", str(tmp_path / "private.json")),
            ("--jwks", str(tmp_path / "missing.json")),
            ("--auth-method", "private_key_jwt"),
        ):
            result = run(
                app,
                *("clients", "create", "Test", "--redirect-uri", CALLBACK),
                *options,
                ok=False,
            )
            assert "Traceback" not in result.output


class TestIdTokenAlg:
    def tokens(self, app, ada):
        register(app, "curve", id_token_signed_response_alg="ES256")
        return post(
            app,
            "/oauth/token",
            headers=basic("curve", SECRET),
            grant_type="authorization_code",
            code=ada.code(client_id="curve"),
            redirect_uri=CALLBACK,
            code_verifier=VERIFIER,
        ).json

    def test_is_the_clients(self, app, ada):
        answer = self.tokens(app, ada)

        assert header_of(answer["id_token"])["alg"] == "ES256"
        again = ada.authorize(id_token_hint=answer["id_token"], prompt="none")
        assert "code" in query_of(again)

    def test_confuses_nobody_about_what_a_token_is(self, app, ada):
        answer = self.tokens(app, ada)

        # Both are signed by ES256 keys of ours, and yet neither is the other.
        as_access = app.test_client().get(
            "/api/v1/me", headers={"Authorization": f"Bearer {answer['id_token']}"}
        )
        as_hint = ada.authorize(id_token_hint=answer["access_token"], prompt="none")
        assert as_access.status_code == 401
        assert query_of(as_hint)["error"] == "invalid_request"
