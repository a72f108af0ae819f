"""HAProxy's configuration, from the same sources as nginx's.

`gateway/routes.conf.template` is the one table of routes, and nginx's own words for errors
are HAProxy's too: both are read here. The files are written by us, one directive a line, so
what is read is what is used there and no more.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from .processes import SERVICES
from .templates import fill, fill_file

_LOCATION = re.compile(
    r"^location (?:(?P<sign>=|~|\^~) )?(?P<place>/\S*|\^\S+) \{\n(?P<body>.*?)^\}$",
    re.MULTILINE | re.DOTALL,
)
_SERVICE_SECONDS = 35
_LISTEN = ("GATEWAY_HTTP_LISTEN", "GATEWAY_HTTPS_LISTEN", "GATEWAY_INTERNAL_LISTEN")
_RESOLVERS = """
# Containers come back with other addresses. One that is started again has none for a
# moment, and mostly gets the one that it had.
resolvers default
    parse-resolv-conf
    timeout resolve 1s
    timeout retry 1s
    hold valid 1s
    hold nx 10s
    hold obsolete 0s
    hold other 10s
    hold refused 10s
    hold timeout 10s
"""
_ASKED_AT = {"GATEWAY_AUTH": "127.0.0.1:8082", "GATEWAY_WEB": "127.0.0.1:8083"}
"""Where Lua asks services that have names: its client finds none."""
_MOST_INSTANCES = 8
"""Of a service, by its name; places without an address cost nothing."""
_WORDED = {400, 401, 403, 404, 405, 408, 413, 421, 429, 500, 502, 503, 504}
"""Statuses that HAProxy says by itself or when told to deny."""


def files(root: Path, target: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """Return every file that HAProxy reads, by name.

    :param target: the folder where it will find them.
    :param variables: those of nginx; what HAProxy needs in another form is made of them.
    """
    source = root / "gateway"
    nginx = (source / "nginx.conf.template").read_text()
    errors = (source / "errors.conf").read_text()
    routes = (source / "routes.conf.template").read_text()
    titles, details = _map(nginx, "problem_title"), _map(nginx, "problem_detail")
    waits = _map(nginx, "problem_retry_after")
    given = {
        **variables,
        "GATEWAY_CONFIG": str(target),
        "GATEWAY_LOGS": _logs(variables["GATEWAY_ACCESS_LOG"]),
        "GATEWAY_ERRORS": "".join(
            f"    http-error status {status} content-type application/problem+json"
            f" lf-string %[lua.refusal({status})] hdr Cache-Control no-store"
            + (f" hdr Retry-After {waits[status]}" if status in waits else "")
            + "\n"
            for status in titles
            if status.isdecimal() and int(status) in _WORDED
        ),
        "GATEWAY_PAGES_POLICY": _policy_of_pages(routes),
        "GATEWAY_SERVICES": "".join(_services(source / "haproxy", variables)),
        "GATEWAY_TRANSPORT_SECURITY": _transport_security(variables["GATEWAY_HSTS"]),
        "GATEWAY_RESOLVERS": _RESOLVERS if _names(variables) else "",
        **(_ASKED_AT if _names(variables) else {}),
        "GATEWAY_ASKED": "".join(_asked(variables)),
        **{name: _place(variables[name]) for name in _LISTEN},
        **_limits(variables),
    }
    return {
        "haproxy.cfg": fill_file(source / "haproxy" / "haproxy.cfg.template", given),
        "gateway.lua": (source / "haproxy" / "gateway.lua").read_text(),
        "routes.map": "".join(f"{line}\n" for line in route_lines(routes, variables)),
        "problem.txt": _said(errors, "/_problem"),
        "page.txt": _said(errors, "/_page"),
        "errors.tsv": "".join(
            f"{status}\t{title}\t{details.get(status, details['default'])}\n"
            for status, title in titles.items()
        ),
        "server.pem": "".join(
            Path(variables[name]).read_text()
            for name in ("GATEWAY_TLS_CERTIFICATE", "GATEWAY_TLS_KEY")
        ),
    }


def route_lines(routes: str, variables: Mapping[str, str]) -> list[str]:
    """Return the lines of HAProxy's map: a pattern each, and what is done with it.

    They stand in the order in which nginx looks: exact addresses, prefixes that end the
    search, patterns as they are written, other prefixes with the longest first.
    """
    found: dict[str, list[tuple[str, str]]] = {"=": [], "^~": [], "~": [], "": []}
    for sign, place, body in _locations(routes):
        value = _route(place, body, variables)
        # Names of groups are for nginx's own use of them.
        pattern = re.sub(r"\(\?<\w+>", "(?:", place)
        if sign != "~":
            pattern = f"^{re.escape(place)}"
        found[sign].append((f"{pattern}$" if sign == "=" else pattern, value))
    found[""].sort(key=lambda line: -len(line[0]))
    return [f"{pattern} {value}" for sign in found for pattern, value in found[sign]]


def _locations(text: str) -> Iterator[tuple[str, str, str]]:
    for one in _LOCATION.finditer(text):
        yield one["sign"] or "", one["place"], one["body"]


def _route(place: str, body: str, variables: Mapping[str, str]) -> str:
    """Return service, kind, largest body, milliseconds, limits and kind of stream."""
    to = re.search(r"proxy_pass http://(\$?[a-z]+)", body)
    kind = "page"
    if "include api.conf;" in body:
        kind = "api"
    elif 'proxy_set_header Cookie "";' in body:
        kind = "open"
    if re.search(r"^ +internal;|return 404;", body, re.MULTILINE):
        service = "nowhere"
    elif "return 308" in body:
        service = "moved"
    elif "alias ${GATEWAY_STATIC}" in body:
        # Without nginx, who made the files sends them.
        service, kind = "web", "file"
    elif to:
        service = to[1].removeprefix("$")
    elif "alias" in body or "rewrite" in body:
        service = "documents"
    elif "include healthz.conf;" in body:
        service = "nowhere"
    else:
        message = f"HAProxy cannot do what nginx does at {place}"
        raise ValueError(message)
    largest = re.search(r"client_max_body_size (\S+);", body)
    size = fill(largest[1], variables) if largest else variables["GATEWAY_BODY_LIMIT"]
    seconds = re.search(r"proxy_read_timeout (\d+)s;", body)
    zones = ["api"] * (kind == "api") + re.findall(r"limit_req zone=(\w+)", body)
    stream = "plain"
    if "limit_conn streams" in body:
        stream = "upgrade" if "$http_upgrade" in body else "stream"
    return ":".join(
        (
            service,
            kind,
            str(_bytes(size)),
            str(int(seconds[1] if seconds else _SERVICE_SECONDS) * 1000),
            "+".join(zones) or "none",
            stream,
        )
    )


def _bytes(size: str) -> int:
    units = {"k": 10, "m": 20, "g": 30}
    return int(size.rstrip("kmg")) << units.get(size[-1], 0)


def _limits(variables: Mapping[str, str]) -> dict[str, str]:
    """Return each limit as HAProxy counts: so many in so long.

    nginx lets a burst through at once and pays it back at the rate. A burst and one more,
    in the time in which so many are paid back, is the same at the start and in the long run.
    """
    found = {}
    for name in ("API", "SIGN_IN", "TOKEN"):
        rate = re.fullmatch(r"(\d+)r/([sm])", variables[f"GATEWAY_{name}_RATE"])
        if rate is None:
            message = f"GATEWAY_{name}_RATE is neither in r/s nor in r/m"
            raise ValueError(message)
        most = int(variables[f"GATEWAY_{name}_BURST"]) + 1
        milliseconds = {"s": 1000, "m": 60_000}[rate[2]] * most // int(rate[1])
        found[f"GATEWAY_{name}_MOST"] = str(most)
        found[f"GATEWAY_{name}_PERIOD"] = f"{max(milliseconds, 1)}ms"
    return found


def _logs(access_log: str) -> str:
    """Return where access lines go: to standard output, and where nginx would send them.

    In datagrams, which wait for nobody.
    """
    sent = re.findall(r"syslog:server=([^,;]+)", access_log)
    lines = ["log stdout len 8192 format raw local0"]
    lines += [f"log {address} len 8192 format rfc3164 local0" for address in sent]
    return "".join(f"    {line}\n" for line in lines)


def _services(source: Path, variables: Mapping[str, str]) -> Iterator[str]:
    # Listeners of our own have no port, but names that all stacks of a machine share.
    name = re.sub(r"[^\w.]+", "-", f"flagon-{variables['GATEWAY_HTTP_LISTEN']}")
    for service in SERVICES:
        given = {
            "GATEWAY_NAME": name,
            "SERVICE": service,
            "SERVER": _server(service, variables),
        }
        yield fill_file(source / "service.cfg.template", given)


def _server(service: str, variables: Mapping[str, str]) -> str:
    address = variables[f"GATEWAY_{service.upper()}"]
    if not _names(variables):
        return f"server {service} {address}"
    found = "resolvers default resolve-prefer ipv4 init-addr none"
    return f"server-template {service} {_MOST_INSTANCES} {address} {found}"


def _asked(variables: Mapping[str, str]) -> Iterator[str]:
    if not _names(variables):
        return
    for name, place in _ASKED_AT.items():
        service = name.removeprefix("GATEWAY_").lower()
        server = _server(service, variables)
        yield f"listen {service}_asked\n    bind {place}\n    {server}\n\n"


def _names(variables: Mapping[str, str]) -> bool:
    """Say whether services have names, which are to be asked for, and not addresses."""
    return not variables["GATEWAY_WEB"].startswith("127.")


def _place(listen: str) -> str:
    """Return where to listen, as HAProxy writes it."""
    place, *_ = listen.split()
    return f":{place}" if place.isdecimal() else place


def _transport_security(value: str) -> str:
    if not value:
        return ""
    header = "http-after-response set-header Strict-Transport-Security"
    return f'    {header} "{value}" if {{ ssl_fc }}\n'


def _map(text: str, name: str) -> dict[str, str]:
    """Return one of nginx's maps from statuses."""
    _, _, rest = text.partition(f"map $status ${name} {{")
    block, _, _ = rest.partition("}")
    lines = re.findall(r'^ +(\w+) (?:"(.*)"|(\S+));$', block, re.MULTILINE)
    return {key: quoted or bare for key, quoted, bare in lines}


def _said(text: str, place: str) -> str:
    """Return what nginx says at one of its own addresses; HAProxy knows no line ends."""
    body = next(body for _sign, found, body in _locations(text) if found == place)
    said = re.search(r"return 200 '(.*)';", body)
    if said is None:
        message = f"nothing is said at {place}"
        raise ValueError(message)
    return said[1].replace("\\n", "")


def _policy_of_pages(routes: str) -> str:
    """Return the content security policy of the pages of the API's document."""
    body = next(body for _, _, body in _locations(routes) if "$page.html" in body)
    policy = re.search(r'Content-Security-Policy "([^"]+)"', body)
    if policy is None:
        message = "the pages have no policy"
        raise ValueError(message)
    return policy[1]
