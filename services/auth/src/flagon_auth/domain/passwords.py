"""Passwords: hashed slowly, in bounded numbers, and never weak ones."""

import hashlib
import threading
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from flagon_auth.i18n import gettext as _
from flagon_chassis.errors import Invalid, Unavailable

LENGTH_MIN = 12
LENGTH_MAX = 128
_SCORE_MIN = 3
# Of a password that holds the person's name or address, so much must be something else.
_OWN_LENGTH_MIN = 8
_WORD_LENGTH_MIN = 4
# What this place is called and about: tried first here, and nowhere else.
_OWN_WORDS = ("flagon", "password", "passwort")
# Zxcvbn refuses longer input; the first characters decide anyway.
_SCORED_LENGTH = 72
# Zxcvbn keeps the words of the present call in a global dictionary.
_scoring = threading.Lock()


class PasswordWeak(Invalid):
    """The password is too easy to guess."""


class Breached:
    """Passwords that are known from thefts, in files on this machine.

    The folder holds the answers of the range protocol of Have I Been Pwned: one file for
    each first five hexadecimal digits of the SHA-1 (`21BD1` or `21BD1.txt`), with lines
    `<the other 35>:<how often>`. Nothing is asked of the network.

    :param folder: None knows nothing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def __contains__(self, password: str) -> bool:
        if self._folder is None:
            return False
        # What the lists are made of; nothing is protected by it.
        digest = hashlib.sha1(password.encode(), usedforsecurity=False)
        start, rest = digest.hexdigest().upper()[:5], digest.hexdigest().upper()[5:]
        for name in (start, f"{start}.txt"):
            path = self._folder / name
            if path.is_file():
                with path.open(encoding="ascii", errors="replace") as lines:
                    # Lines with a count of 0 are padding.
                    return any(
                        line[:35].upper() == rest and line[36:].strip() != "0"
                        for line in lines
                    )
        return False


class TooManyHashes(Unavailable):
    """Too many people are signing in at this moment."""


class Hasher:
    """Argon2id with the parameters of the whole platform.

    19 MiB, two passes, one lane: the second of the equivalent settings that OWASP
    recommends, because several sign-ins at once then stay within the memory of a small
    container (https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html).

    :param concurrency: hashes at once in this process; the others wait.
    :param wait_seconds: for their turn, and then give up.
    :param breached: passwords that nobody may choose.
    """

    def __init__(
        self,
        *,
        concurrency: int = 2,
        wait_seconds: float = 2.0,
        breached: Breached | None = None,
    ) -> None:
        self._breached = breached or Breached()
        self._argon2 = PasswordHasher(
            time_cost=2, memory_cost=19_456, parallelism=1, hash_len=32, salt_len=16
        )
        self._turns = threading.BoundedSemaphore(concurrency)
        self._wait_seconds = wait_seconds
        # Checked in place of the hash that an unknown account does not have.
        self._dummy = self._argon2.hash("no account has this password")

    def hash(self, password: str) -> str:
        """Return the password's hash in PHC form.

        :raises TooManyHashes: it did not get its turn in time.
        """
        self._take_turn()
        try:
            return self._argon2.hash(normalise(password))
        finally:
            self._turns.release()

    def hash_new(self, password: str, *, context: Iterable[str]) -> str:
        """Return the hash of a password that somebody has just chosen.

        :param context: words that an attacker would try first, such as the own name.
        :raises PasswordWeak: with a sentence that says what to change.
        :raises TooManyHashes: it did not get its turn in time.
        """
        check_strength(password, context=context)
        if normalise(password) in self._breached:
            raise PasswordWeak(
                _("This password is known from a theft elsewhere. Choose another one.")
            )
        return self.hash(password)

    def matches(self, phc: str | None, password: str) -> bool:
        """Say whether the password belongs to the hash.

        Takes the same time without a hash, so that nobody learns which accounts exist.

        :raises TooManyHashes: it did not get its turn in time.
        """
        self._take_turn()
        try:
            self._argon2.verify(phc or self._dummy, normalise(password))
        except (VerifyMismatchError, InvalidHashError):
            return False
        finally:
            self._turns.release()
        return phc is not None

    def outdated(self, phc: str) -> bool:
        """Say whether the hash was made with other parameters than today's."""
        return self._argon2.check_needs_rehash(phc)

    def _take_turn(self) -> None:
        if not self._turns.acquire(timeout=self._wait_seconds):
            raise TooManyHashes("Try again in a moment.", retry_after_seconds=2)


def normalise(password: str) -> str:
    """Return the password as it is hashed: the same on every keyboard (NIST 800-63B)."""
    return unicodedata.normalize("NFKC", password)


def check_strength(password: str, *, context: Iterable[str] = ()) -> None:
    """Let only passwords pass that resist guessing.

    :param context: words that an attacker would try first, such as the own name.
    :raises PasswordWeak: with a sentence that says what to change.
    """
    password = normalise(password)
    if len(password) < LENGTH_MIN:
        raise PasswordWeak(_("Use at least %(least)s characters.", least=LENGTH_MIN))
    if len(password) > LENGTH_MAX:
        raise PasswordWeak(_("Use at most %(most)s characters.", most=LENGTH_MAX))
    # Loaded at the first new password: 14 MB of words that signing in never needs.
    from zxcvbn import zxcvbn  # noqa: PLC0415
    from zxcvbn.frequency_lists import FREQUENCY_LISTS  # noqa: PLC0415

    if password.lower() in FREQUENCY_LISTS["passwords"]:
        raise PasswordWeak(
            _("This is one of the passwords that everybody tries first.")
        )
    words = [
        word.lower()
        for word in (*context, *_OWN_WORDS)
        if len(word) >= _WORD_LENGTH_MIN
    ]
    if len(_without(password.lower(), words)) < _OWN_LENGTH_MIN:
        raise PasswordWeak(_("Do not build it from your name or your address."))
    with _scoring:
        found = zxcvbn(password[:_SCORED_LENGTH], user_inputs=words)
    if found["score"] < _SCORE_MIN:
        raise PasswordWeak(
            _("This can be guessed too easily. Several unrelated words are better.")
        )


def _without(password: str, words: list[str]) -> str:
    for word in sorted(words, key=len, reverse=True):
        password = password.replace(word, "")
    return password
