"""Providers that run inside the test: OpenID Connect, and GitHub's own way."""

import base64
import hashlib
import json
import secrets
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

CLIENT_ID = "flagon-tests"
CLIENT_SECRET = "provider-secret-" + "p" * 20


class Answer(Exception):
    """What a provider answers, whatever was asked."""

    def __init__(self, status, body=b"", **headers):
        super().__init__(status)
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.headers = {"Content-Type": "application/json", **headers}


class FakeProvider:
    """What both kinds have in common: an address, people and codes."""

    rsa = RSAKey.generate_key(2048, {"kid": "r1", "use": "sig"}, private=True)
    ec = ECKey.generate_key("P-256", {"kid": "e1", "use": "sig"}, private=True)

    def __init__(self):
        self.codes = {}
        self.seen = []
        self.instead = {}
        """By path: called in place of what would be answered."""

    def start(self, port):
        self.url = f"http://127.0.0.1:{port}"

    def approve(self, url, **person):
        """Sign a person in at the address that the browser was sent to.

        :return: the query of the answer.
        """
        asked = {
            name: values[0] for name, values in parse_qs(urlsplit(url).query).items()
        }
        assert url.startswith(f"{self.url}/authorize?"), url
        assert asked["client_id"] == CLIENT_ID
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(24)
        self.codes[code] = {"asked": asked, "person": person}
        return {"code": code, "state": asked["state"]}

    def redeem(self, form):
        found = self.codes.pop(form.get("code"), None)
        if found is None:
            raise Answer(400, {"error": "invalid_grant"})
        asked = found["asked"]
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        assert challenge == asked["code_challenge"]
        assert form["redirect_uri"] == asked["redirect_uri"]
        self.person, self.asked = found["person"], asked
        self.token = secrets.token_urlsafe(24)
        return found

    def respond(self, handler, form):
        path = urlsplit(handler.path).path
        self.seen.append((handler.command, path, dict(handler.headers), form))
        if path in self.instead:
            replaced = self.instead[path](handler)
            if replaced is not None:
                raise replaced
        view = {
            ("GET", "/.well-known/openid-configuration"): "metadata",
            ("GET", "/jwks"): "jwks",
            ("POST", "/token"): "token_answer",
            ("GET", "/userinfo"): "userinfo",
            ("GET", "/user"): "user",
            ("GET", "/user/emails"): "emails",
        }.get((handler.command, path))
        if view is None or not hasattr(self, view):
            raise Answer(404)
        raise Answer(200, getattr(self, view)(handler, form))


class FakeOpenId(FakeProvider):
    """An OpenID Connect provider that can be told to lie."""

    def __init__(self):
        super().__init__()
        self.issuer = None
        self.claims = {}
        """Over what the ID token would say; None leaves a claim out."""
        self.more_metadata = {}
        self.answer = {}
        self.told = None
        self.key = self.rsa
        self.keys = [self.rsa, self.ec]
        self.alg = "RS256"
        self.header = {}
        self.forge = None

    def start(self, port):
        super().start(port)
        self.issuer = self.url

    def metadata(self, _handler, _form):
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks",
            "userinfo_endpoint": f"{self.url}/userinfo",
            # An attacker's metadata may say so; our settings do not.
            "id_token_signing_alg_values_supported": ["none", "HS256", "RS256"],
            **self.more_metadata,
        }

    def jwks(self, _handler, _form):
        return {"keys": [key.as_dict(private=False) for key in self.keys]}

    def token_answer(self, handler, form):
        pair = base64.b64decode(handler.headers["Authorization"].split()[1]).decode()
        assert pair == f"{CLIENT_ID}:{CLIENT_SECRET}"
        self.redeem(form)
        return {
            "access_token": self.token,
            "token_type": "Bearer",
            "id_token": self.id_token(),
            **self.answer,
        }

    def id_token(self):
        now = int(time.time())
        digest = hashlib.sha256(self.token.encode()).digest()
        said = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "sub": "7",
            "exp": now + 300,
            "iat": now,
            "auth_time": now,
            "nonce": self.asked["nonce"],
            "at_hash": base64.urlsafe_b64encode(digest[:16]).decode().rstrip("="),
            **self.person,
            **self.claims,
        }
        said = {name: value for name, value in said.items() if value is not None}
        if self.forge:
            return self.forge(said)
        header = {"alg": self.alg, "kid": self.key.kid, **self.header}
        header = {name: value for name, value in header.items() if value is not None}
        return jwt.encode(header, said, self.key, algorithms=[self.alg])

    def userinfo(self, handler, _form):
        if handler.headers["Authorization"] != f"Bearer {self.token}":
            raise Answer(401)
        return self.told or {"sub": "7", **self.person}


class FakeGitHub(FakeProvider):
    """The three addresses of GitHub that a sign-in needs."""

    def token_answer(self, _handler, form):
        assert form["client_id"] == CLIENT_ID
        assert form["client_secret"] == CLIENT_SECRET
        try:
            self.redeem(form)
        except Answer:
            # GitHub tells of errors with status 200.
            return {"error": "bad_verification_code"}
        return {"access_token": self.token, "token_type": "bearer", "scope": ""}

    def user(self, handler, _form):
        assert handler.headers["Authorization"] == f"Bearer {self.token}"
        return {"id": 42, "login": "ada", "name": None, **self.person.get("user", {})}

    def emails(self, _handler, _form):
        return self.person.get("emails", [])


@contextmanager
def running(provider):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_any(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            form = {name: vs[0] for name, vs in parse_qs(body.decode()).items()}
            try:
                provider.respond(self, form)
            except Answer as answer:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                try:
                    self.wfile.write(answer.body)
                except OSError:
                    self.close_connection = True

        do_GET = do_POST = do_any  # noqa: N815

        def log_message(self, *_args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    provider.start(server.server_port)
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
