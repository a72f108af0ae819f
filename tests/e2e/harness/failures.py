"""What the processes of a stack complained of, for whoever looks at a failed test."""

import json
import re

from harness.engine import ROOT
from harness.stack import PROCESSES

_LINES = 6
_WIDTH = 300
_TEXT = re.compile("error|fatal|traceback|exception", re.IGNORECASE)

notes = []
"""Lines for the end of the test run."""


def _complains(line):
    if isinstance(line, str):
        return _TEXT.search(line)
    if not isinstance(line, dict):
        return False
    # Spans have a status too, which is a word.
    status = line.get("status")
    failed = isinstance(status, int) and status >= 500
    return failed or line.get("level") in {"error", "critical"}


def note(stack, suite):
    """Keep every log in a folder of its own, and the last complaints in `notes`."""
    folder = ROOT / "dist" / suite / str(stack)
    stack.keep_logs(folder)
    notes.append(f"logs of {stack}: {folder}")
    for name in PROCESSES:
        found = [line for line in stack.logs(name) if _complains(line)][-_LINES:]
        for line in found:
            text = line if isinstance(line, str) else json.dumps(line)
            notes.append(f"{name}: {text[:_WIDTH]}")


def report(terminalreporter):
    """Write the notes, if there are any."""
    if notes:
        terminalreporter.section("complaints of the processes")
        for line in notes:
            terminalreporter.write_line(line)
