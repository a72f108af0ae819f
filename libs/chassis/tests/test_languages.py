"""Texts in the language of whoever reads them."""

import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from flask import Flask, Response, render_template_string

from flagon_chassis import languages
from flagon_chassis.languages import LazyText, Texts, fitting, remember, speaking

GERMAN = {
    "Welcome": "Willkommen",
    "Hello %(name)s": "Hallo %(name)s",
    ("one book", "%(num)s books"): ("ein Buch", "%(num)s Bücher"),
}


@pytest.fixture
def folder(tmp_path):
    catalog = Catalog(locale="de")
    for text, translation in GERMAN.items():
        catalog.add(text, translation)
    place = tmp_path / "de" / "LC_MESSAGES"
    place.mkdir(parents=True)
    with (place / "messages.mo").open("wb") as file:
        write_mo(file, catalog)
    return tmp_path


@pytest.fixture
def texts(folder):
    return Texts(folder)


@pytest.fixture
def app(texts):
    app = Flask(__name__)
    texts.init_app(app)

    @app.get("/")
    def greet():
        return render_template_string(
            "{{ _('Hello %(name)s', name=name) }},"
            " {{ ngettext('one book', '%(num)s books', 2) }}",
            name="<b>Ada</b>",
        )

    @app.get("/language/<code>")
    def choose(code):
        answer = Response()
        remember(answer, code)
        return answer

    return app


def told(app, **headers):
    return app.test_client().get("/", headers=headers).text


class TestLanguage:
    def test_is_english_where_nothing_else_is_wanted(self, texts, app):
        assert texts.language() == "en"
        assert told(app) == "Hello &lt;b&gt;Ada&lt;/b&gt;, 2 books"
        assert told(app, Accept_Language="tlh") == told(app)

    def test_follows_the_browser(self, app):
        german = "Hallo &lt;b&gt;Ada&lt;/b&gt;, 2 Bücher"

        assert told(app, Accept_Language="fr, de-CH;q=0.9, en;q=0.5") == german
        assert told(app, Accept_Language="de;q=0.4, en;q=0.5") == told(app)

    def test_follows_the_request_before_the_browser(self, folder):
        texts = Texts(folder, asked=lambda: "fr de")
        with Flask(__name__).test_request_context(headers={"Accept-Language": "en"}):
            assert texts.language() == "de"
            # Asked for once, then remembered for the request.
            assert texts.language() == "de"

    def test_is_what_was_chosen_before_all(self, app):
        client = app.test_client()
        cookie = client.get("/language/de").headers["Set-Cookie"]

        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert "Hallo" in client.get("/", headers={"Accept-Language": "en"}).text

    @pytest.mark.parametrize("value", ["../../etc", "de/../en", "", "DE", "xx"])
    def test_believes_no_other_cookie(self, app, value):
        client = app.test_client()
        client.set_cookie(languages.COOKIE, value)

        assert client.get("/").text.startswith("Hello")

    def test_is_another_while_something_is_written_for_somebody_else(self, texts):
        with speaking("de"):
            assert texts.gettext("Welcome") == "Willkommen"
            with speaking("fr"):
                assert texts.language() == "en"


class TestTexts:
    def test_show_their_values(self, texts):
        with speaking("de"):
            assert texts.gettext("Hello %(name)s", name="Ada") == "Hallo Ada"
            assert texts.ngettext("one book", "%(num)s books", 1) == "ein Buch"
            assert texts.ngettext("one book", "%(num)s books", 3) == "3 Bücher"
            assert texts.plural("one book", "%(num)s books", 3) == "%(num)s Bücher"

    def test_keep_what_is_no_text(self, texts):
        assert texts.gettext("") == ""
        assert texts.gettext("100 %") == "100 %"

    def test_wait_until_they_are_shown(self, texts):
        class Later(LazyText):
            pass

        Later.texts = texts
        text = Later("Welcome")

        with speaking("de"):
            assert str(text) == "Willkommen"
        assert str(text) == "Welcome"


class TestFitting:
    def test_is_the_first_that_we_speak(self):
        assert fitting("fr-CA de-AT en") == "de"
        assert fitting("fr") is None
