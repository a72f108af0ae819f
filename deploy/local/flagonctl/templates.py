"""Filling `${NAME}` in templates, as envsubst does, but strictly."""

import re
from collections.abc import Mapping
from pathlib import Path

_PLACE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)\}")


def fill(text: str, variables: Mapping[str, str]) -> str:
    """Return the text with every `${NAME}` replaced; nginx's own `$name` stay.

    :raises KeyError: a variable that the text needs is not given.
    """
    return _PLACE.sub(lambda found: variables[found[1]], text)


def names(text: str) -> set[str]:
    """Return the names of the variables that a text needs."""
    return set(_PLACE.findall(text))


def fill_file(path: Path, variables: Mapping[str, str]) -> str:
    """Return the filled text of a file; the message of a failure names the file."""
    text = path.read_text()
    missing = names(text) - set(variables)
    if missing:
        message = f"{path} needs {', '.join(sorted(missing))}"
        raise KeyError(message)
    return fill(text, variables)
