"""Every button of the pages is pressed in a real browser."""

import ast
import re
from pathlib import Path

import pytest
from jinja2 import Environment, nodes

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "services/web/src/flagon_web/templates"
BUTTON = re.compile(r"<button[^>]*>(.*?)</button>", re.DOTALL)
TEXT = re.compile(r"_\('([^']+)'\)|ngettext\('([^']+)'")
# What macros make a button of, by the place of its words among their arguments.
MACROS = {"press": 1, "sure": 3}
PRESSED_BY = ("text-is('{}')", "has-text('{}')", "text={}")
EXEMPT = {
    "Upload and look at it": "pressed as the only button of its form",
    "How to see it": "the key Enter does it",
    "Refuse what it signed": "it would sign out whoever else the run has signed in",
    "Replay": "it takes workers down again, for longer than a journey may last",
    "Replay all": "it would start what other tests have made to fail",
    "Replay all of the kind %(kind)s": "the same",
}


def words_of(node):
    """Return the texts that are translated in a part of a template."""
    calls = [node] if isinstance(node, nodes.Call) else []
    calls += node.find_all(nodes.Call)
    return {
        call.args[0].value
        for call in calls
        if getattr(call.node, "name", "") in {"_", "ngettext"}
    }


def buttons():
    """Return the texts of all buttons that send a form."""
    found = set()
    environment = Environment(autoescape=True, extensions=["jinja2.ext.i18n"])
    for path in TEMPLATES.glob("*.html"):
        source = path.read_text(encoding="utf-8")
        for whole, inner in ((one[0], one[1]) for one in BUTTON.finditer(source)):
            if 'type="button"' not in whole:
                found |= {one or many for one, many in TEXT.findall(inner)}
        tree = environment.parse(source)
        named = {
            getattr(one.target, "name", ""): one.node
            for one in tree.find_all(nodes.Assign)
        }
        for call in tree.find_all(nodes.Call):
            place = MACROS.get(getattr(call.node, "name", ""))
            if place is not None and len(call.args) > place:
                words = call.args[place]
                found |= words_of(named.get(getattr(words, "name", ""), words))
    return found


BUTTONS = sorted(buttons())


@pytest.fixture(scope="module")
def said():
    """All texts that the browser tests are written with."""
    trees = [
        ast.parse(path.read_text(encoding="utf-8"))
        for path in (ROOT / "tests/browser").glob("*.py")
    ]
    return [
        one.value
        for tree in trees
        for one in ast.walk(tree)
        if isinstance(one, ast.Constant) and isinstance(one.value, str)
    ]


def pressed(button, said):
    """Say whether one of these texts is this button, or how a page is asked for it."""
    number = re.escape(button).replace(re.escape("%(num)s"), r"\d+")
    alone = re.compile(rf"{number}(: .+)?\Z")
    return any(
        alone.match(text) or any(how.format(button) in text for how in PRESSED_BY)
        for text in said
    )


class TestButtons:
    @pytest.mark.parametrize("button", BUTTONS)
    def test_are_pressed_or_said_not_to_be(self, button, said):
        assert pressed(button, said) != (button in EXEMPT)

    def test_are_there(self):
        assert {"Cancel the job", "Delete for good", "Pause"} <= set(BUTTONS)
        assert set(EXEMPT) <= set(BUTTONS)
