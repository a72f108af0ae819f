import hashlib
import threading

import pytest
from flask import Response
from sqlalchemy import insert, select

from flagon_chassis import auth, db, idempotency, web
from flagon_chassis.errors import Conflict
from flagon_chassis.tables import idempotency_key
from flagon_chassis.testing import ISSUER


class Reversed:
    """Seals by writing backwards, under the name."""

    def seal(self, name, content):
        return name.encode() + content[::-1]

    def open(self, name, sealed):
        return sealed.removeprefix(name.encode())[::-1]


@pytest.fixture
def app(settings, bearer):
    app = web.create_app(__name__, settings, name="things", openapi=False)
    db.init_app(app, settings)
    auth.init_app(app, issuer=ISSUER, jwks=bearer.jwks)
    app.made = []
    app.during = lambda: None

    @app.post("/secrets")
    @auth.requires()
    def create_secret():
        with db.transaction() as session:

            def respond():
                app.made.append(1)
                return Response(f"hush {len(app.made)}", 201, mimetype="text/plain")

            return idempotency.once(session, respond, sealer=Reversed())

    @app.post("/things")
    @auth.requires()
    def create():
        with db.transaction() as session:

            def respond():
                app.during()
                app.made.append(1)
                return Response(
                    f"thing {len(app.made)}",
                    201,
                    {"Location": "/things/1", "X-Other": "1"},
                    mimetype="text/plain",
                )

            return idempotency.once(session, respond)

    yield app
    app.extensions["flagon.sessions"].kw["bind"].dispose()


@pytest.fixture
def post(app, bearer):
    client = app.test_client()
    headers = bearer(sub="someone")

    def post(key=None, body="a", headers=headers):
        keyed = {"Idempotency-Key": key} if key is not None else {}
        return client.post("/things", data=body, headers=headers | keyed)

    return post


class TestOnce:
    def test_gives_the_first_answer_again(self, app, post):
        first, second = post("k"), post("k")

        assert first.status_code == second.status_code == 201
        assert first.text == second.text == "thing 1"
        assert second.headers["Location"] == "/things/1"
        assert second.headers["Idempotent-Replayed"] == "true"
        assert "Idempotent-Replayed" not in first.headers
        assert len(app.made) == 1

    def test_stores_a_secret_answer_sealed(self, app, bearer):
        headers = bearer(sub="someone") | {"Idempotency-Key": "k"}
        client = app.test_client()

        first, second = (client.post("/secrets", headers=headers) for _ in range(2))

        assert first.text == second.text == "hush 1"
        with app.app_context(), db.transaction() as session:
            [stored] = session.scalars(select(idempotency_key.c.body))
        assert bytes(stored).endswith(b"1 hsuh")

    def test_other_keys_and_no_keys_are_other_requests(self, app, post):
        post("k")
        post("l")
        post()
        post()

        assert len(app.made) == 4

    def test_keys_are_each_accounts_own(self, app, post, bearer):
        post("k")

        assert post("k", headers=bearer(sub="another")).text == "thing 2"

    def test_refuses_another_body_under_the_same_key(self, post):
        post("k", body="a")

        response = post("k", body="b")

        assert response.status_code == 422
        assert response.json["type"].endswith("#idempotency-key-reused")

    @pytest.mark.parametrize("key", ["", " ", "ä", "x" * 201])
    def test_refuses_malformed_keys(self, post, key):
        assert post(key).status_code == 422

    def test_tells_a_twin_to_come_back(self, app, post):
        inside, go_on = threading.Event(), threading.Event()
        app.during = lambda: (inside.set(), go_on.wait(10))
        first = []
        thread = threading.Thread(target=lambda: first.append(post("k")))
        thread.start()
        assert inside.wait(10)

        twin = post("k")
        go_on.set()
        thread.join(10)

        assert (twin.status_code, twin.headers["Retry-After"]) == (409, "1")
        assert first[0].status_code == 201
        assert post("k").text == "thing 1"

    def test_undoes_what_a_twin_did_between_the_look_and_the_lock(self, app, post):
        def twin_commits():
            with app.app_context(), db.transaction() as session:
                session.execute(
                    insert(idempotency_key).values(
                        scope="someone POST /things",
                        key="k",
                        fingerprint=hashlib.sha256(b"a").digest(),
                        status=201,
                        headers={},
                        body=b"thing of the twin",
                    )
                )

        app.during = twin_commits
        second = post("k")

        assert (second.status_code, second.headers["Retry-After"]) == (409, "1")
        assert post("k").text == "thing of the twin"

    def test_does_not_store_failures(self, app, post):
        def fail():
            raise Conflict

        app.during = fail
        assert post("k").status_code == 409
        app.during = lambda: None

        assert post("k").status_code == 201
