"""What is sent is known to whoever receives it, and what is published has a reader."""

import ast
import json
import re

from .conftest import ROOT, SERVICES

DOCUMENT = (ROOT / "docs/events.md").read_text()


def sources(service):
    folder = ROOT / f"services/{service}/src"
    return [ast.parse(path.read_text()) for path in folder.rglob("*.py")]


def calls(service, *names):
    for tree in sources(service):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if called in names:
                    yield node


def schemas():
    for service in SERVICES:
        folder = ROOT / f"services/{service}/src/flagon_{service}/events"
        for path in sorted(folder.glob("*.json")):
            yield service, path


class TestEverySchema:
    def test_exists_for_what_is_sent(self):
        assert list(schemas())

    def test_says_what_it_is_for(self):
        bare = [
            path.name
            for _, path in schemas()
            if not json.loads(path.read_text()).get("description")
        ]

        assert bare == []

    def test_has_a_documented_reader(self):
        unread = [
            path.stem
            for _, path in schemas()
            if not re.search(
                rf"^\| `market\.flagon\.{re.escape(path.stem)}` \|(.+\|){{3}}$",
                DOCUMENT,
                re.MULTILINE,
            )
        ]

        assert unread == []

    def test_is_named_in_the_code_of_its_owner(self):
        for service, path in schemas():
            text = "\n".join(
                file.read_text()
                for file in (ROOT / f"services/{service}/src").rglob("*.py")
            )
            assert path.stem in text, f"{service} never emits {path.stem}"


class TestEveryTask:
    def test_that_is_sent_is_registered(self, apps):
        registered = set(apps["worker"].extensions["celery"].tasks)
        sent = {
            node.value
            for service in SERVICES
            for tree in sources(service)
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and re.fullmatch(r"worker\.[a-z]+_[a-z_]+", str(node.value))
        }

        assert {"worker.send_mail", "worker.make_thumbnails"} <= sent
        assert sent <= registered
