"""`make places`: write the recipes of deploy/{procfile,aws,gcp,azure,vm}."""

import sys
from pathlib import Path

from . import aws, azure, gcp, procfile, vm
from .platform import ROOT, parts


def made() -> dict[Path, str]:
    """Return every file that is made, by its place."""
    found = parts()
    return {
        ROOT / "deploy" / name: text
        for place in (procfile, aws, gcp, azure, vm)
        for name, text in place.files(found).items()
    }


def main() -> int:
    """Write them."""
    for path, text in made().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
