"""One stack and one Chromium for all browser tests.

`FLAGON_URL=http://localhost:8080 pytest tests/browser` runs them against a stack that
already runs; without it one is started and forgotten afterwards.
"""

import sys
from functools import partial
from pathlib import Path

import pytest

sys.path.extend(
    str(Path(__file__).parents[n] / name) for n, name in ((0, ""), (1, "e2e"))
)

from axe import AXE
from harness import failures
from harness.stack import running
from people import Person, chromium, chromium_path
from playwright.sync_api import expect
from steps import words_of

from flagon_chassis.testing import lacking

# What surely happens, on the busiest machine; no promise of ours.
expect.set_options(timeout=120_000)


def pytest_terminal_summary(terminalreporter):
    failures.report(terminalreporter)


@pytest.fixture(scope="session")
def stack(request):
    # Both at once: a journey that ends where a page is judged leaves half of it undone.
    if chromium_path() is None or not AXE.exists():
        lacking("Chromium or axe-core", "BROWSER=1 make setup")
    with running("traces") as found:
        found.ready()
        yield found
        if request.session.testsfailed:
            failures.note(found, "browser")


@pytest.fixture(scope="session")
def accounts(stack):
    return stack.accounts()


@pytest.fixture(scope="session")
def browser():
    # Not after the stack: a module of scripts needs none.
    if chromium_path() is None:
        lacking("Chromium", "BROWSER=1 make setup")
    with chromium() as found:
        yield found


@pytest.fixture
def person(browser, stack):
    """Make a person; at the end nobody's browser may have had anything to complain of."""
    people, complaints = [], []

    def make(**options):
        people.append(Person(browser, stack.url, complaints, **options))
        return people[-1]

    yield make
    for one in people:
        if not one.page.is_closed() and one.context.pages:
            complaints += one.refused() or []
        one.context.close()
    assert complaints == []


@pytest.fixture
def merchandiser(person, accounts):
    found = person()
    found.sign_in(accounts["merchandiser"])
    return found


@pytest.fixture
def of_the_office(person, accounts):
    """Make somebody of a role who is signed in and sees the back office."""

    def make(role, **options):
        found = person(**options)
        found.sign_in(accounts[role], then="/back-office")
        return found

    return make


@pytest.fixture
def operator(of_the_office):
    """Make an operator who is signed in."""
    return partial(of_the_office, "operator")


@pytest.fixture
def german(of_the_office):
    """Make somebody of a role with the pages in German, and what says their texts so."""

    def make(role, **options):
        return of_the_office(role, locale="de-DE", **options), words_of("de")

    return make


@pytest.fixture(params=["en-US", "de-DE"])
def speaking(request, of_the_office):
    """Make an operator, and what says texts of the pages in their language."""

    def make():
        somebody = of_the_office("operator", locale=request.param)
        return somebody, words_of(request.param[:2])

    return make


@pytest.fixture
def administrator(of_the_office):
    """Make an administrator who is signed in."""
    return partial(of_the_office, "admin")
