"""Writing files so that a kill at any moment leaves the old or the new, never half."""

import os
from pathlib import Path


def write(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    """Write a file at once and return its path; its folder is made when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    # Created with its final mode: a secret is never readable by others, not even briefly.
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    return path
