"""Apache's configuration, from the same sources as nginx's."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from . import gateway
from .gateway import Route
from .processes import SERVICES
from .templates import fill_file

_MODULES = "/usr/lib/apache2/modules"
_COUNTS_TO = 32_767
"""It has 16 bits for requests and seconds, and says nothing of what is too large."""
_TEMPLATES = ("httpd.conf", "asked.conf", "site.conf", "inside.conf", "gateway.lua")
_MEMBER = "connectiontimeout=2 retry=0 upgrade=websocket"


def files(root: Path, target: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """Return every file that Apache reads, by name.

    :param target: the folder where it will find them.
    :param variables: those of nginx; what Apache needs in another form is made of them.
    """
    source = root / "gateway"
    text = (source / "routes.conf.template").read_text()
    routes = gateway.routes(text, variables)
    log = variables["GATEWAY_ACCESS_LOG"]
    given = {
        **variables,
        "GATEWAY_CONFIG": str(target),
        "GATEWAY_MODULES": _MODULES,
        "GATEWAY_ACCESS_LOG": log.split(maxsplit=1)[0],
        "GATEWAY_SENT_LOGS": "".join(_sent_logs(log)),
        "GATEWAY_BODY_BYTES": str(gateway.size(variables["GATEWAY_BODY_LIMIT"])),
        "GATEWAY_TYPES": "".join(_types(source)),
        "GATEWAY_PAGES_POLICY": gateway.policy_of_pages(text),
        "GATEWAY_POOLS": "".join(_pools(routes, variables)),
        "GATEWAY_ROUTES": "".join(route_lines(routes)),
        "GATEWAY_HOSTS": _hosts(variables["GATEWAY_SERVER_NAMES"]),
        "GATEWAY_TRANSPORT_SECURITY": _transport_security(variables["GATEWAY_HSTS"]),
        **_errors(gateway.words(root)),
        **_places(variables),
        **_limits(variables),
    }
    return {
        name: fill_file(source / "apache" / f"{name}.template", given)
        for name in _TEMPLATES
    } | {
        "server.pem": gateway.certificate(variables),
        "healthz.json": '{"status":"alive"}\n',
    }


def route_lines(routes: list[Route]) -> Iterator[str]:
    """Yield a rule for each route; the first that fits skips those after it."""
    for number, route in enumerate(routes):
        # Groups have numbers here.
        named = re.findall(r"\(\?<(\w+)>", route.pattern)
        pattern = re.sub(r"\(\?<\w+>", "(", route.pattern)
        skip = f"S={len(routes) - number - 1}"
        flags = [*_said(route), skip]
        to = "-"
        if route.service == "nowhere":
            flags = ["E=refused:404", skip]
        elif route.service == "moved":
            to, flags = route.leads_to, ["R=308", "L"]
        elif route.leads_to:
            # The rules after this one find what is meant.
            to, flags = route.leads_to, []
        elif route.file:
            to = _file(route.file, named)
            if to.endswith("/"):
                pattern, to = f"{pattern}(.+)$", f"{to}$1"
            flags += ["E=file:1", "L"]
            if route.media_type:
                charset = "; charset=utf-8" * route.media_type.startswith("text/")
                flags.append(f"T={route.media_type}{charset}")
            if route.media_type == "text/html":
                flags.append("E=document:1")
            if route.service == "static":
                flags.append("E=static:1")
            flags.remove(skip)
        listed = f' "[{",".join(flags)}]"' if flags else ""
        yield f'RewriteRule "{pattern}" "{to}"{listed}\n'


def _said(route: Route) -> Iterator[str]:
    """Yield what is noted of a request for those who come after."""
    service, target = route.service, "%{ENV:path}"
    if service == "described":
        service, target = "$1", "/openapi.json"
    yield f"E=service:{service}"
    yield f"E=target:{target}"
    yield f"E=kind:{route.kind}"
    yield f"E=seconds:{route.seconds}"
    yield f"E=QS_LimitRequestBody:{route.body_bytes}"
    for zone in route.zones:
        yield (
            "E=guessed:1" if zone == "sign_in" else f"E=limit_{zone}:1,E=QS_Cond:{zone}"
        )
    if route.stream != "plain":
        yield "E=stream:1"
    if route.stream == "upgrade":
        yield "E=upgrade:1"


def _file(file: str, named: list[str]) -> str:
    for number, name in enumerate(named, 1):
        file = file.replace(f"${name}", f"${number}")
    return file


def _pools(routes: list[Route], variables: Mapping[str, str]) -> Iterator[str]:
    """Yield the ways to each service: as long as routes wait, kept and fresh."""
    waits = {(route.service, route.seconds) for route in routes}
    waits |= {(service, gateway.SERVICE_SECONDS) for service in SERVICES}
    # Containers come back with other addresses.
    found = " addressttl=1" if gateway.has_names(variables) else ""
    for service, seconds in sorted(waits):
        if service in SERVICES:
            member = variables[f"GATEWAY_{service.upper()}"]
            name, wait = f"{service}-{seconds}", f"timeout={seconds}{found}"
            yield from _pool(name, member, f"{wait} ttl=60")
            yield from _pool(f"{name}-fresh", member, f"{wait} disablereuse=on")
    inside = gateway.place(variables["GATEWAY_INTERNAL_LISTEN"])
    inside = f"127.0.0.1:{inside}" if inside.isdecimal() else inside
    yield from _pool("once", inside, "timeout=300 disablereuse=on")


def _pool(name: str, address: str, options: str) -> Iterator[str]:
    yield f'<Proxy "balancer://{name}">\n'
    yield f'    BalancerMember "http://{address}" {_MEMBER} {options}\n'
    yield "</Proxy>\n"


def _types(source: Path) -> Iterator[str]:
    """Yield the kinds of files, as nginx lists them."""
    text = (source / "nginx.conf.template").read_text()
    _, _, rest = text.partition("types {")
    for line in rest.partition("}")[0].split(";"):
        if line.strip():
            kind, *endings = line.split()
            yield f"AddType {kind} {' '.join(f'.{ending}' for ending in endings)}\n"


def _errors(words: gateway.Words) -> dict[str, str]:
    problems, pages, headers = "", "", ""
    for status, title in words.titles.items():
        # nginx has a number of its own for large headers.
        if status == "494":
            continue
        for form in (words.problem, words.page):
            said = (
                form.replace("$problem_title", title)
                .replace("$problem_detail", words.detail(status))
                .replace("$status", status)
                .replace("$rid", "%{reqenv:rid}")
                .replace('"', '\\"')
            )
            line = f'ErrorDocument {status} "{said}"\n'
            if form is words.page:
                pages += f"    {line}"
            else:
                problems += line
        if status in words.waits:
            headers += (
                f"Header always set Retry-After {words.waits[status]} "
                "\"expr=%{CONTENT_TYPE} == 'text/html; charset=iso-8859-1' "
                f"&& %{{REQUEST_STATUS}} == '{status}'\"\n"
            )
    return {
        "GATEWAY_PROBLEMS": problems,
        "GATEWAY_ERROR_PAGES": pages,
        "GATEWAY_ERROR_HEADERS": headers,
    }


def _limits(variables: Mapping[str, str]) -> dict[str, str]:
    """Return each limit as mod_qos counts: so many in so many seconds.

    nginx lets a burst through at once and pays it back at the rate. A burst and one more,
    in the time in which so many are paid back, is the same at the start and in the long
    run; where that is no whole number of seconds, as many more as the rate allows.
    """
    found = {}
    for name, limit in gateway.limits(variables).items():
        most = limit.burst + 1
        seconds = max(1, -(-limit.milliseconds * most // limit.requests // 1000))
        paid = seconds * 1000 * limit.requests // limit.milliseconds
        # It refuses who has reached the number.
        reached = max(most, paid) + 1
        if max(reached, seconds) > _COUNTS_TO:
            message = (
                f"mod_qos counts to {_COUNTS_TO}, which GATEWAY_{name}_RATE exceeds"
            )
            raise ValueError(message)
        found[f"GATEWAY_{name}_MOST"] = str(reached)
        found[f"GATEWAY_{name}_PERIOD"] = str(seconds)
    return found


def _places(variables: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name in ("HTTP", "HTTPS", "INTERNAL"):
        place = gateway.place(variables[f"GATEWAY_{name}_LISTEN"])
        found[f"GATEWAY_{name}_LISTEN"] = place
        found[f"GATEWAY_{name}_HOST"] = f"*:{place}" if place.isdecimal() else place
    return found


def _hosts(names: str) -> str:
    return "|".join(re.escape(name).replace(r"\*", "[^:/]+") for name in names.split())


def _sent_logs(access_log: str) -> Iterator[str]:
    """Yield where else lines go: in datagrams, by the system's own program for that."""
    for address in gateway.syslog_servers(access_log):
        host, _, port = address.rpartition(":")
        yield (
            f'CustomLog "|/usr/bin/logger --server {host} --port {port} --udp --rfc3164'
            ' --size 8192 --tag gateway" json env=!unseen\n'
        )


def _transport_security(value: str) -> str:
    if not value:
        return ""
    header = "Header always set Strict-Transport-Security"
    return f'{header} "{value}" "expr=%{{HTTPS}} == \'on\'"\n'
