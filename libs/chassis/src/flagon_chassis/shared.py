"""A little memory that the workers of one server have in common."""

import hashlib
import mmap
import struct

_HEADER = struct.Struct("<dI32s")  # when, how many bytes, their SHA-256


class Cell:
    """One value of bytes with the time it is from, for a process and its forks.

    It lives in anonymous memory that is made before the workers are: nobody outside them
    can read or write it, and it outlasts any worker that is killed. There is no lock that
    a killed writer could leave closed; what was written half, or by two at once, does not
    fit its digest and counts as nothing.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._memory = mmap.mmap(-1, _HEADER.size + most_bytes)

    def put(self, value: bytes, when: float) -> None:
        """Replace the value unless there is one of a later time; too long ones are left."""
        if len(value) <= self._most_bytes and when > self.when():
            digest = hashlib.sha256(value).digest()
            header = _HEADER.pack(when, len(value), digest)
            self._memory[: _HEADER.size + len(value)] = header + value

    def when(self) -> float:
        """Return the time that the value is from; 0 when there never was one."""
        return float(_HEADER.unpack_from(self._memory)[0])

    def get(self) -> tuple[bytes, float] | None:
        """Return the value and its time."""
        when, length, digest = _HEADER.unpack_from(self._memory)
        value = self._memory[_HEADER.size : _HEADER.size + length]
        if hashlib.sha256(value).digest() != digest:
            return None
        return value, when


jwks: Cell | None = None
"""The newest key set that a worker of this server fetched; None outside of a server."""


def share() -> None:
    """Make what the workers that are forked from now on have in common."""
    global jwks  # noqa: PLW0603 (one server is one process)
    jwks = Cell(64 * 1024)
