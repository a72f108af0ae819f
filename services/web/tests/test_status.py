import pytest

from flagon_web.clients.readiness import Readiness, Service


def ask(browser, accept="application/json"):
    return browser.get("/status", headers={"Accept": accept})


class TestStatus:
    def test_shows_people_every_service(self, browser):
        text = browser.get("/status").text

        assert "Everything is running" in text
        assert "5 of 5 ready" in text
        assert "postgres" in text

    def test_tells_programs_the_same(self, browser):
        answer = ask(browser)

        assert answer.json["status"] == "ready"
        assert set(answer.json["services"]) == {
            "auth",
            "catalog",
            "realtime",
            "worker",
            "web",
        }
        catalog = answer.json["services"]["catalog"]
        assert catalog["ready"] is True
        assert catalog["ms"] > 0
        assert catalog["checks"]["postgres"]["ms"] == 0.8
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Accept" in answer.headers["Vary"]

    def test_is_a_page_for_who_takes_anything(self, browser):
        assert ask(browser, "*/*").mimetype == "text/html"

    def test_includes_the_gateway_where_it_is_known(
        self, make_app, make_browser, platform
    ):
        app = make_app(gateway_url=f"{platform.url}/gateway")

        found = ask(make_browser(app=app)).json["services"]

        assert found["gateway"]["ready"] is True

    def test_names_what_is_away(self, make_app, make_browser):
        browser = make_browser(app=make_app(worker_url="http://127.0.0.1:1"))

        answer = ask(browser)

        assert answer.status_code == 200
        assert answer.json["status"] == "degraded"
        assert answer.json["services"]["worker"]["status"] == "down"
        assert "Some parts are away" in browser.get("/status").text

    def test_says_when_everything_is_away(self, make_app, make_browser):
        away = dict.fromkeys(
            ("auth_url", "catalog_url", "realtime_url", "worker_url"),
            "http://127.0.0.1:1",
        )
        browser = make_browser(app=make_app(**away))

        assert ask(browser).json["status"] == "down"
        assert "closed for a moment" in browser.get("/status").text


class TestReadiness:
    def probe(self, status, content):
        def app(_environ, start_response):
            start_response(status, [("Content-Type", "application/json")])
            return [content]

        return app

    @pytest.mark.parametrize(
        ("status", "content", "said"),
        [
            ("503 Down", b'{"status": "draining", "checks": {}}', "draining"),
            ("503 Down", b'{"status": "unavailable"}', "unavailable"),
            ("503 Down", b"{}", "unavailable"),
            ("200 OK", b"<html>", "down"),
            ("200 OK", b"[]", "down"),
            ("200 OK", b'{"status": "ready", "checks": null}', "ready"),
        ],
    )
    def test_believes_what_makes_sense(self, status, content, said, serve):
        with serve(self.probe(status, content)) as url:
            found = Readiness({"x": url}, "", seconds=1).ask("x")

        assert found.status == said

    def test_shows_a_broken_part_of_a_ready_service(self):
        broken = {"redis": {"ok": False, "required": False}}

        assert Service("x", "ready", 1.0, broken).looks == "degraded"
        assert Service("x", "ready", 1.0).looks == "ready"
        assert Service("x", "draining", 1.0).looks == "draining"
        assert Service("x", "unavailable", 1.0).looks == "down"
