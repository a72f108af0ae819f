"""People who sign in as people do: by the real form, with code and PKCE."""

import base64
import hashlib
import secrets
import time
from html.parser import HTMLParser
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2

from harness.waiting import until

REDIRECT = "http://127.0.0.1/callback"
SCOPE = (
    "openid profile email offline_access reviews:write jobs:read catalog:write "
    "jobs:write ops:read jobs:manage users:read users:write"
)
_RENEW_SECONDS = 60


class _Forms(HTMLParser):
    def __init__(self):
        super().__init__()
        self.forms = []

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        if tag == "form":
            self.forms.append({"action": named.get("action") or "", "fields": {}})
        elif tag == "input" and self.forms and named.get("name"):
            self.forms[-1]["fields"][named["name"]] = named.get("value") or ""


class _Meta(HTMLParser):
    def __init__(self):
        super().__init__()
        self.content = {}

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        if tag == "meta" and "name" in named:
            self.content[named["name"]] = named.get("content")


def csrf_token(page):
    """Return the token that a page hands to its scripts."""
    meta = _Meta()
    meta.feed(page)
    return meta.content["csrf-token"]


def fill_sign_in(client, page, account):
    """Send the sign-in form of a page and return the answer, redirects not followed."""
    forms = _Forms()
    forms.feed(page.text)
    form = next(form for form in forms.forms if "password" in form["fields"])
    fields = form["fields"] | {
        "email": account["email"],
        "password": account["password"],
    }
    return client.post(
        urljoin(str(page.url), form["action"]),
        data=fields,
        headers={"Origin": f"{page.url.scheme}://{page.url.netloc.decode()}"},
        follow_redirects=False,
    )


class Person:
    """Somebody with an account, who holds an access token and renews it in time."""

    def __init__(self, stack, account):
        self.stack = stack
        self.account = account
        # Keeps the sign-in session, so that the password is typed once.
        self._session = stack.client()
        self._token = None
        self._expires = 0.0

    @property
    def token(self):
        """An access token that is good for another minute at least."""
        if time.time() > self._expires - _RENEW_SECONDS:
            answer = self.sign_in()
            self._token = answer["access_token"]
            self._expires = time.time() + answer["expires_in"]
        return self._token

    @property
    def bearer(self):
        """The header that carries the token."""
        return {"Authorization": f"Bearer {self.token}"}

    def sign_in(self, scope=SCOPE):
        """Go through authorization code with PKCE and return the token response."""
        verifier = secrets.token_urlsafe(48)
        digest = hashlib.sha256(verifier.encode()).digest()
        state = secrets.token_urlsafe(8)
        answer = self._session.get(
            "/oauth/authorize",
            params={
                "response_type": "code",
                "client_id": "cli",
                "redirect_uri": REDIRECT,
                "scope": scope,
                "state": state,
                "nonce": secrets.token_urlsafe(8),
                "code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="),
                "code_challenge_method": "S256",
            },
        )
        while not answer.headers.get("location", "").startswith(REDIRECT):
            if answer.is_redirect:
                answer = self._session.get(
                    urljoin(str(answer.url), answer.headers["location"])
                )
            else:
                assert answer.status_code == 200, (answer.status_code, answer.text)
                answer = fill_sign_in(self._session, answer, self.account)
                assert answer.is_redirect, (answer.status_code, answer.text[:2000])
        query = parse_qs(urlsplit(answer.headers["location"]).query)
        assert query["state"] == [state], query
        answer = self._session.post(
            "/oauth/token",
            data={
                "grant_type": "authorization_code",
                "client_id": "cli",
                "redirect_uri": REDIRECT,
                "code": query["code"][0],
                "code_verifier": verifier,
            },
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def client(self):
        """Return an HTTP client that always sends a fresh token."""
        return self.stack.client(auth=self._add_token)

    def _add_token(self, request):
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request

    def patiently(self, method, path, seconds=90, **options):
        """Send an idempotent request again and again while the platform recovers."""
        with self.stack.client() as client:

            def answered():
                answer = client.request(method, path, headers=self.bearer, **options)
                return answer if answer.status_code < 500 else None

            return until(
                answered,
                seconds,
                pause=0.2,
                what=f"{method} {path}",
                ignore=(httpx2.TransportError, AssertionError),
            )


def browser(stack, account):
    """Return a client that is signed in at the shop with a session cookie, as browsers.

    Goes through web's own sign-in: redirect to auth, form, code, callback.
    """
    client = stack.client(follow_redirects=True)
    page = client.get("/sign-in")
    assert page.status_code == 200, (page.status_code, page.text[:500])
    if "password" in page.text:
        answer = fill_sign_in(client, page, account)
        while answer.is_redirect:
            answer = client.get(
                urljoin(str(answer.url), answer.headers["location"]),
                follow_redirects=False,
            )
        assert answer.status_code == 200, (answer.status_code, answer.text[:500])
    return client
