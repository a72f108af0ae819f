"""Which machine may be loaded."""

from urllib.parse import urlsplit

LOCAL = {"localhost", "127.0.0.1", "::1"}


class NotAllowed(Exception):
    """Nobody named this machine."""


def target(host: str, port_base: int) -> tuple[str, bool]:
    """Return the address to load and whether it is of this machine.

    :param host: named by a person; empty for the stack of this machine.
    :raises NotAllowed: it is no http address, or says who signs in.
    """
    url = host or f"http://localhost:{port_base}"
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise NotAllowed(f"{url} is no address: HOST=https://shop.example")
    if parts.username or parts.path not in {"", "/"} or parts.query:
        raise NotAllowed(f"{url} is more than a host: HOST=https://{parts.hostname}")
    return url.rstrip("/"), parts.hostname in LOCAL
