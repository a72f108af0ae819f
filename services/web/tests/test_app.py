import pytest

from flagon_web import __main__ as main


class TestServe:
    def test_starts_the_app(self, monkeypatch):
        served = []
        monkeypatch.setenv("WEB_SECRET_KEY", "s" * 40)
        monkeypatch.setattr(main.server, "serve", lambda *args: served.append(args))

        assert main.main(["serve"]) == 0
        assert served[0][1] == "flagon_web.app:create_app()"

    def test_knows_nothing_else(self, capsys):
        assert main.main([]) == 2
        assert main.main(["dance"]) == 2
        assert "usage" in capsys.readouterr().err


class TestToolbar:
    @pytest.mark.filterwarnings("ignore")
    def test_is_there_in_debug_mode_of_development_only(
        self, make_app, make_browser, monkeypatch
    ):
        monkeypatch.setenv("FLASK_DEBUG", "1")

        debug = make_app(environment="development")
        plain = make_app(environment="production")

        assert "debugtoolbar" in debug.extensions or "debugtoolbar" in debug.blueprints
        assert debug.debug
        assert not plain.debug
        assert "debugtoolbar" not in plain.blueprints
        policy = make_browser(app=debug).get("/").headers["Content-Security-Policy"]
        assert "'unsafe-inline'" in policy
