"""The documents say what the code does; a claim without a test is no claim."""

import re
from importlib import import_module
from pkgutil import walk_packages

import pytest

from flagon_chassis.errors import Failure

from .conftest import ROOT, SERVICES

KINDS = {
    "Invalid",
    "Unauthenticated",
    "Forbidden",
    "NotFound",
    "Conflict",
    "PreconditionFailed",
    "PreconditionRequired",
    "Throttled",
    "Unavailable",
}


def failures(apps):
    for package in ("flagon_chassis", *(f"flagon_{name}" for name in SERVICES)):
        path = import_module(package).__path__
        for module in walk_packages(path, package + "."):
            if ".migrations" not in module.name and "__main__" not in module.name:
                import_module(module.name)
    todo = [Failure]
    while todo:
        for found in todo.pop().__subclasses__():
            todo.append(found)
            if found.__module__.startswith("flagon_") and found.__name__ not in KINDS:
                yield found


def settings_of(service):
    return import_module(f"flagon_{service}.settings").Settings


class TestProblems:
    def test_are_all_explained(self, apps):
        document = (ROOT / "docs/problems.md").read_text()
        missing = {
            found.slug()
            for found in failures(apps)
            if f"\n### {found.slug()}\n" not in document
        }

        assert missing == set()

    def test_have_a_title_of_their_own(self, apps):
        titles = [found.title() for found in set(failures(apps))]

        assert all(title and "\n" not in title for title in titles)


@pytest.mark.parametrize("service", SERVICES)
class TestSettings:
    def test_are_in_the_readme(self, service):
        readme = (ROOT / f"services/{service}/README.md").read_text()
        missing = [
            name
            for name in settings_of(service).model_fields
            if f"`{service.upper()}_{name.upper()}`" not in readme
        ]

        assert missing == []

    def test_that_have_no_default_are_in_the_compose_file(self, service):
        compose = (ROOT / "docker-compose.yml").read_text()
        missing = [
            name
            for name, field in settings_of(service).model_fields.items()
            if field.is_required() and f"{service}_{name}" not in compose.lower()
        ]

        assert missing == []


class TestClaims:
    ROWS = re.findall(
        r"^\| (?!Promise|---)(.+?) \| (.+?) \| (.+?) \|$",
        (ROOT / "docs/claims.md").read_text(),
        re.MULTILINE,
    )

    def test_are_there(self):
        assert len(self.ROWS) >= 10

    @pytest.mark.parametrize(("promise", "code", "test"), ROWS)
    def test_have_code_and_a_test_that_exist(self, promise, code, test):
        for reference in re.findall(r"`([^`]+)`", code):
            assert (ROOT / reference).exists(), f"{promise}: no {reference}"
        references = re.findall(r"`([^`]+)`", test)
        assert references, f"{promise}: names no test"
        for reference in references:
            path, *names = reference.split("::")
            text = (ROOT / path).read_text()
            for name in names:
                assert re.search(rf"\b(def|class) {re.escape(name)}\b", text), reference


class TestLinks:
    @pytest.mark.parametrize(
        "document",
        sorted(
            path.relative_to(ROOT).as_posix()
            for pattern in (
                "*.md",
                "docs/**/*.md",
                "services/*/README.md",
                "libs/*/README.md",
            )
            for path in ROOT.glob(pattern)
        ),
    )
    def test_lead_to_files_that_exist(self, document):
        path = ROOT / document
        links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", path.read_text())
        broken = [link for link in links if not (path.parent / link).exists()]

        assert broken == []
