"""One stack for all end-to-end tests of a run.

`FLAGON_MODE=docker pytest tests/e2e` runs them against containers instead of processes,
`FLAGON_BROKER=rabbitmq` lets tasks wait there instead of in Redis, in both modes,
`FLAGON_EVENT_BUS=rabbitmq` lets events travel there,
`FLAGON_GATEWAY=haproxy` or `apache` puts that before the services,
`FLAGON_MAIL_QUEUE=rq` lets RQ send the mails instead of Celery,
`FLAGON_SERVER=waitress` or `uwsgi` has the services run under it;
`FLAGON_URL=http://localhost:8080 pytest tests/e2e` runs against a stack that already runs.
"""

import os
import sys
import uuid
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import engine, failures
from harness.people import Person
from harness.stack import running

if "docker" not in os.environ.get("FLAGON_MODE", ""):
    # Only a stack in containers has any to look at.
    collect_ignore = ["test_containers.py", "test_log_shipper.py"]
else:
    # Its receiver is a socket of this machine, which is none of the containers' business.
    collect_ignore = ["test_webhooks.py"]

DATA = engine.ROOT.parent / "shared" / "data" / "books.csv"


def pytest_collection_modifyitems(config, items):
    """Run what stops and starts everything last: the rest needs no new stack then.

    After that only what sends made-up requests, and the search for what all left behind.
    `FLAGON_URL` names a stack that people use: it is looked at, and never stopped.
    """
    unfit = {"restarts"} if os.environ.get("FLAGON_URL") else set()
    mode, gateway = (os.environ.get(f"FLAGON_{x}", "") for x in ("MODE", "GATEWAY"))
    if mode == "docker" and gateway not in {"", "nginx"}:
        unfit.add("rolls")
    left = [item for item in items if any(map(item.get_closest_marker, unfit))]
    items[:] = [item for item in items if item not in left]
    config.hook.pytest_deselected(items=left)
    items.sort(
        key=lambda item: (
            item.path.name == "test_secrets.py",
            item.path.name == "test_conformance.py",
            item.get_closest_marker("restarts") is not None,
        )
    )


def pytest_configure(config):
    for name, what in (
        ("restarts", "stops and starts the whole stack"),
        ("rolls", "puts releases beside each other, which nginx follows in containers"),
    ):
        config.addinivalue_line("markers", f"{name}: {what}")


def pytest_terminal_summary(terminalreporter):
    failures.report(terminalreporter)


@pytest.fixture(scope="session")
def stack(request):
    with running() as found:
        found.ready()
        yield found
        if request.session.testsfailed:
            failures.note(found, "e2e")


@pytest.fixture(scope="session")
def accounts(stack):
    return stack.accounts()


@pytest.fixture(scope="session")
def customer(stack, accounts):
    with Person(stack, accounts["customer"]) as person:
        yield person


@pytest.fixture(scope="session")
def merchandiser(stack, accounts):
    with Person(stack, accounts["merchandiser"]) as person:
        yield person


@pytest.fixture(scope="session")
def operator(stack, accounts):
    with Person(stack, accounts["operator"]) as person:
        yield person


@pytest.fixture(scope="session")
def admin(stack, accounts):
    with Person(stack, accounts["admin"]) as person:
        yield person


@pytest.fixture
def word():
    """A word that no other test uses: SKU prefix and category."""
    return f"t{uuid.uuid4().hex[:10]}"
