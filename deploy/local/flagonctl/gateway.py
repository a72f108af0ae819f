"""What the gateway promises, read from nginx's files for whoever stands in its place.

`gateway/routes.conf.template` is the one table of routes, and nginx's own words for errors
are everybody's. The files are written by us, one directive a line, so what is read is what
is used there and no more.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .templates import fill

SERVICE_SECONDS = 35
"""How long a service may be silent, where the route says nothing else."""
_LOCATION = re.compile(
    r"^location (?:(?P<sign>=|~|\^~) )?(?P<place>/\S*|\^\S+) \{\n(?P<body>.*?)^\}$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Route:
    """Who answers a path, and how."""

    pattern: str
    """A regular expression; groups of it are named in `file`."""
    service: str
    """A service, `described` for the one that the path names, `files` or `static` where
    the gateway sends a file, `moved`, or `nowhere`."""
    kind: str
    """`api` with sessions and keys exchanged, `open` without either, or `page`."""
    body_bytes: int
    seconds: int
    zones: tuple[str, ...]
    """Which limits count it."""
    stream: str
    """`plain`, `stream`, or `upgrade` where it may become a WebSocket."""
    file: str = ""
    """With `$name` for groups of the pattern; a folder where it ends with a slash."""
    leads_to: str = ""
    """The path that is meant, or that a client is sent to."""
    media_type: str = ""
    """What the file is, where its name does not say so."""


@dataclass(frozen=True)
class Limit:
    """So many requests of one address in a second or a minute, and a burst besides."""

    requests: int
    milliseconds: int
    burst: int


@dataclass(frozen=True)
class Words:
    """What the gateway says itself."""

    titles: Mapping[str, str]
    """By status."""
    details: Mapping[str, str]
    """By status, and `default`."""
    waits: Mapping[str, str]
    """By status, `Retry-After` in seconds."""
    problem: str
    page: str
    """Both with `$problem_title`, `$problem_detail`, `$status` and `$rid`."""

    def detail(self, status: str) -> str:
        """Return the sentence for a status."""
        return self.details.get(status, self.details["default"])


def routes(text: str, variables: Mapping[str, str]) -> list[Route]:
    """Return the routes in the order in which nginx looks.

    Exact addresses, prefixes that end the search, patterns as they are written, other
    prefixes with the longest first.

    :param text: of `routes.conf.template`.
    :raises ValueError: one does what nobody has thought of here.
    """
    found: dict[str, list[Route]] = {"=": [], "^~": [], "~": [], "": []}
    for sign, place, body in _locations(text):
        pattern = place if sign == "~" else f"^{re.escape(place)}"
        pattern = f"{pattern}$" if sign == "=" else pattern
        found[sign].append(_route(pattern, place, body, variables))
    found[""].sort(key=lambda route: -len(route.pattern))
    return [route for sign in found for route in found[sign]]


def _locations(text: str) -> Iterator[tuple[str, str, str]]:
    for one in _LOCATION.finditer(text):
        yield one["sign"] or "", one["place"], one["body"]


def _route(pattern: str, place: str, body: str, variables: Mapping[str, str]) -> Route:
    to = re.search(r"proxy_pass http://(\$?[a-z]+)", body)
    alias = re.search(r"alias (\S+);", body)
    leads = re.search(r"return 308 (\S+);|rewrite \^ (\S+) last;", body)
    media_type = re.search(r"default_type (\S+);", body)
    kind = "page"
    if "include api.conf;" in body:
        kind = "api"
    elif 'proxy_set_header Cookie "";' in body:
        kind = "open"
    if re.search(r"^ +internal;|return 404;|include healthz.conf;", body, re.MULTILINE):
        service = "nowhere"
    elif "return 308" in body:
        service = "moved"
    elif "alias ${GATEWAY_STATIC}" in body:
        service = "static"
    elif to:
        service = to[1].removeprefix("$")
    elif alias or leads:
        service = "files"
    else:
        message = f"nobody but nginx can do what it does at {place}"
        raise ValueError(message)
    found = re.search(r"client_max_body_size (\S+);", body)
    largest = fill(found[1], variables) if found else variables["GATEWAY_BODY_LIMIT"]
    seconds = re.search(r"proxy_read_timeout (\d+)s;", body)
    stream = "plain"
    if "limit_conn streams" in body:
        stream = "upgrade" if "$http_upgrade" in body else "stream"
    return Route(
        pattern=pattern,
        service=service,
        kind=kind,
        body_bytes=size(largest),
        seconds=int(seconds[1]) if seconds else SERVICE_SECONDS,
        zones=(
            *(["api"] if kind == "api" else []),
            *re.findall(r"limit_req zone=(\w+)", body),
        ),
        stream=stream,
        file=fill(alias[1], variables) if alias and service != "nowhere" else "",
        leads_to=(leads[1] or leads[2]) if leads else "",
        media_type=media_type[1] if media_type else "",
    )


def size(text: str) -> int:
    """Return the bytes of a size as nginx writes it."""
    units = {"k": 10, "m": 20, "g": 30}
    return int(text.rstrip("kmg")) << units.get(text[-1], 0)


def limits(variables: Mapping[str, str]) -> dict[str, Limit]:
    """Return the limits of one address, by the end of their variables' names."""
    found = {}
    for name in ("API", "SIGN_IN", "TOKEN"):
        rate = re.fullmatch(r"(\d+)r/([sm])", variables[f"GATEWAY_{name}_RATE"])
        if rate is None:
            message = f"GATEWAY_{name}_RATE is neither in r/s nor in r/m"
            raise ValueError(message)
        found[name] = Limit(
            requests=int(rate[1]),
            milliseconds={"s": 1000, "m": 60_000}[rate[2]],
            burst=int(variables[f"GATEWAY_{name}_BURST"]),
        )
    return found


def words(root: Path) -> Words:
    """Return what nginx says of errors."""
    nginx = (root / "gateway" / "nginx.conf.template").read_text()
    errors = (root / "gateway" / "errors.conf").read_text()
    return Words(
        titles={
            status: title
            for status, title in _map(nginx, "problem_title").items()
            if status.isdecimal()
        },
        details=_map(nginx, "problem_detail"),
        waits=_map(nginx, "problem_retry_after"),
        problem=_said(errors, "/_problem"),
        page=_said(errors, "/_page"),
    )


def has_names(variables: Mapping[str, str]) -> bool:
    """Say whether services have names, which are to be asked for, and not addresses."""
    return not variables["GATEWAY_WEB"].startswith("127.")


def place(listen: str) -> str:
    """Return where nginx listens, without its other words."""
    return listen.split(maxsplit=1)[0]


def syslog_servers(access_log: str) -> list[str]:
    """Return where access lines are sent in datagrams, which wait for nobody."""
    return re.findall(r"syslog:server=([^,;]+)", access_log)


def _map(text: str, name: str) -> dict[str, str]:
    """Return one of nginx's maps from statuses."""
    _, _, rest = text.partition(f"map $status ${name} {{")
    block, _, _ = rest.partition("}")
    lines = re.findall(r'^ +(\w+) (?:"(.*)"|(\S+));$', block, re.MULTILINE)
    return {key: quoted or bare for key, quoted, bare in lines}


def _said(text: str, place: str) -> str:
    """Return what nginx says at one of its own addresses, without ends of lines."""
    body = next(body for _sign, found, body in _locations(text) if found == place)
    said = re.search(r"return 200 '(.*)';", body)
    if said is None:
        message = f"nothing is said at {place}"
        raise ValueError(message)
    return said[1].replace("\\n", "")


def certificate(variables: Mapping[str, str]) -> str:
    """Return the certificate and its key, in one."""
    names = ("GATEWAY_TLS_CERTIFICATE", "GATEWAY_TLS_KEY")
    return "".join(Path(variables[name]).read_text() for name in names)


def policy_of_pages(text: str) -> str:
    """Return the content security policy of the pages of the API's document."""
    body = next(body for _, _, body in _locations(text) if "$page.html" in body)
    policy = re.search(r'Content-Security-Policy "([^"]+)"', body)
    if policy is None:
        message = "the pages have no policy"
        raise ValueError(message)
    return policy[1]
