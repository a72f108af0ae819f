"""`make api`: write the document of the API, or say why it may not be so.

python -m flagonapi write      docs/api/openapi.json, made of the code
python -m flagonapi check      the same without writing; 1 when anything is wrong
python -m flagonapi release    what it says now is promised from now on
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from . import changes, merge

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs/api/openapi.json"
RELEASED = ROOT / "docs/api/released.json"


def main() -> int:
    """Do what was asked for and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["write", "check", "release"])
    action = parser.parse_args().action
    document = merge.merged()
    broken = []
    if RELEASED.exists():
        broken = complaints(json.loads(RELEASED.read_text()), document)
    for line in broken:
        print(f"breaks clients: {line}", file=sys.stderr)
    if broken:
        print(
            "Keep what was promised, or raise the first number of VERSION in"
            " deploy/api/flagonapi/merge.py and the `/api/v1` of its paths.",
            file=sys.stderr,
        )
        return 1
    if action == "check":
        if DOCUMENT.exists() and DOCUMENT.read_text() == text(document):
            return 0
        print("docs/api/openapi.json is old. Next: make api", file=sys.stderr)
        return 1
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(text(document))
    if action == "release":
        RELEASED.write_text(text(changes.contract(document)))
    return 0


def complaints(released: dict[str, Any], document: dict[str, Any]) -> list[str]:
    """Return what a document breaks of a release, unless its version says so."""
    if changes.major(document) > changes.major(released):
        return []
    return changes.breaking(released, document)


def text(document: dict[str, Any]) -> str:
    """Return the document as it is kept: one line for each thing that can change."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main())
