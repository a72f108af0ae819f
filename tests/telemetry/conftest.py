"""One stack with a sink of traces for the telemetry's table, as for tests/e2e.

`FLAGON_MODE=docker pytest tests/telemetry` looks at containers instead of processes,
`FLAGON_URL=…` at a stack that was started by `make up WITH=traces`.
"""

import sys
from pathlib import Path

import pytest

sys.path.extend(
    str(Path(__file__).parents[n] / name) for n, name in ((0, ""), (1, "e2e"))
)

from harness import failures
from harness.stack import running


def pytest_terminal_summary(terminalreporter):
    failures.report(terminalreporter)


@pytest.fixture(scope="session")
def stack(request):
    with running("traces") as found:
        found.ready()
        yield found
        if request.session.testsfailed:
            failures.note(found, "telemetry")
