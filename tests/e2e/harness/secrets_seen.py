"""Every secret that the run's programs saw, so that they can be searched for at the end."""

import inspect
import json
import re
from html import unescape
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlsplit

NAMES = frozenset(
    """
    access_token api_key client_assertion client_secret code code_verifier csrf_token
    current_password device_code id_token id_token_hint key new_password old_password
    password recovery_code recovery_codes refresh_token secret token user_code
    """.split()  # noqa: SIM905 (a word list reads better)
)
TAIL = 16
"""Characters of a secret that are searched for: of random ones enough to be sure."""
# In the tail of a random value there are about a dozen.
_LETTERS_MIN = 3
_COOKIES = re.compile(r"flagon_(session|login)")
# Shown in pages and mails to be read or followed, not sent back.
_SHOWN = re.compile(
    r"\b(flg_[a-z0-9]+_[A-Za-z0-9_-]{20,})|[?&](?:secret|code)=([A-Za-z0-9_.~%-]{16,})"
    r"|<code>([A-Za-z0-9]{4,8}(?:-[A-Za-z0-9]{4,8}){2,})</code>"
)
_FIELD = re.compile(r"<(?:input|meta)\b[^>]*>")
_TEXT_BYTES_MAX = 2_000_000


class Seen:
    """Secrets by where they were seen first."""

    def __init__(self):
        self.secrets = {}

    @property
    def hooks(self):
        """What an HTTP client calls with each request and each answer."""
        return {"request": [self.request], "response": [self.response]}

    def add(self, value, where):
        """Remember one secret; words that are too short to be one are not.

        Nor are made-up ones: hostile tokens and hostile paths end in the same `aaaa…`.
        """
        if not isinstance(value, str) or len(value) < TAIL:
            return
        if len(set(value[-TAIL:])) > _LETTERS_MIN:
            self.secrets.setdefault(value, where)

    def request(self, request):
        """Remember what a request proves something with."""
        scheme, _, proof = request.headers.get("authorization", "").partition(" ")
        self.add(proof, f"Authorization: {scheme}")
        self._pairs(parse_qsl(request.url.query.decode("ascii", "replace")), "query")
        kind = request.headers.get("content-type", "")
        if kind.startswith("application/x-www-form-urlencoded"):
            self._pairs(parse_qsl(request.read().decode("utf-8", "replace")), "form")
        if kind.startswith("application/json"):
            self._json(request.read())

    def response(self, response):
        """Remember what an answer hands out."""
        for header in response.headers.get_list("set-cookie"):
            try:
                cookies = SimpleCookie(header)
            except CookieError:
                continue
            for name, cookie in cookies.items():
                if _COOKIES.search(name):
                    self.add(cookie.value, f"cookie {name}")
        location = urlsplit(response.headers.get("location", ""))
        self._pairs(parse_qsl(location.query), "Location")
        kind = response.headers.get("content-type", "")
        size = int(response.headers.get("content-length") or 0)
        if size > _TEXT_BYTES_MAX:
            return
        if kind.startswith("application/json"):
            self._json(response.read())
        elif kind.startswith("text/html"):
            response.read()
            self.shown(response.text, "page")
            for tag in _FIELD.findall(response.text):
                name = re.search(r'\bname="([^"]*)"', tag)
                value = re.search(r'\b(?:value|content)="([^"]*)"', tag)
                if name and value:
                    named = name[1].replace("-", "_")
                    self._pairs([(named, unescape(value[1]))], "page")

    def shown(self, text, where):
        """Remember the keys, links and codes that a text shows."""
        for groups in _SHOWN.findall(unescape(text)):
            for value in filter(None, groups):
                self.add(value, f"{where}, shown")
                # Codes are typed with or without their hyphens.
                self.add(value.replace("-", ""), f"{where}, shown")

    def _pairs(self, pairs, where):
        for name, value in pairs:
            if name in NAMES:
                self.add(value, f"{where} {name}")

    def _json(self, content):
        try:
            self._walk(json.loads(content))
        except (ValueError, RecursionError):
            # No JSON, or a hostile one of 100,000 brackets: it holds none of ours.
            return

    def _walk(self, value, name=""):
        if isinstance(value, dict):
            for key, inner in value.items():
                self._walk(inner, key)
        elif isinstance(value, list):
            for inner in value:
                self._walk(inner, name)
        elif name in NAMES:
            self.add(value, f"JSON {name}")

    def tails(self):
        """Return the ends of all secrets, each with where the secret was seen."""
        return {secret[-TAIL:]: where for secret, where in self.secrets.items()}


SEEN = Seen()


def found(text, tails, tail=TAIL):
    """Return which tails are in a text, as they are or as the hex digits of bytes."""
    hits = set()
    words = re.findall(rf"[A-Za-z0-9_.~+/=-]{{{tail},}}", text)
    for word in words:
        # Postgres writes bytes as \\x and digits.
        digits = word.removeprefix("x")
        if len(digits) >= 2 * tail and re.fullmatch(r"[0-9a-f]+", digits):
            plain = bytes.fromhex(digits[: len(digits) // 2 * 2]).decode("latin-1")
            words += re.findall(rf"[A-Za-z0-9_.~+/=-]{{{tail},}}", plain)
        # Where a secret can end: nobody writes a letter or a digit right behind it.
        for end in re.finditer(r"(?<=.)(?=[_.~+/=-]|$)", word):
            piece = word[max(0, end.start() - tail) : end.start()]
            if piece in tails:
                hits.add(piece)
    return hits


FINDER = f"import re\nTAIL = {TAIL}\n{inspect.getsource(found)}"
"""The same for a program inside a service."""
