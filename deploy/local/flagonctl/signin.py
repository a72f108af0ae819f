"""Signs in as a person would, without a browser: authorization code with PKCE."""

import base64
import hashlib
import secrets
import time
from html.parser import HTMLParser
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import httpx2

from .problem import Problem

CLIENT = "cli"
REDIRECT = "http://127.0.0.1/callback"
_BUSY_PAUSES = 5
_STEPS = 10
"""Most pages between the start and the code: sign-in, consent and their redirects."""


class _Forms(HTMLParser):
    """Collects the forms of a page with what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            method = values.get("method", "get").lower()
            self.found.append((method, values.get("action", ""), {}))
        elif tag in {"input", "button"} and self.found and values.get("name"):
            fields = self.found[-1][2]
            name = values["name"]
            # Of several buttons with one name the first is pressed: it is the way on.
            if values.get("type") not in {"checkbox", "radio"} or "checked" in values:
                fields.setdefault(name, values.get("value", ""))


def token(base_url: str, email: str, password: str, scope: str) -> dict[str, object]:
    """Return the token response for an account.

    :param base_url: the gateway.
    :raises Problem: the sign-in did not lead to a code.
    """
    verifier = secrets.token_urlsafe(48)
    digest = hashlib.sha256(verifier.encode()).digest()
    state = secrets.token_urlsafe(16)
    question = urlencode(
        {
            "response_type": "code",
            "client_id": CLIENT,
            "redirect_uri": REDIRECT,
            "scope": scope,
            "state": state,
            "code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="),
            "code_challenge_method": "S256",
        }
    )
    with httpx2.Client(timeout=10, trust_env=False) as client:
        start = f"{base_url}/oauth/authorize?{question}"
        try:
            answer = _walk(client, start, email, password)
        except httpx2.TransportError as error:
            message = f"{base_url} does not answer ({type(error).__name__})."
            raise Problem(message, "make up") from error
        if answer.get("state") != [state]:
            raise Problem("The answer to the sign-in belongs to another question.")
        if "code" not in answer:
            said = " ".join(
                answer.get("error", []) + answer.get("error_description", [])
            )
            raise Problem(f"auth refused: {said}", "make logs S=auth")
        response = client.post(
            f"{base_url}/oauth/token",
            data={
                "grant_type": "authorization_code",
                "client_id": CLIENT,
                "redirect_uri": REDIRECT,
                "code": answer["code"][0],
                "code_verifier": verifier,
            },
        )
    if response.status_code != 200:  # noqa: PLR2004 (OK)
        raise Problem(
            f"auth gave no token ({response.status_code}): {response.text[:300]}",
            "make logs S=auth",
        )
    said_token: dict[str, object] = response.json()
    return said_token


def _walk(
    client: httpx2.Client, start: str, email: str, password: str
) -> dict[str, list[str]]:
    """Follow redirects and fill forms until the redirect to the client, as a query."""
    response = client.get(start)
    filled = False
    for _step in range(_STEPS):
        if response.is_redirect:
            target = urljoin(str(response.url), response.headers["location"])
            if target.startswith(REDIRECT):
                return parse_qs(urlsplit(target).query)
            response = client.get(target)
            continue
        forms = _Forms()
        forms.feed(response.text)
        posts = [form for form in forms.found if form[0] == "post"]
        wanted = [form for form in posts if "password" in form[2]]
        # Without a password field it is the question for consent.
        chosen = wanted or [form for form in posts if "logout" not in form[1]]
        if response.status_code >= 400 or not chosen or (wanted and filled):  # noqa: PLR2004 (client errors)
            break
        _method, action, fields = chosen[0]
        if wanted:
            filled = True
            login = next((n for n in ("email", "username") if n in fields), "email")
            fields |= {login: email, "password": password}
        target = urljoin(str(response.url), action or str(response.url))
        response = client.post(target, data=fields)
        for _pause in range(_BUSY_PAUSES):
            # Hashing passwords is costly on purpose, so auth turns people away when busy.
            if response.status_code != 503:  # noqa: PLR2004 (Service Unavailable)
                break
            time.sleep(float(response.headers.get("retry-after", 1)))
            response = client.post(target, data=fields)
    message = (
        f"Signing in as {email} ended at {response.url.path} ({response.status_code})."
    )
    raise Problem(message, "make logs S=auth")
