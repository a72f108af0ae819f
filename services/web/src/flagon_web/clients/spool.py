"""Uploaded files between the steps of the import form."""

import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from flagon_chassis.errors import NotFound
from flagon_web.i18n import gettext as _

_TICKET = re.compile(r"\A[A-Za-z0-9_-]{43}\Z")
_CHUNK_BYTES = 1 << 20


class UploadGone(NotFound):
    """The uploaded file is no longer here; choose it again."""


class Spool:
    """A folder of files that wait, each under a name that cannot be guessed.

    :param seconds: how long a file waits before it is deleted.
    """

    def __init__(
        self, folder: Path, *, seconds: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._seconds = seconds
        self._clock = clock

    def keep(self, content: IO[bytes]) -> str:
        """Store a file and return the ticket that opens it again."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.sweep()
        ticket = secrets.token_urlsafe(32)
        # Nobody sees half a file: the name it has while it is written opens nothing.
        part = self._folder / f"{ticket}.part"
        with part.open("xb") as file:
            while chunk := content.read(_CHUNK_BYTES):
                file.write(chunk)
        part.rename(self._path(ticket))
        return ticket

    def path(self, ticket: str) -> Path:
        """Return where the file of a ticket is.

        :raises UploadGone: it waited too long, or there never was one.
        """
        if not self.holds(ticket):
            raise UploadGone(_("Uploads are kept for a while only."))
        return self._path(ticket)

    def holds(self, ticket: str) -> bool:
        """Say whether the file of a ticket is still here; it goes if it waited too long."""
        if not _TICKET.match(ticket):
            return False
        file = self._path(ticket)
        self._forget(file)
        return file.is_file()

    def drop(self, ticket: str) -> None:
        """Delete the file of a ticket, if it is still there."""
        if _TICKET.match(ticket):
            self._path(ticket).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Delete what waited too long."""
        for file in self._folder.iterdir():
            self._forget(file)

    def _forget(self, file: Path) -> None:
        """Delete a file if it waited too long."""
        # Another process may be faster.
        with suppress(FileNotFoundError):
            if file.stat().st_mtime < self._clock() - self._seconds:
                file.unlink()

    def _path(self, ticket: str) -> Path:
        return self._folder / f"{ticket}.upload"
