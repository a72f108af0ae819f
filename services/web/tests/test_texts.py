"""Every text that people read is translated, wherever it stands."""

import ast
import importlib.util
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import nodes

import flagon_web
from flagon_web.i18n import LANGUAGES

PACKAGE = Path(flagon_web.__file__).parent
ROOT = Path(__file__).parents[3]
TEMPLATES = sorted(path.name for path in (PACKAGE / "templates").iterdir())
SCRIPTS = sorted(
    path.name
    for path in (PACKAGE / "static/js").iterdir()
    if not path.name.startswith("words.")
)
# The same in every language: names, units and what programs read.
UNTRANSLATED = {"Flagon", "API", "SKU", "ms", "s", "B", "p50", "p95", "p99"}
READ_ALOUD = {"alt", "aria-label", "content", "data-label", "placeholder", "title"}
# Keys of the keyboard and headers.
NAMES_IN_SCRIPTS = {"Accept", "Enter", "Escape"}
TECHNICAL = {"code", "script", "style", "path", "svg"}
LETTERS = re.compile(r"[^\W\d_]")
HOLE = "\N{OBJECT REPLACEMENT CHARACTER}"


def load_translations():
    spec = importlib.util.spec_from_file_location(
        "translations", ROOT / "deploy" / "translations.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Reader(HTMLParser):
    """Collects what people would read or hear of a page."""

    def __init__(self):
        super().__init__()
        self.inside, self.heard = [], []

    def handle_starttag(self, tag, attrs):
        if tag in TECHNICAL:
            self.inside.append(tag)
        meta = dict(attrs)
        if tag == "meta" and meta.get("name") != "description":
            return
        self.heard += [meta[name] or "" for name in READ_ALOUD & meta.keys()]

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.heard.append(data)


def outside_gettext(source, environment):
    """Return the texts of a template that nobody could translate."""
    tree = environment.parse(source)
    html, constants = [], []

    def walk(node):
        if isinstance(node, nodes.Call) and getattr(node.node, "name", "") in {
            "_",
            "gettext",
            "ngettext",
        }:
            html.append(HOLE)
            return
        if isinstance(node, nodes.TemplateData):
            html.append(node.data)
        elif isinstance(node, nodes.Const) and isinstance(node.value, str):
            constants.append(node.value)
        elif isinstance(node, nodes.Expr):
            html.append(HOLE)
        for child in node.iter_child_nodes():
            walk(child)

    walk(tree)
    reader = Reader()
    reader.feed("".join(html))
    # Constants that begin as sentences do; the others are names of things.
    told = [text for text in constants if re.search(r"^[A-Z0-9].*[a-z]{2}", text)]
    for text in reader.heard:
        found = re.sub(rf"[{HOLE}\s]+", " ", text).strip()
        words = [word for word in re.findall(r"\w+", found) if LETTERS.search(word)]
        if set(words) - UNTRANSLATED:
            told.append(found)
    return told


class TestTemplates:
    @pytest.mark.parametrize("name", TEMPLATES)
    def test_have_no_text_outside_gettext(self, name, app):
        source = (PACKAGE / "templates" / name).read_text()

        assert outside_gettext(source, app.jinja_env) == []

    @pytest.mark.parametrize(
        "source",
        [
            "<p>Some words</p>",
            "<p>{{ count }} left</p>",
            '<input placeholder="Your name">',
            '<button aria-label="Close {{ name }}">x</button>',
            "{{ missing('The shelf') }}",
            "{{ 'On' if enabled else 'Off' }}",
            '<meta name="description" content="A shop">',
        ],
    )
    def test_are_searched_everywhere(self, source, app):
        assert outside_gettext(source, app.jinja_env)


class TestPython:
    @pytest.mark.parametrize(
        "path", sorted((PACKAGE / "routes").glob("*.py")), ids=lambda path: path.name
    )
    def test_flashes_nothing_untranslated(self, path):
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
            and getattr(node.func, "id", getattr(node.func, "attr", ""))
            in {"flash", "act"}
        ]

        for call in calls:
            for argument in [*call.args[:2], *(k.value for k in call.keywords)]:
                text = getattr(argument, "value", "")
                assert not (isinstance(text, str) and " " in text), ast.dump(call)
                assert not isinstance(argument, ast.JoinedStr), ast.dump(call)


class TestScripts:
    @pytest.mark.parametrize("name", SCRIPTS)
    def test_show_nothing_untranslated(self, name):
        source = (PACKAGE / "static/js" / name).read_text()
        code = re.sub(r"//.*", "", source)
        # What is written into the page as it stands in the script.
        shown = re.findall(r"textContent = [\"`]([^\"`]*[a-z]{2}[^\"`]*)", code)
        # Calls end before they hold another bracket, so this leaves none of a text.
        bare = re.sub(r"\b(?:_|ngettext)\([^()]*(?:\([^()]*\)[^()]*)*\)", "", code)
        sentences = re.findall(r"[\"`]([A-Z][a-z]+(?:…| [^\"`]*)?)[\"`]", bare)

        assert [text for text in shown if not text.startswith("${")] == []
        assert set(sentences) - NAMES_IN_SCRIPTS == set()


class TestCatalogs:
    @pytest.mark.parametrize("language", [code for code in LANGUAGES if code != "en"])
    def test_are_complete_compiled_and_without_leftovers(self, language):
        translations = load_translations()

        assert translations.complaints("web", language) == []
        assert not translations.translated("web", language).obsolete


class TestStyles:
    def test_know_no_left_and_right(self):
        """Pages of a language that is written from right to left are mirrored."""
        styles = (PACKAGE / "static/flagon.css").read_text()
        sides = r"(?:margin|padding|border)-(?:left|right)|text-align: (?:left|right)"

        assert re.findall(rf"{sides}|float:|[\s;{{](?:left|right):", styles) == []
