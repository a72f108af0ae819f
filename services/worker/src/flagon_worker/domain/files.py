"""The files of jobs: uploads come in, artefacts go out, and both go when the job does."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import BinaryIO
from uuid import UUID, uuid4

from flagon_chassis.errors import Failure, NotFound

from .jobs import Upload

_INCOMING = "incoming"
_UPLOAD = "upload"
_NAME_CHARS_MAX = 120
_ORPHAN_SECONDS = 3600


class UploadTooLarge(Failure):
    """The file is larger than a job may bring."""

    status = 413


class ArtefactNotFound(NotFound):
    """The job has no such file."""


class Incoming:
    """A file being received: written once, counted and hashed on the way.

    :raises UploadTooLarge: by `write`, as soon as there is more than allowed.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        incoming = folder / _INCOMING
        incoming.mkdir(parents=True, exist_ok=True)
        self._path = incoming / uuid4().hex
        self._file: BinaryIO = self._path.open("xb")
        self._limit_bytes = limit_bytes
        self._digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> int:
        """Add bytes."""
        self.bytes += len(data)
        if self.bytes > self._limit_bytes:
            raise UploadTooLarge(
                f"Send at most {self._limit_bytes} bytes, in several jobs if need be.",
                limit_bytes=self._limit_bytes,
            )
        self._digest.update(data)
        return self._file.write(data)

    def seek(self, place: int) -> int:
        """Do nothing: the form parser rewinds what it has written."""
        return place

    def keep(self, target: Path, name: str) -> Upload:
        """Make the file a job's upload, safe on disk, and return its description."""
        self._file.flush()
        os.fsync(self._file.fileno())
        target.mkdir(parents=True)
        self._path.rename(target / _UPLOAD)
        return Upload(safe_name(name), self.bytes, self._digest.hexdigest())

    @property
    def sha256(self) -> str:
        """The digest of what was received."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Close the file; forget it unless it was kept."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def safe_name(name: str) -> str:
    """Return a file name to show: no folders, no control characters, not too long."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    shown = "".join(character for character in last if character.isprintable())
    # A lone surrogate is printable to nobody and storable nowhere.
    shown = shown.encode("utf-8", "ignore").decode().strip()
    return shown[:_NAME_CHARS_MAX] or "upload"


def folder_of(files: Path, job_id: UUID) -> Path:
    """Return where the files of a job are."""
    return files / str(job_id)


def find_artefact(files: Path, job_id: UUID, name: str, known: Collection[str]) -> Path:
    """Return the path of a file that a job made.

    :param known: the names that the job's row lists; no other is ever looked for.
    :raises ArtefactNotFound: there is none of this name.
    """
    path = folder_of(files, job_id) / name
    if name not in known or not path.is_file():
        raise ArtefactNotFound("The job has no such file.")
    return path


def remove_files(files: Path, job_id: UUID) -> None:
    """Remove the files of a job; safe to run twice."""
    shutil.rmtree(folder_of(files, job_id), ignore_errors=True)


def purge_orphans(
    files: Path,
    existing: Callable[[list[UUID]], Iterable[UUID]],
    clock: Callable[[], float] = time.time,
) -> int:
    """Remove what crashed requests left behind, and return how many files or folders.

    :param existing: says which of some jobs there are.
    """
    before = clock() - _ORPHAN_SECONDS
    old = [
        path
        for path in (*files.glob("*-*-*-*-*"), *(files / _INCOMING).glob("*"))
        if path.stat().st_mtime < before
    ]
    folders = {UUID(path.name): path for path in old if path.parent == files}
    orphans = [path for path in old if path.parent != files]
    orphans += [
        folders[job_id] for job_id in folders.keys() - set(existing(list(folders)))
    ]
    for path in orphans:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(orphans)
