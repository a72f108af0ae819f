"""Which addresses on the network a stranger may have us talk to."""

import ipaddress
import re
from dataclasses import dataclass

PORTS = (443, 8443)
"""Of the addresses outside; no mail server and no database takes webhooks."""

# Written out: what the library calls global has changed with each of its versions.
_REFUSED = [
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT, and some clouds' metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's own service, on an address of the open net
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        # These carry an IPv4 address in them, any one.
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2001::/32",
        "2002::/16",
        "2001:db8::/32",
        "3fff::/20",
    )
]
_GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")

# Stricter than the standard: what two parsers could read differently is not taken.
_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>/[!$&'()*+,\-./0-9:;=?@A-Z_a-z~%]*)?"
)


class AddressRefused(ValueError):
    """Nothing is sent there; the text says why."""


@dataclass(frozen=True)
class Place:
    """Where a URL leads, taken apart."""

    scheme: str
    host: str
    """A name, or an address without brackets."""
    port: int
    target: str
    """Path and query."""

    @property
    def authority(self) -> str:
        """What the `Host` header says."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        usual = {"https": 443, "http": 80}[self.scheme]
        return name if self.port == usual else f"{name}:{self.port}"


def place(url: str, *, loopback: bool = False) -> Place:
    """Take a URL apart.

    :param loopback: whether plain HTTP and other ports may be, for this machine alone.
    :raises AddressRefused: it is none that we send to.
    """
    found = _URL.fullmatch(url)
    if found is None:
        message = (
            "is no plain `https://host/path`: no user, no fragment, nothing to escape"
        )
        raise AddressRefused(message)
    scheme = found["scheme"]
    port = int(found["port"] or {"https": 443, "http": 80}[scheme])
    if not loopback:
        if scheme != "https":
            message = "must begin with https"
            raise AddressRefused(message)
        if port not in PORTS:
            message = f"must have one of the ports {', '.join(map(str, PORTS))}"
            raise AddressRefused(message)
    host = found["host"].strip("[]")
    try:
        check(host, loopback=loopback)
    except ValueError as error:
        # A name; what it stands for is checked whenever something is sent.
        if isinstance(error, AddressRefused):
            raise
    return Place(scheme, host, port, found["target"] or "/")


def check(text: str, *, loopback: bool = False) -> None:
    """Let an address of the open network pass.

    :param loopback: whether one of this machine may pass, too.
    :raises AddressRefused: it is of some inner network, or hides one.
    :raises ValueError: it is no address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if loopback and address.is_loopback:
        return
    inner = (
        not address.is_global
        or address.is_multicast
        or any(address in network for network in _REFUSED)
        or (address.version == 6 and address not in _GLOBAL_IPV6)  # noqa: PLR2004
    )
    if inner:
        message = "leads to an address that is not of the open network"
        raise AddressRefused(message)
