"""Write docs/events-log.md: every line that the services write, found in their code.

`make log-events` runs it; with `check` nothing is written, and what is missing is named.
What a line means is written by hand into the last column of the page's table, and kept,
as is what stands above it; the rest is read from the calls of `log`.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "events-log.md"
LEVELS = ("debug", "info", "warning", "error", "critical")
UNSAID = "?"
_RULE = "|---|---|---|---|---|\n"


@dataclass
class Line:
    """All calls that write one event."""

    levels: set[str] = field(default_factory=set)
    writers: set[str] = field(default_factory=set)
    members: set[str] = field(default_factory=set)


def found() -> dict[str, Line]:
    """Return the lines that the code writes, by event."""
    lines: dict[str, Line] = defaultdict(Line)
    for folder in (ROOT / "libs" / "chassis", *sorted((ROOT / "services").iterdir())):
        for file in sorted(folder.glob("src/**/*.py")):
            for event, level, members in _calls(ast.parse(file.read_text())):
                line = lines[event]
                line.levels.add(level)
                line.writers.add("all" if folder.name == "chassis" else folder.name)
                line.members |= members
    return dict(sorted(lines.items()))


def _calls(tree: ast.AST) -> Iterator[tuple[str, str, set[str]]]:
    for call in ast.walk(tree):
        match call:
            case ast.Call(
                func=ast.Attribute(value=logger, attr=level),
                args=[ast.Constant(value=str(event)), *_],
                keywords=keywords,
            ) if level in {*LEVELS, "exception"} and _is_log(logger):
                members = {f"`{one.arg}`" for one in keywords if one.arg} - {
                    "`exc_info`"
                }
                yield event, "error" if level == "exception" else level, members


def _is_log(logger: ast.expr) -> bool:
    """Say whether it is `log`, or `structlog.get_logger(…)` at the place."""
    return ast.unparse(logger).startswith(("log", "structlog.get_logger("))


def meanings(text: str) -> dict[str, str]:
    """Return what the page says of each event."""
    return dict(re.findall(r"^\| `(\w+)` \|.*\| (.+) \|$", text, re.MULTILINE))


def page(text: str) -> str:
    """Return the page as it should be.

    :param text: as it is.
    """
    said = meanings(text)
    rows = (
        (
            f"`{event}`",
            ", ".join(sorted(line.levels, key=LEVELS.index)),
            ", ".join(sorted(line.writers)),
            ", ".join(sorted(line.members)),
            said.get(event, UNSAID),
        )
        for event, line in found().items()
    )
    above, rule, _ = text.partition(_RULE)
    return above + rule + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> int:
    """Write the page, or say what is wrong with it."""
    text = PAGE.read_text()
    made = page(text)
    unsaid = [event for event, said in meanings(made).items() if said == UNSAID]
    if "check" not in sys.argv[1:]:
        PAGE.write_text(made)
    elif made != text:
        print("docs/events-log.md is not what the code says: make log-events")
        return 1
    for event in unsaid:
        print(f"Say in docs/events-log.md what {event} means.")
    return 1 if unsaid else 0


if __name__ == "__main__":
    sys.exit(main())
