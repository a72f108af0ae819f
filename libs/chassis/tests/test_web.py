import io
import json
from contextlib import nullcontext

import pytest
from flask import g, request, session
from flask.sessions import SecureCookieSessionInterface
from flask.views import MethodView
from openapi_spec_validator import validate
from pydantic import BaseModel
from werkzeug.exceptions import UnsupportedMediaType

from flagon_chassis import auth, web


class Thing(BaseModel):
    name: str
    count: int = 1


class Things(BaseModel):
    items: list[Thing]
    next_cursor: str | None


class Search(BaseModel, extra="forbid"):
    q: str = ""


@pytest.fixture
def app(make_settings):
    app = web.create_app(__name__, make_settings(), name="things", title="Things")

    @app.post("/things")
    @auth.requires("things:write")
    @app.input(Thing)
    @app.output(Thing, status_code=201)
    def create(json_data):
        return json_data

    @app.post("/raw")
    def raw():
        return {"got": request.get_json()}

    @app.get("/things")
    def find():
        return web.query(Search).model_dump()

    @app.get("/things/<name>")
    def read(name):
        return web.reply(Thing, Thing(name=name), 200, {"X-A": "1"})

    @app.get("/where")
    def where():
        return {"url": request.url, "address": request.remote_addr}

    @app.get("/page")
    def page():
        assert web.csp_nonce() == web.csp_nonce() == g.flagon_nonce
        return f"<p>{web.csp_nonce()}</p>"

    class Part(MethodView):
        decorators = ()

        @app.input(Thing)
        def post(self, json_data):
            return {}

        def get(self):
            return {}

    app.add_url_rule("/parts/<int:number>", view_func=Part.as_view("part"))
    return app


@pytest.fixture
def client(app):
    return app.test_client()


class TestCreateApp:
    def test_believes_the_gateway_about_the_caller(self, client):
        response = client.get(
            "/where",
            headers={
                "X-Forwarded-For": "198.51.100.7",
                "X-Forwarded-Proto": "https",
                "X-Forwarded-Host": "shop.test",
            },
        )

        assert response.json == {
            "url": "https://shop.test/where",
            "address": "198.51.100.7",
        }

    def test_sets_base_security_headers(self, client):
        data, page = client.get("/where"), client.get("/page")

        assert data.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in data.headers["Content-Security-Policy"]
        # Pages say themselves what they may load.
        assert "Content-Security-Policy" not in page.headers

    def test_is_never_in_debug_mode_outside_development(
        self, make_settings, monkeypatch
    ):
        monkeypatch.setenv("FLASK_DEBUG", "1")

        def debug(environment):
            settings = make_settings(environment=environment)
            return web.create_app(__name__, settings, name="t", openapi=False).debug

        assert debug("development") is True
        assert debug("production") is False

    def test_has_no_session_that_a_cookie_could_carry(self, app, client):
        @app.get("/remembered")
        @auth.open_route
        def remember():
            session["who"] = "somebody"

        signed = SecureCookieSessionInterface().get_signing_serializer(app)
        client.set_cookie("session", signed.dumps({"who": "somebody"}))

        assert "Set-Cookie" not in client.get("/where").headers
        assert client.get("/remembered").status_code == 500

    def test_serves_its_probes_and_metrics_to_anyone(self, app, client):
        for path in ("/livez", "/readyz", "/metrics"):
            assert client.get(path).status_code == 200
        marked = [app.view_functions[name] for name in ("livez", "readyz", "metrics")]
        assert all(view.flagon_open for view in marked)


class TestAddress:
    def test_names_our_address_whoever_asks_first(self, client):
        asked = client.get(
            "/openapi.json",
            headers={"Host": "evil.test", "X-Forwarded-Host": "evil.test"},
        )

        assert asked.json["servers"] == [{"url": "http://localhost:8080"}]


class TestHostileRequests:
    @pytest.mark.parametrize(
        "path",
        ["/things/a%00b", "/things?q=a%00", "/things?%00=a", "/nothing%00"],
    )
    def test_nul_is_refused(self, client, path):
        assert client.get(path).status_code == 400

    @pytest.mark.parametrize("method", ["BREW", "TRACE", "PROPFIND"])
    def test_unheard_methods_are_refused(self, client, method):
        refused = client.open("/things", method=method)

        assert refused.status_code == refused.json["status"] == 501
        assert refused.mimetype == "application/problem+json"

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"\xff",
            b'{"a": NaN}',
            b'{"a": Infinity}',
            b'{"a": "\\u0000"}',
            b'{"\\u0000": 1}',
            b'[["\\ud800"]]',
            b"[" * 100_000,
        ],
        ids=repr,
    )
    def test_unusable_json_is_refused(self, client, body):
        response = client.post("/raw", data=body, content_type="application/json")

        assert response.status_code == 400
        assert response.mimetype == "application/problem+json"

    def test_usable_json_is_read(self, client):
        body = {"a": ["\u00e4", 1, None, {"b": "c"}]}

        response = client.post(
            "/raw",
            data=json.dumps(body),  # With escapes.
            content_type="application/json",
        )

        assert response.json == {"got": body}

    @pytest.mark.parametrize("path", ["/raw", "/parts/1"])
    def test_other_media_types_are_refused(self, client, path):
        response = client.post(path, data="a=1", content_type="text/plain")

        assert response.status_code == 415

    def test_page_is_kept_by_nobody_else(self):
        page = web.reply_page(Things, [Thing(name="a")], "next")

        assert page.json == {
            "items": [{"name": "a", "count": 1}],
            "next_cursor": "next",
        }
        assert page.headers["Cache-Control"] == "private, no-cache"

    @pytest.mark.parametrize(
        ("method", "kind", "refused"),
        [
            ("PATCH", "application/merge-patch+json", False),
            ("PATCH", "application/json; charset=utf-8", False),
            ("PATCH", "application/json-patch+json", True),
            ("PATCH", None, True),
            ("POST", "application/json-patch+json", False),
        ],
    )
    def test_other_patches_are_refused(self, app, method, kind, refused):
        with app.test_request_context(method=method, content_type=kind):
            told = pytest.raises(UnsupportedMediaType) if refused else nullcontext()
            with told:
                web.refuse_other_patches()

    def test_endless_bodies_are_refused(self, client):
        response = client.post(
            "/raw", data=b" " * (1 << 21), content_type="application/json"
        )

        assert response.status_code == 413


class TestUnreadBodies:
    """What is left unread resets the connection, and the answer may be lost with it."""

    def send(self, client, path, body):
        stream = io.BytesIO(body)
        answer = client.post(
            path,
            content_type="application/json",
            environ_overrides={
                "wsgi.input": stream,
                "CONTENT_LENGTH": str(len(body)),
            },
        )
        return answer, len(body) - stream.tell()

    @pytest.mark.parametrize(
        ("path", "status"), [("/raw", 413), ("/things", 401), ("/none", 404)]
    )
    def test_are_read_before_the_answer(self, client, path, status):
        answer, left = self.send(client, path, b" " * 3_000_000)

        assert (answer.status_code, left) == (status, 0)

    def test_are_left_alone_when_they_are_too_large(self, client):
        answer, left = self.send(client, "/none", b" " * (17 << 20))

        assert (answer.status_code, left) == (404, 17 << 20)

    def test_of_a_caller_who_is_gone_are_no_failure(self, client):
        class Gone(io.BytesIO):
            def read(self, *_):
                raise ConnectionResetError

        answer = client.post(
            "/none", environ_overrides={"wsgi.input": Gone(), "CONTENT_LENGTH": "9"}
        )

        assert answer.status_code == 404


class TestQuery:
    def test_is_validated(self, client):
        assert client.get("/things?q=a").json == {"q": "a"}
        assert client.get("/things?colour=a").status_code == 422

    def test_repeated_names_are_refused(self, client):
        response = client.get("/things?q=a&q=b")

        assert response.status_code == 400
        assert "q only once" in response.json["detail"]


class TestReply:
    def test_is_shaped_by_the_schema(self, client):
        response = client.get("/things/cup")

        assert response.json == {"name": "cup", "count": 1}
        assert response.headers["X-A"] == "1"
        assert response.mimetype == "application/json"


class TestDocument:
    def test_is_valid_and_knows_tokens_and_problems(self, client):
        document = client.get("/openapi.json").json

        validate(document)
        create = document["paths"]["/things"]["post"]
        assert create["security"] == [{"bearer": ["things:write"]}]
        assert {"401", "403", "422", "default"} <= set(create["responses"])
        refused = create["responses"]["403"]
        assert refused["description"] == "Forbidden"
        assert "application/problem+json" in refused["content"]
        assert "security" not in document["paths"]["/raw"]["post"]
        assert "HTTPError" not in document["components"]["schemas"]

    def test_can_be_left_out(self, make_settings):
        app = web.create_app(__name__, make_settings(), name="things", openapi=False)

        assert app.test_client().get("/openapi.json").status_code == 404
