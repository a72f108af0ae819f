"""HAProxy's configuration, from the same sources as nginx's."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from . import gateway
from .processes import SERVICES
from .templates import fill_file

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
    routes = (source / "routes.conf.template").read_text()
    words = gateway.words(root)
    given = {
        **variables,
        "GATEWAY_CONFIG": str(target),
        "GATEWAY_LOGS": _logs(variables["GATEWAY_ACCESS_LOG"]),
        "GATEWAY_ERRORS": "".join(
            f"    http-error status {status} content-type application/problem+json"
            f" lf-string %[lua.refusal({status})] hdr Cache-Control no-store"
            + (
                f" hdr Retry-After {words.waits[status]}"
                if status in words.waits
                else ""
            )
            + "\n"
            for status in words.titles
            if int(status) in _WORDED
        ),
        "GATEWAY_PAGES_POLICY": gateway.policy_of_pages(routes),
        "GATEWAY_SERVICES": "".join(_services(source / "haproxy", variables)),
        "GATEWAY_TRANSPORT_SECURITY": _transport_security(variables["GATEWAY_HSTS"]),
        "GATEWAY_RESOLVERS": _RESOLVERS if gateway.has_names(variables) else "",
        **(_ASKED_AT if gateway.has_names(variables) else {}),
        "GATEWAY_ASKED": "".join(_asked(variables)),
        **{name: _place(variables[name]) for name in _LISTEN},
        **_limits(variables),
    }
    return {
        "haproxy.cfg": fill_file(source / "haproxy" / "haproxy.cfg.template", given),
        "gateway.lua": (source / "haproxy" / "gateway.lua").read_text(),
        "routes.map": "".join(f"{line}\n" for line in route_lines(routes, variables)),
        "problem.txt": words.problem,
        "page.txt": words.page,
        "errors.tsv": "".join(
            f"{status}\t{title}\t{words.detail(status)}\n"
            for status, title in words.titles.items()
        ),
        "server.pem": gateway.certificate(variables),
    }


def route_lines(routes: str, variables: Mapping[str, str]) -> list[str]:
    """Return the lines of HAProxy's map: a pattern each, and what is done with it."""
    return [
        # Names of groups are for nginx's own use of them.
        re.sub(r"\(\?<\w+>", "(?:", route.pattern) + " " + _value(route)
        for route in gateway.routes(routes, variables)
    ]


def _value(route: gateway.Route) -> str:
    """Return service, kind, largest body, milliseconds, limits and kind of stream."""
    # Who made the files sends them; documents are sent by Lua.
    service, kind = {
        "static": ("web", "file"),
        "files": ("documents", route.kind),
    }.get(route.service, (route.service, route.kind))
    return ":".join(
        (
            service,
            kind,
            str(route.body_bytes),
            str(route.seconds * 1000),
            "+".join(route.zones) or "none",
            route.stream,
        )
    )


def _limits(variables: Mapping[str, str]) -> dict[str, str]:
    """Return each limit as HAProxy counts: so many in so long.

    nginx lets a burst through at once and pays it back at the rate. A burst and one more,
    in the time in which so many are paid back, is the same at the start and in the long run.
    """
    found = {}
    for name, limit in gateway.limits(variables).items():
        most = limit.burst + 1
        milliseconds = limit.milliseconds * most // limit.requests
        found[f"GATEWAY_{name}_MOST"] = str(most)
        found[f"GATEWAY_{name}_PERIOD"] = f"{max(milliseconds, 1)}ms"
    return found


def _logs(access_log: str) -> str:
    """Return where access lines go: to standard output, and where nginx would send them."""
    sent = gateway.syslog_servers(access_log)
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
    if not gateway.has_names(variables):
        return f"server {service} {address}"
    found = "resolvers default resolve-prefer ipv4 init-addr none"
    return f"server-template {service} {_MOST_INSTANCES} {address} {found}"


def _asked(variables: Mapping[str, str]) -> Iterator[str]:
    if not gateway.has_names(variables):
        return
    for name, place in _ASKED_AT.items():
        service = name.removeprefix("GATEWAY_").lower()
        server = _server(service, variables)
        yield f"listen {service}_asked\n    bind {place}\n    {server}\n\n"


def _place(listen: str) -> str:
    """Return where to listen, as HAProxy writes it."""
    place = gateway.place(listen)
    return f":{place}" if place.isdecimal() else place


def _transport_security(value: str) -> str:
    if not value:
        return ""
    header = "http-after-response set-header Strict-Transport-Security"
    return f'    {header} "{value}" if {{ ssl_fc }}\n'
