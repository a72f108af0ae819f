"""Guessing made slow: passwords, codes, keys, and whatever else can be tried out.

A guess is counted before it is checked and taken back when it was right. It counts for
the account from one place, for the account from everywhere and for the place, so that
neither one attacker nor a thousand get many tries. Nobody is locked out: beyond the free
ones guesses must wait longer and longer, up to a minute, and who comes from a browser
that the account has been signed in with before is counted apart.
"""

import hashlib
import hmac
import ipaddress
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from flask import Flask, Response, g, request

from flagon_chassis import metrics
from flagon_chassis.errors import Throttled, Unavailable

from .attempts import Attempts, Limit
from .devices import DeviceCookie

log = structlog.get_logger()


class TooManyAttempts(Throttled):
    """Too many attempts."""


@dataclass(frozen=True)
class Allowance:
    """Attempts without waiting, and how they are forgotten."""

    free: int
    seconds: int
    """How long nothing must be tried until all is forgotten."""
    delay_seconds: int = 60
    """The longest wait between attempts beyond the free ones; 0: a fixed window."""


@dataclass(frozen=True)
class Rule:
    """How often one thing may be tried."""

    pair: Allowance | None = None
    """At one account from one place."""
    account: Allowance | None = None
    """At one account from everywhere."""
    place: Allowance | None = None
    """From one place, whatever the account."""
    device: Allowance | None = None
    """At one account from a browser it has been signed in with; instead of the others."""


_QUARTER = 15 * 60
_HOUR = 60 * 60


def rules(
    *, pair: int, account: int, place: int, seconds: int, register: int
) -> dict[str, Rule]:
    """Return what can be tried and how often.

    :param pair: free guesses at a password from one place.
    :param account: free guesses at a password from everywhere.
    :param place: free guesses at all passwords from one place.
    :param seconds: how long until wrong passwords are forgotten.
    :param register: registrations from one place in an hour.
    """
    return {
        "password": Rule(
            pair=Allowance(pair, seconds),
            account=Allowance(account, seconds),
            place=Allowance(place, seconds),
            device=Allowance(2 * pair, seconds),
        ),
        # Six digits are few, and only who has the first factor gets here: the waits may
        # be longer.
        "second_factor": Rule(
            pair=Allowance(5, _HOUR, _QUARTER),
            account=Allowance(10, _HOUR, _QUARTER),
            place=Allowance(100, _QUARTER),
            device=Allowance(10, _HOUR, _QUARTER),
        ),
        # 120 random bits: slow for one place, and nobody can slow the owner down.
        "recovery_code": Rule(place=Allowance(10, _QUARTER)),
        # Eight letters that live for ten minutes. Counted for who is signed in and types
        # them: whose they are is not known.
        "device_code": Rule(
            account=Allowance(10, _QUARTER), place=Allowance(20, _QUARTER)
        ),
        # Links in mails hold 256 bits.
        "link": Rule(place=Allowance(30, _QUARTER)),
        # Secrets of clients hold 256 bits; only failures count, against the noise.
        "client": Rule(place=Allowance(50, _QUARTER)),
        "passkey": Rule(place=Allowance(50, _QUARTER)),
        # What is not guessed, but must not be done without end either. Mails are counted
        # for their recipient as well; the last one they got still works.
        "register": Rule(place=Allowance(register, _HOUR, 0)),
        "mail": Rule(account=Allowance(3, _HOUR, _QUARTER), place=Allowance(30, _HOUR)),
        "social": Rule(place=Allowance(60, _QUARTER)),
        "device_start": Rule(place=Allowance(120, _QUARTER)),
        "export": Rule(account=Allowance(5, _HOUR, 0)),
    }


class Guess:
    """One guess under way."""

    def __init__(self, attempts: Attempts, limits: Sequence[Limit]) -> None:
        self._attempts = attempts
        self._limits = limits
        self._open = True

    def right(self) -> None:
        """Take the guess back: it was none. Harmless to repeat."""
        if self._open:
            self._open = False
            # The place is not forgotten: signing in to one's own account in between
            # would give an attacker guesses at all others.
            own = [limit for limit in self._limits if limit.key.startswith(_OWN)]
            others = [limit for limit in self._limits if limit not in own]
            if own:
                self._attempts.forget(own)
            if others:
                self._attempts.give_back(others)

    def take_back(self) -> None:
        """Take the guess back because it could not be checked."""
        if self._open:
            self._open = False
            self._attempts.give_back(self._limits)


_OWN = ("pair:", "device:")


class Guesses:
    """Lets guesses through, slowly.

    :param key: makes counters of which nobody can tell whom they are about.
    """

    def __init__(
        self,
        attempts: Attempts,
        devices: DeviceCookie,
        rules: dict[str, Rule],
        *,
        key: bytes,
    ) -> None:
        self._attempts = attempts
        self._devices = devices
        self._rules = rules
        self._key = hmac.digest(key, b"guesses", "sha256")

    def init_app(self, app: Flask) -> None:
        """Add what refusals and known devices need in answers."""
        app.after_request(self._finish)

    @contextmanager
    def guess(self, what: str, *, account: str = "") -> Iterator[Guess]:
        """Count one guess before the block checks it.

        Call `right()` on what this yields when the guess was right; without it the guess
        stays counted. A block that ends by `Unavailable` checked nothing.

        :param what: a name of `rules`.
        :param account: the e-mail address that is guessed at, however it is written.
        :raises TooManyAttempts: it has to wait; a page or a problem with `Retry-After`.
        """
        guess = self._begin(what, account)
        try:
            yield guess
        except Unavailable:
            guess.take_back()
            raise

    def spend(self, what: str, *, account: str = "") -> None:
        """Count something that costs us or somebody else work.

        :raises TooManyAttempts: it was done too often.
        """
        self._begin(what, account)

    def fail(self, what: str, *, account: str = "") -> None:
        """Count a failure afterwards, where guessing is hopeless and success is free.

        :raises TooManyAttempts: there were too many.
        """
        self._begin(what, account)

    def remember_device(self, account: str) -> None:
        """Let the browser's guesses at this account be counted apart from now on."""
        g.flagon_known_account = self._digest("device", account)

    def _begin(self, what: str, account: str) -> Guess:
        limits = self._limits(what, account)
        refusal = self._attempts.take(limits)
        if refusal is None:
            return Guess(self._attempts, limits)
        metrics.counter(
            "flagon_attempts_refused_total",
            "Attempts that had to wait, by what was tried.",
            "what",
        ).labels(what).inc()
        log.info("attempt_refused", what=what)
        g.refused_guess = (what, refusal)
        raise TooManyAttempts(
            f"Try again in {spoken(refusal.wait_seconds)}.",
            retry_after_seconds=refusal.wait_seconds,
        )

    def _limits(self, what: str, account: str) -> list[Limit]:
        rule = self._rules[what]
        place = network(request.remote_addr)
        whom = self._digest("account", account)
        device = self._devices.read(request, self._digest("device", account))
        if rule.device and device:
            return [_limit(rule.device, f"device:{what}:{whom}:{device}")]
        limits = []
        if rule.pair:
            limits.append(_limit(rule.pair, f"pair:{what}:{whom}:{place}"))
        if rule.account:
            limits.append(_limit(rule.account, f"account:{what}:{whom}"))
        if rule.place:
            limits.append(_limit(rule.place, f"address:{what}:{place}"))
        return limits

    def _digest(self, purpose: str, account: str) -> str:
        # Counters must not list who has an account here, nor let anybody find out.
        known = unicodedata.normalize("NFKC", account).strip().casefold()
        message = f"{purpose}:{known}".encode(errors="replace")
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:32]

    def _finish(self, response: Response) -> Response:
        if "refused_guess" in g:
            what, refusal = g.refused_guess
            wait, limit = refusal.wait_seconds, refusal.limit
            # https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
            response.headers["RateLimit-Policy"] = (
                f'"{what}";q={limit.times};w={limit.seconds}'
            )
            response.headers["RateLimit"] = f'"{what}";r=0;t={wait}'
            response.headers["Retry-After"] = str(wait)
        if "flagon_known_account" in g:
            self._devices.write(request, response, g.flagon_known_account)
        return response


def _limit(allowance: Allowance, key: str) -> Limit:
    return Limit(key, allowance.free, allowance.seconds, allowance.delay_seconds)


def network(address: str | None) -> str:
    """Return what counts as one place: an IPv4 address, or an IPv6 network of a home."""
    try:
        ip = ipaddress.ip_address(address or "")
    except ValueError:
        return "unknown"
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if ip.version == 4:  # noqa: PLR2004 (the version's name)
        return str(ip)
    return str(ipaddress.ip_network((ip, 64), strict=False).network_address)


def spoken(seconds: int) -> str:
    """Return a waiting time as people say it."""
    minutes = -(-seconds // 60)
    if seconds < 60:  # noqa: PLR2004 (a minute)
        return f"{seconds} seconds" if seconds > 1 else "a second"
    return f"{minutes} minutes" if minutes > 1 else "a minute"
