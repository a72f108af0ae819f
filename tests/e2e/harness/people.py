"""People who sign in as people do: by the real form, with code and PKCE."""

import base64
import hashlib
import secrets
import time
from contextlib import contextmanager
from html.parser import HTMLParser
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2

from harness.waiting import until

REDIRECT = "http://127.0.0.1/callback"
SCOPE = (
    "openid profile email offline_access reviews:write jobs:read catalog:write "
    "jobs:write ops:read jobs:manage users:read users:write catalog:purge"
)
_RENEW_SECONDS = 60


class _Forms(HTMLParser):
    """Collects the forms of a page with what would be sent."""

    def __init__(self):
        super().__init__()
        self.forms = []

    def handle_starttag(self, tag, attrs):
        named = {name: value or "" for name, value in attrs}
        if tag == "form":
            action = named.get("action", "")
            self.forms.append({"action": action, "fields": {}})
        elif tag in {"input", "button"} and self.forms and named.get("name"):
            # Of several buttons with one name the first is pressed: it is the way on.
            fields = self.forms[-1]["fields"]
            fields.setdefault(named["name"], named.get("value", ""))


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


def _go_on(client, page, account):
    """Take one step of a sign-in: a redirect, the password or the question for consent.

    :returns: the next answer, redirects not followed.
    """
    if page.is_redirect:
        target = urljoin(str(page.url), page.headers["location"])
        return client.get(target, follow_redirects=False)
    assert page.status_code == 200, (page.status_code, page.text[:500])
    parsed = _Forms()
    parsed.feed(page.text)
    usable = [f for f in parsed.forms if {"password", "choice"} & set(f["fields"])]
    assert usable, f"neither a password nor a choice is asked for at {page.url}"
    fields = usable[0]["fields"]
    if "password" in fields:
        fields |= {"email": account["email"], "password": account["password"]}
    answer = client.post(
        urljoin(str(page.url), usable[0]["action"]),
        data=fields,
        headers={"Origin": f"{page.url.scheme}://{page.url.netloc.decode()}"},
        follow_redirects=False,
    )
    assert answer.is_redirect, (answer.status_code, answer.text[-1500:])
    return answer


class Person:
    """Somebody with an account, who holds an access token and renews it in time."""

    def __init__(self, stack, account):
        self.stack = stack
        self.account = account
        # Keeps the sign-in session, so that the password is typed once.
        self._session = stack.client()
        self._token = None
        self._expires = 0.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._session.close()

    @property
    def token(self):
        """An access token that is good for another minute at least."""
        return self.token_for(_RENEW_SECONDS)

    def token_for(self, seconds):
        """Return an access token that is good for so long at least."""
        if time.time() > self._expires - seconds:
            # The old one may run out just while the platform recovers.
            answer = until(
                self.sign_in,
                pause=0.5,
                what="a token",
                ignore=(httpx2.TransportError, AssertionError),
            )
            self._token = answer["access_token"]
            self._expires = time.time() + answer["expires_in"]
        return self._token

    @property
    def bearer(self):
        """The header that carries the token."""
        return {"Authorization": f"Bearer {self.token}"}

    def sign_in(self, scope=SCOPE, headers=None):
        """Go through authorization code with PKCE and return the token response.

        :param headers: of the token request.
        """
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
            answer = _go_on(self._session, answer, self.account)
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
            headers=headers,
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def client(self):
        """Return an HTTP client that always sends a fresh token."""
        return self.stack.client(auth=self._add_token)

    def _add_token(self, request):
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request

    def patiently(self, method, path, seconds=240, **options):
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


@contextmanager
def browser(stack, account):
    """Yield a client that is signed in at the shop with a session cookie, as browsers.

    Goes through web's own sign-in: redirect to auth, form, code, callback.
    """
    with stack.client() as client:
        page = client.get("/sign-in")
        while page.is_redirect or "password" in page.text:
            page = _go_on(client, page, account)
        assert page.status_code == 200, (page.status_code, page.text[:500])
        client.follow_redirects = True
        yield client
