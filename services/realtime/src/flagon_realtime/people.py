"""What the accounts that are named in rooms are called: auth knows, tokens do not."""

import time
from collections import OrderedDict

import structlog

from flagon_chassis import http
from flagon_chassis.auth import Caller
from flagon_chassis.errors import Failure

from .settings import Settings

log = structlog.get_logger()

_REMEMBERED_SECONDS = 300
_MOST_REMEMBERED = 1000


class Names:
    """The names of those who work in the back office, each asked for with its own token."""

    def __init__(self, settings: Settings) -> None:
        self._auth = http.Client(
            settings.auth_url,
            settings,
            name="auth",
            deadline_seconds=2.0,
            response_bytes=65_536,
        )
        self._known: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def find(self, caller: Caller) -> str | None:
        """Return what an account is called, None when nobody can tell right now.

        Presence goes on without names: who is there is still known by its account.
        """
        known = self._known.get(caller.sub)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        if "cnf" in caller.claims or caller.sub == caller.client_id:
            # A token that is bound to a key is worth nothing in our hands; and a program
            # is no person.
            return None
        try:
            name = str(self._auth.get("/api/v1/me", token=caller.token).json()["name"])
        except (Failure, ValueError, KeyError, TypeError) as failure:
            log.info("name_unknown", reason=type(failure).__name__)
            return None
        self._known[caller.sub] = (time.monotonic() + _REMEMBERED_SECONDS, name)
        if len(self._known) > _MOST_REMEMBERED:
            self._known.popitem(last=False)
        return name
