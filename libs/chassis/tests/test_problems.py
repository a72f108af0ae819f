import pytest
import redis
import sqlalchemy.exc
from apiflask import HTTPError
from flask import abort, redirect
from pydantic import BaseModel, Field
from werkzeug.exceptions import HTTPException, RequestedRangeNotSatisfiable
from werkzeug.routing import RequestRedirect

from flagon_chassis import web
from flagon_chassis.errors import Conflict, Throttled


class SkuTaken(Conflict):
    """Another product has this SKU."""


class New(BaseModel, extra="forbid"):
    sku: str = Field(max_length=3)
    parts: dict[str, int] = {}


@pytest.fixture
def make_app(make_settings):
    def make(raises, **options):
        app = web.create_app(
            __name__,
            make_settings(docs_url="https://docs.test"),
            name="things",
            openapi=False,
            **options,
        )

        @app.route("/thing", methods=["GET", "POST"])
        @app.route("/api/thing", methods=["GET", "POST"])
        def view():
            return raises()

        return app

    return make


@pytest.fixture
def ask(make_app):
    def ask(raises, path="/thing", page=None, method="GET", **options):
        client = make_app(raises, page=page).test_client()
        return client.open(path, method=method, **options)

    return ask


def raiser(error):
    def fail():
        raise error

    return fail


class TestFailures:
    def test_become_problems(self, ask):
        response = ask(raiser(SkuTaken("SKU 1 is in use.", sku="1")))

        assert response.status_code == 409
        assert response.content_type == "application/problem+json"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.json == {
            "type": "https://docs.test/problems#sku-taken",
            "title": "Another product has this SKU",
            "status": 409,
            "detail": "SKU 1 is in use.",
            "instance": f"urn:request:{response.headers['X-Request-ID']}",
            "sku": "1",
        }

    def test_say_when_to_come_back(self, ask):
        response = ask(raiser(Throttled(retry_after_seconds=0)))

        assert (response.status_code, response.headers["Retry-After"]) == (429, "0")


class TestInvalidBodies:
    def test_name_every_wrong_field(self, ask):
        response = ask(
            lambda: web.body(New),
            method="POST",
            json={"sku": "long", "parts": {"a/b~c": "x"}, "colour": 1},
        )

        assert response.status_code == 422
        assert {error["pointer"] for error in response.json["errors"]} == {
            "#/sku",
            "#/parts/a~1b~0c",
            "#/colour",
        }

    def test_are_answered_with_a_bounded_number_of_errors(self, ask):
        response = ask(
            lambda: web.body(New),
            method="POST",
            json={str(number): 1 for number in range(1000)},
        )

        assert len(response.json["errors"]) == 100
        assert "1001" in response.json["detail"]


class TestHttpErrors:
    def test_keep_the_headers_that_belong_to_them(self, ask):
        response = ask(lambda: "", method="DELETE")

        assert response.status_code == 405
        assert set(response.headers["Allow"].split(", ")) >= {"GET", "POST"}
        assert response.json["type"] == "about:blank"

    def test_unknown_paths(self, ask):
        assert ask(lambda: "", path="/nothing").json["status"] == 404

    def test_ranges(self, ask):
        response = ask(raiser(RequestedRangeNotSatisfiable(length=10)))

        assert response.status_code == 416
        assert response.headers["Content-Range"] == "bytes */10"
        assert response.headers["Accept-Ranges"] == "bytes"

    def test_redirects_are_no_errors(self, ask):
        assert ask(lambda: redirect("/else")).status_code == 302
        # The router's own redirect is an exception.
        assert ask(raiser(RequestRedirect("/else"))).status_code == 308

    def test_other_exceptions_below_400_are_no_errors(self, ask):
        class NotModified(HTTPException):
            code = 304

        assert ask(raiser(NotModified())).status_code == 304

    def test_aborts_without_a_text(self, ask):
        assert ask(lambda: abort(418)).json["title"] == "I'm a Teapot"


class TestApiflaskErrors:
    def test_become_problems(self, ask):
        plain = ask(raiser(HTTPError(403, "no", headers={"X-Why": "a"})))
        pairs = ask(raiser(HTTPError(403, headers=[("X-Why", "b")])))

        assert (plain.json["detail"], plain.headers["X-Why"]) == ("no", "a")
        assert pairs.headers["X-Why"] == "b"

    def test_of_validation_name_the_fields(self, make_app):
        app = make_app(lambda: "")

        @app.post("/typed")
        @app.input(New)
        def typed(json_data):
            return ""

        response = app.test_client().post("/typed", json={})

        assert response.status_code == 422
        assert response.json["errors"][0]["pointer"] == "#/sku"


class TestCrashes:
    def test_tell_nothing_and_are_reported(self, make_app, logged):
        app = make_app(raiser(ValueError("the secret")))
        reported = []
        app.extensions["flagon.report"] = reported.append

        response = app.test_client().get("/thing")

        assert response.status_code == 500
        assert "secret" not in response.text
        assert isinstance(reported[0], ValueError)

    def test_need_nobody_to_report_to(self, ask):
        assert ask(raiser(ValueError())).status_code == 500

    @pytest.mark.parametrize(
        "error",
        [
            redis.ConnectionError(),
            redis.TimeoutError(),
            sqlalchemy.exc.TimeoutError(),
            sqlalchemy.exc.OperationalError("", {}, Exception()),
            sqlalchemy.exc.InterfaceError(
                "", {}, Exception(), connection_invalidated=True
            ),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_of_a_dependency_are_temporary(self, ask, error):
        response = ask(raiser(error))

        assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
        assert response.json["type"].endswith("#dependency-down")

    def test_of_a_statement_are_not(self, ask):
        error = sqlalchemy.exc.ProgrammingError("", {}, Exception())

        assert ask(raiser(error)).status_code == 500


class TestPages:
    def page(self, status, title, detail):
        return f"<h1>{status} {title}</h1><p>{detail}</p>"

    def test_are_for_people(self, ask):
        response = ask(
            raiser(SkuTaken("In use.")),
            page=self.page,
            headers={"Accept": "text/html,*/*;q=0.8"},
        )

        assert response.status_code == 409
        assert response.mimetype == "text/html"
        assert "In use." in response.text

    @pytest.mark.parametrize(
        ("path", "accept"),
        [("/thing", "application/json"), ("/api/thing", "text/html")],
    )
    def test_are_not_for_programs(self, ask, path, accept):
        response = ask(
            raiser(SkuTaken()), path=path, page=self.page, headers={"Accept": accept}
        )

        assert response.mimetype == "application/problem+json"
