"""What the catalog uses beyond its database: pictures and GraphQL documents."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import IO
from uuid import uuid4

import redis
import structlog

from flagon_chassis.errors import Unavailable

from .domain import pictures

log = structlog.get_logger()

_INCOMING = "incoming"


class StudioBusy(Unavailable):
    """Other pictures are being drawn."""


class Folder:
    """Pictures as files of a local folder, which the gateway reads and sends.

    Files appear whole and are never written again.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def has(self, name: str) -> bool:
        """Say whether there is something of this name."""
        return (self._root / name).is_file()

    def read(self, name: str) -> bytes | None:
        """Return what has this name; None when nothing has."""
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, name: str, content: bytes) -> None:
        """Keep something, safe on disk when this returns; a second time does no harm."""
        incoming = self._root / _INCOMING
        incoming.mkdir(parents=True, exist_ok=True)
        written, target = incoming / uuid4().hex, self._root / name
        try:
            with written.open("xb") as file:
                # The gateway is another user, and may only read.
                os.fchmod(file.fileno(), 0o644)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            target.parent.mkdir(parents=True, exist_ok=True)
            written.rename(target)
        finally:
            written.unlink(missing_ok=True)

    def remove(self, names: Iterable[str]) -> None:
        """Forget what has these names; what is not there is no failure."""
        for name in names:
            (self._root / name).unlink(missing_ok=True)

    def sent_by_gateway(self, name: str) -> str:
        """Return the address at which the gateway finds it (gateway/routes.conf)."""
        return f"/_images/{name}"

    def probe(self) -> None:
        """Raise OSError when nothing can be kept."""
        incoming = self._root / _INCOMING
        incoming.mkdir(parents=True, exist_ok=True)
        (incoming / ".ready").touch()


class Studio:
    """Draws pictures anew, each in a process of its own, one at a time.

    :param memory_bytes: what such a process may take.
    :param seconds: how long it may work, and how long the next picture waits for it.
    """

    def __init__(self, *, pixels_max: int, memory_bytes: int, seconds: int) -> None:
        self._pixels_max = pixels_max
        self._memory_bytes = memory_bytes
        self._seconds = seconds
        self._free = threading.Lock()

    def redraw(self, file: IO[bytes]) -> pictures.Picture:
        """Return what a file shows, as a picture that holds nothing else.

        :param file: a real one, with a descriptor.
        :raises pictures.PictureUnknown: it is of no kind that is taken.
        :raises pictures.PictureTooLarge: it has too many pixels.
        :raises pictures.PictureUnreadable: it is broken, or takes too much to read.
        :raises StudioBusy: others come first.
        """
        if not self._free.acquire(timeout=self._seconds):
            raise StudioBusy("Try again in a moment.", retry_after_seconds=5)
        try:
            drawn = self._run(file)
        finally:
            self._free.release()
        if drawn.returncode == pictures.OF_NO_KIND:
            raise pictures.PictureUnknown("Send JPEG, PNG, WebP, GIF or AVIF.")
        if drawn.returncode == pictures.OF_TOO_MANY_PIXELS:
            raise pictures.PictureTooLarge(
                f"Send at most {self._pixels_max} pixels.", pixels_max=self._pixels_max
            )
        if drawn.returncode != pictures.DRAWN:
            raise pictures.PictureUnreadable("The file is broken or too complicated.")
        width, height = pictures.FRAME.unpack_from(drawn.stdout)
        return pictures.Picture(drawn.stdout[pictures.FRAME.size :], width, height)

    def _run(self, file: IO[bytes]) -> "subprocess.CompletedProcess[bytes]":
        file.seek(0)
        limits = (self._pixels_max, self._memory_bytes, self._seconds)
        command = [sys.executable, "-I", "-m", pictures.__name__, *map(str, limits)]
        try:
            return subprocess.run(  # noqa: S603 (our own program and our own numbers)
                command,
                stdin=file,
                stdout=subprocess.PIPE,
                # Pillow quotes what it reads.
                stderr=subprocess.DEVNULL,
                # No secret of this process is anything to that one.
                env={},
                cwd="/",
                timeout=self._seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as expired:
            raise pictures.PictureUnreadable("It takes too long to read.") from expired


class PersistedDocuments:
    """GraphQL documents that clients have registered, by hash, in the cache Redis.

    It may forget, and may be away: then nothing is found, and the client sends the text.
    Keys are `catalog:graphql:<sha256>` and live as long as they are used, plus
    `keep_seconds`.
    """

    def __init__(self, url: str, *, keep_seconds: int) -> None:
        self._keep_seconds = keep_seconds
        self._redis = redis.Redis.from_url(
            url,
            # A document is not worth waiting for: its client has it.
            retry=None,
            socket_timeout=0.3,
            socket_connect_timeout=0.3,
        )

    def find(self, digest: str) -> str | None:
        """Return the document of this hash, None when it is not known."""
        try:
            text = self._redis.getex(_key(digest), ex=self._keep_seconds)
        except redis.RedisError as error:
            log.warning("documents_unreachable", error=type(error).__name__)
            return None
        return text.decode() if isinstance(text, bytes) else None

    def keep(self, digest: str, text: str) -> None:
        """Remember a document, if Redis answers."""
        try:
            self._redis.set(_key(digest), text, ex=self._keep_seconds)
        except redis.RedisError as error:
            log.warning("documents_unreachable", error=type(error).__name__)


def _key(digest: str) -> str:
    return f"catalog:graphql:{digest}"
