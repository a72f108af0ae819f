"""What the catalog uses beyond its database: pictures and GraphQL documents."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

import redis
import structlog

from flagon_chassis import stores
from flagon_chassis.errors import Unavailable

from .domain import images, pictures
from .settings import Settings

log = structlog.get_logger()

_INCOMING = "incoming"
_SIGNED = timedelta(minutes=1)
"""How long the gateway has to fetch what it was told to."""


class StudioBusy(Unavailable):
    """Other pictures are being drawn."""


class PicturesUnreachable(Unavailable):
    """The store of pictures does not answer."""


class Store(images.Storage, Protocol):
    """Where pictures lie and how the gateway gets them from there."""

    def handed_over(self, name: str) -> dict[str, str] | None:
        """Return the headers that have the gateway send something of this name.

        None: there is nothing of this name. The gateway may still find nothing.
        """

    def probe(self) -> None:
        """Raise whatever keeps pictures from being stored."""


def store_of(settings: Settings) -> Store:
    """Return the store that the settings ask for."""
    if settings.images_dir:
        return Folder(settings.images_dir)
    return Bucket(
        settings.images_url,
        region=settings.images_region,
        key_id=settings.images_key_id,
        key=settings.images_key.get_secret_value(),
    )


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

    def handed_over(self, name: str) -> dict[str, str] | None:
        """Return the headers that have the gateway send a file, None if there is none."""
        if not self.has(name):
            return None
        return {"X-Accel-Redirect": f"/_images/{name}"}

    def probe(self) -> None:
        """Raise OSError when nothing can be kept."""
        incoming = self._root / _INCOMING
        incoming.mkdir(parents=True, exist_ok=True)
        (incoming / ".ready").touch()


class Bucket:
    """Pictures in a bucket of a store that speaks the S3 protocol.

    The gateway gets them from there by itself, with an address signed for a minute, so
    neither it nor a browser has a key.

    :param url: of the bucket: `https://s3.example.com/pictures`.
    """

    def __init__(self, url: str, *, region: str, key_id: str, key: str) -> None:
        # 15 MB that nobody needs who has a folder.
        from obstore.store import S3Store  # noqa: PLC0415

        parts = urlsplit(url)
        self._host = parts.netloc
        self._bucket = S3Store(
            parts.path.strip("/"),
            endpoint=f"{parts.scheme}://{parts.netloc}",
            region=region,
            access_key_id=key_id,
            secret_access_key=key,
            virtual_hosted_style_request=False,
            client_options={
                "allow_http": parts.scheme == "http",
                "connect_timeout": "1s",
                # Rows are locked meanwhile: less than what Postgres lets us be idle.
                "timeout": "4s",
            },
            retry_config={
                "max_retries": 1,
                "retry_timeout": timedelta(seconds=4),
            },
        )

    def has(self, name: str) -> bool:
        """Say whether there is something of this name."""
        with _answering():
            try:
                self._bucket.head(name)
            except FileNotFoundError:
                return False
            return True

    def read(self, name: str) -> bytes | None:
        """Return what has this name; None when nothing has."""
        with _answering():
            try:
                return bytes(self._bucket.get(name).bytes())
            except FileNotFoundError:
                return None

    def put(self, name: str, content: bytes) -> None:
        """Keep something; a second time does no harm."""
        with _answering():
            self._bucket.put(
                name,
                content,
                attributes={"Content-Type": "image/webp"},
                # In one request: it appears whole or not at all.
                use_multipart=False,
            )

    def remove(self, names: Iterable[str]) -> None:
        """Forget what has these names; what is not there is no failure."""
        with _answering():
            self._bucket.delete(list(names))

    def handed_over(self, name: str) -> dict[str, str] | None:
        """Return the headers that have the gateway fetch something and send it.

        Made without asking: if there is nothing, the gateway finds out and answers 404.
        """
        # Signed in this process; nothing is asked.
        import obstore  # noqa: PLC0415

        signed = urlsplit(obstore.sign(self._bucket, "GET", name, _SIGNED))
        return {
            "X-Accel-Redirect": f"/_bucket{signed.path}?{signed.query}",
            # The signature holds for this name of the store alone.
            "X-Bucket-Host": self._host,
        }

    def probe(self) -> None:
        """Raise PicturesUnreachable when the store does not answer, or refuses us."""
        self.has(".ready")


@contextmanager
def _answering() -> Iterator[None]:
    from obstore.exceptions import BaseError  # noqa: PLC0415

    try:
        yield
    except BaseError as error:
        # Its message has addresses and whatever the store said.
        log.warning("pictures_unreachable", error=type(error).__name__)
        raise PicturesUnreachable(
            "Pictures cannot be stored or read now.", retry_after_seconds=5
        ) from error


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
        self._redis = stores.client(
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
