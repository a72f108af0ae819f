"""A person at the provider's pages, as far as a measurement needs one."""

import base64
import hashlib
import json
import re
from contextlib import closing
from html import unescape
from http.client import HTTPConnection
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlencode, urlsplit

from identity.servers import CALLBACK, CLIENT, EMAIL, PASSWORD, SECRET

FORM = "application/x-www-form-urlencoded"
VERIFIER = "v" * 64
BASIC = "Basic " + base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()


def hidden_fields(page):
    """Return the hidden fields of the page's first form."""
    form = page.split("<form", 1)[-1].split("</form>", 1)[0]
    return {
        re.search(r'name="([^"]*)"', tag)[1]: unescape(
            re.search(r'value="([^"]*)"', tag)[1]
        )
        for tag in re.findall(r'<input[^>]*type="hidden"[^>]*>', form)
        if 'value="' in tag
    }


class Visitor:
    """One browser: a connection for each request, and its cookies."""

    def __init__(self, port):
        self._port = port
        self._cookies = {}

    @property
    def cookie(self):
        """What a browser sends in the header of that name."""
        return "; ".join(f"{name}={value}" for name, value in self._cookies.items())

    def ask(self, method, path, body=None, **headers):
        """Return the response with its body read into `text`."""
        with closing(HTTPConnection("127.0.0.1", self._port, timeout=30)) as wire:
            given = {"Host": "localhost", "Cookie": self.cookie, **headers}
            if body is not None:
                given["Content-Type"] = FORM
            wire.request(method, path, body, given)
            answer = wire.getresponse()
            answer.text = answer.read().decode()
        for line in answer.headers.get_all("Set-Cookie") or ():
            jar = SimpleCookie(line)
            self._cookies.update({name: one.value for name, one in jar.items()})
        return answer

    def filled_in(self):
        """Return the body of a sign-in form that only needs to be sent."""
        fields = hidden_fields(self.ask("GET", "/login").text)
        return urlencode({**fields, "email": EMAIL, "password": PASSWORD})

    def sign_in(self):
        """Sign in."""
        answer = self.ask("POST", "/login", self.filled_in())
        if answer.status != 303:
            raise RuntimeError(f"signing in answers {answer.status}: {answer.text}")

    def refresh_token(self):
        """Return the refresh token of a new grant."""
        digest = hashlib.sha256(VERIFIER.encode()).digest()
        query = {
            "response_type": "code",
            "client_id": CLIENT,
            "redirect_uri": CALLBACK,
            "scope": "openid offline_access reviews:write",
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        answer = self.ask("GET", f"/oauth/authorize?{urlencode(query)}")
        (code,) = parse_qs(urlsplit(answer.headers["Location"]).query)["code"]
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": CALLBACK,
            "code_verifier": VERIFIER,
        }
        body = urlencode(form)
        found = self.ask("POST", "/oauth/token", body, Authorization=BASIC)
        return json.loads(found.text)["refresh_token"]
