import json
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from flagon_chassis import auth, shared, web
from flagon_chassis.keyring import KeyRing, KeysUnavailable, fetch_from
from flagon_chassis.testing import ISSUER, TokenMaker

from .conftest import eventually


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class TestKeyRing:
    @pytest.fixture
    def clock(self):
        return Clock()

    @pytest.fixture
    def source(self, bearer):
        """What auth publishes, how often it was asked, and whether it answers."""

        class Source:
            asked = 0
            keys = bearer.jwks()
            down = False

            def __call__(self):
                self.asked += 1
                if self.down:
                    raise OSError("down")
                return self.keys

        return Source()

    @pytest.fixture
    def ring(self, source, clock):
        return KeyRing(source, clock)

    def test_fetches_once(self, ring, source, bearer):
        ring.find(bearer.kid)
        ring.find(bearer.kid)

        assert source.asked == 1

    def test_has_the_keys_before_anybody_asks(self, ring, source, bearer):
        ring.warm()
        ring.warm()
        source.down = True

        ring.find(bearer.kid)
        assert source.asked == 1

    def test_asks_a_slow_auth_again_before_it_serves(self, source, clock, bearer):
        def slowly():
            clock.now += 2
            source.down = source.asked < 2
            return source()

        KeyRing(slowly, clock).warm()

        assert source.asked == 3

    def test_does_not_wait_for_an_auth_that_stays_slow(self, source, clock):
        def never():
            clock.now += 2
            raise TimeoutError

        ring = KeyRing(never, clock)
        began = clock.now

        ring.warm()

        assert clock.now == began + 2 * ring.warm_tries

    def test_goes_on_without_an_auth_that_is_away(self, ring, source):
        source.down = True

        ring.warm()

        assert source.asked == 1

    def test_has_nothing_before_auth_answered(self, ring, source, bearer, clock):
        source.down = True
        for _ in range(3):
            with pytest.raises(KeysUnavailable):
                ring.find(bearer.kid)
        assert source.asked == 1

        clock.now += 2
        source.down = False
        ring.find(bearer.kid)

    def test_has_the_keys_before_the_first_token_comes(
        self, ring, source, bearer, clock
    ):
        source.down = True
        for _ in range(3):
            with pytest.raises(KeysUnavailable):
                ring.check()
        assert source.asked == 1

        clock.now += 2
        source.down = False
        ring.check()
        source.down = True
        ring.check()
        ring.find(bearer.kid)
        assert source.asked == 2

    def test_finds_a_new_key_at_once_and_forged_ids_cost_nothing(
        self, ring, source, bearer, clock
    ):
        ring.find(bearer.kid)
        for _ in range(5):
            with pytest.raises(pyjwt.InvalidTokenError):
                ring.find("forged")
        assert source.asked == 2

        clock.now += 31
        source.keys = {"keys": [*source.keys["keys"], *TokenMaker().jwks()["keys"]]}
        ring.find(source.keys["keys"][1]["kid"])
        assert source.asked == 3

    def test_finds_a_key_that_is_newer_than_what_it_began_with(self, ring, source):
        ring.warm()
        source.keys = {"keys": [*source.keys["keys"], *TokenMaker().jwks()["keys"]]}

        assert ring.find(source.keys["keys"][1]["kid"])

    def test_refreshes_beside_the_requests(self, ring, source, bearer, clock):
        ring.find(bearer.kid)
        clock.now += 301

        ring.find(bearer.kid)

        eventually(lambda: source.asked == 2)

    def test_serves_for_a_day_while_auth_is_away(self, ring, source, bearer, clock):
        ring.find(bearer.kid)
        source.down = True
        clock.now += 86_000
        ring.find(bearer.kid)
        eventually(lambda: source.asked == 2)
        ring.find(bearer.kid)

        clock.now += 1000
        with pytest.raises(KeysUnavailable):
            ring.find(bearer.kid)

    def test_many_threads_fetch_once(self, ring, source, bearer):
        inside, go_on = threading.Event(), threading.Event()
        fetch = source.__call__

        def slowly():
            inside.set()
            go_on.wait(5)
            return fetch()

        ring._fetch = slowly
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(ring.find(bearer.kid)))
            for _ in range(3)
        ]
        threads[0].start()
        assert inside.wait(5)
        for thread in threads[1:]:
            thread.start()
        go_on.set()
        for thread in threads:
            thread.join(5)

        assert len(found) == 3
        assert source.asked == 1

    def test_gives_the_same_object_for_the_same_key(self, ring, bearer):
        found = ring.find(bearer.kid)
        ring._refetch()

        assert ring.find(bearer.kid) is found

    def test_gives_another_object_for_another_key_of_that_id(
        self, ring, source, bearer
    ):
        found = ring.find(bearer.kid)
        source.keys = {"keys": [{**TokenMaker().jwks()["keys"][0], "kid": bearer.kid}]}
        ring._refetch()

        assert ring.find(bearer.kid) is not found

    def test_fetches_at_once_when_auth_says_that_its_keys_changed(
        self, ring, source, bearer
    ):
        # A surprise rotation, seconds after the last fetch.
        ring.find(bearer.kid)
        source.keys = TokenMaker().jwks()

        ring.refetch()
        eventually(lambda: source.asked == 2)

        eventually(lambda: ring.find(source.keys["keys"][0]["kid"]))
        with pytest.raises(pyjwt.InvalidTokenError):
            ring.find(bearer.kid)

    def test_a_flood_of_forged_ids_costs_one_fetch_in_thirty_seconds(
        self, ring, source, bearer, clock
    ):
        ring.find(bearer.kid)
        for second in range(300):
            clock.now += 1
            for number in range(5):
                with pytest.raises(pyjwt.InvalidTokenError):
                    ring.find(f"forged-{second}-{number}")

        assert source.asked <= 1 + 300 / 30

    def test_a_flood_while_auth_is_away_costs_no_more(
        self, ring, source, bearer, clock
    ):
        ring.find(bearer.kid)
        source.down = True
        for second in range(300):
            clock.now += 1
            ring.find(bearer.kid)
            with pytest.raises(pyjwt.InvalidTokenError):
                ring.find(f"forged-{second}")

        assert source.asked <= 1 + 300 / 30 + 1

    def test_serves_for_an_hour_and_more_while_auth_is_stopped(
        self, ring, source, bearer, clock
    ):
        ring.find(bearer.kid)
        source.down = True
        for _minute in range(60):
            clock.now += 60
            ring.find(bearer.kid)
            eventually(lambda: not ring._beside.locked())
        assert 2 <= source.asked <= 1 + 60 // 5 + 1

        source.down = False
        clock.now += 301
        ring.find(bearer.kid)
        eventually(lambda: ring._fetched_at > 1000 + 3600)

    def test_a_slow_fetch_holds_up_nobody_whose_key_is_known(
        self, ring, source, bearer, clock
    ):
        ring.find(bearer.kid)
        inside, go_on = threading.Event(), threading.Event()

        def slowly():
            source.asked += 1
            inside.set()
            go_on.wait(10)
            return source.keys

        ring._fetch = slowly
        clock.now += 301
        ring.find(bearer.kid)
        assert inside.wait(5)

        began = time.monotonic()
        for _ in range(200):
            ring.find(bearer.kid)
        assert time.monotonic() - began < 5
        # One thread waits for auth, not one for each request.
        assert source.asked == 2
        go_on.set()
        eventually(lambda: not ring._beside.locked())

    @pytest.mark.parametrize(
        "changes",
        [
            {"use": "enc"},
            {"use": None},
            {"key_ops": ["sign"]},
            {"key_ops": "verify"},
            {"key_ops": []},
            {"alg": "ES384"},
            {"alg": "HS256"},
            {"alg": None},
            {"crv": "P-384"},
            {"crv": "secp256k1"},
            {"kty": "oct", "k": "c2VjcmV0"},
            {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA"},
            {"kty": "unheard"},
            {"kid": 7},
            {"kid": None},
            {"d": "c2VjcmV0"},
            {"x": "AAAA"},
            {"x": "not base64!"},
            {"y": None},
        ],
        ids=str,
    )
    def test_leaves_out_unsuitable_keys(self, source, bearer, clock, changes):
        good = TokenMaker().jwks()["keys"][0]
        odd = {**source.keys["keys"][0], "kid": "odd", **changes}
        source.keys = {"keys": [good, odd]}
        ring = KeyRing(source, clock)

        assert ring.find(good["kid"])
        for kid in ("odd", str(odd["kid"])):
            with pytest.raises(pyjwt.InvalidTokenError):
                ring.find(kid)

    @pytest.mark.parametrize("bits", [1024, 2048])
    def test_leaves_out_rsa_keys_whatever_their_length(self, source, clock, bits):
        key = rsa.generate_private_key(65537, bits).public_key()
        odd = pyjwt.algorithms.RSAAlgorithm.to_jwk(key, as_dict=True)
        for alg in ("RS256", "ES256"):
            listed = [{**odd, "kid": "rsa", "alg": alg, "use": "sig"}]
            ring = KeyRing(partial(dict, keys=[*source.keys["keys"], *listed]), clock)
            with pytest.raises(pyjwt.InvalidTokenError):
                ring.find("rsa")

    def test_leaves_out_points_that_are_not_on_the_curve(self, source, clock):
        jwk = dict(source.keys["keys"][0])
        off = {**jwk, "kid": "off", "y": jwk["x"]}
        ring = KeyRing(lambda: {"keys": [jwk, off]}, clock)

        with pytest.raises(pyjwt.InvalidTokenError):
            ring.find("off")

    def test_two_keys_of_one_id_are_none(self, source, bearer, clock):
        twin = {**TokenMaker().jwks()["keys"][0], "kid": bearer.kid}
        other = TokenMaker().jwks()["keys"][0]
        ring = KeyRing(lambda: {"keys": [*source.keys["keys"], twin, other]}, clock)

        assert ring.find(other["kid"])
        with pytest.raises(pyjwt.InvalidTokenError):
            ring.find(bearer.kid)

    def test_takes_a_key_that_says_that_it_verifies(self, source, bearer, clock):
        jwk = {**source.keys["keys"][0], "key_ops": ["verify"]}

        assert KeyRing(lambda: {"keys": [jwk]}, clock).find(bearer.kid)

    def test_a_key_that_says_nothing_of_its_use_is_for_signatures(
        self, source, bearer, clock
    ):
        jwk = dict(source.keys["keys"][0])
        del jwk["use"]

        assert KeyRing(lambda: {"keys": [jwk]}, clock).find(bearer.kid)

    @pytest.mark.parametrize(
        "answer", [None, [], {}, {"keys": None}, {"keys": 5}, {"keys": ["x", 7, None]}]
    )
    def test_nonsense_is_no_key_set(self, clock, answer):
        with pytest.raises(KeysUnavailable):
            KeyRing(lambda: answer, clock).find("any")

    def test_a_set_without_usable_keys_does_not_replace_a_good_one(
        self, ring, source, bearer, clock
    ):
        ring.find(bearer.kid)
        source.keys = {"keys": []}
        clock.now += 301

        ring.find(bearer.kid)
        eventually(lambda: source.asked == 2)

        ring.find(bearer.kid)


@pytest.fixture
def serve():
    """A function that serves one answer over HTTP and returns its address."""
    servers = []

    def start(answer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                answer(self)

            def log_message(self, *_args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/jwks.json"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def answering(body, status=200, **headers):
    def answer(handler):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


class TestWorkersOfOneServer:
    """Two rings stand for two processes; that memory is shared is shown in test_shared."""

    class Auth:
        asked = 0
        down = False

        def __init__(self, *makers):
            self.makers = list(makers)

        def __call__(self):
            self.asked += 1
            if self.down:
                raise OSError("down")
            return {"keys": [key for one in self.makers for key in one.jwks()["keys"]]}

    @pytest.fixture
    def clock(self):
        return Clock()

    @pytest.fixture
    def source(self, bearer):
        return self.Auth(bearer)

    @pytest.fixture
    def workers(self, source, clock):
        common = shared.Cell(64 * 1024)
        return [KeyRing(source, clock, common) for _ in range(2)]

    def test_one_fetch_serves_all(self, workers, source, bearer):
        for ring in workers:
            ring.find(bearer.kid)

        assert source.asked == 1

    def test_one_that_is_new_believes_while_auth_is_away(
        self, workers, source, bearer, clock
    ):
        workers[0].find(bearer.kid)
        source.down = True
        clock.now += 86_000

        workers[1].find(bearer.kid)

        clock.now += 1000
        with pytest.raises(KeysUnavailable):
            workers[1].find(bearer.kid)

    def test_a_new_key_that_one_saw_is_known_to_all(
        self, workers, source, bearer, clock
    ):
        for ring in workers:
            ring.find(bearer.kid)
        new = TokenMaker()
        source.makers.append(new)
        clock.now += 1
        workers[0]._refetch()
        source.down = True

        workers[1].find(new.kid)

    def test_an_answer_that_came_late_brings_no_dropped_key_back(
        self, workers, source, bearer, clock
    ):
        late, gone, kept = workers[0], bearer, TokenMaker()
        before = source()

        def slow():
            # While this answer is on its way the key is dropped, and the other sees it.
            clock.now += 1
            source.makers = [kept]
            workers[1]._refetch()
            clock.now += 1
            return before

        late._fetch = slow
        late._refetch()

        workers[1].find(kept.kid)
        with pytest.raises(pyjwt.InvalidTokenError):
            workers[1].find(gone.kid)

    def test_what_is_no_key_set_is_not_passed_on(self, workers, source, bearer):
        source.makers = []
        with pytest.raises(KeysUnavailable):
            workers[0].find(bearer.kid)
        source.makers = [bearer]

        workers[1].find(bearer.kid)

        assert source.asked == 2


class TestFetchFrom:
    def test_is_fetched_over_http(self, make_settings, bearer, serve):
        url = serve(answering(json.dumps(bearer.jwks()).encode()))
        app = web.create_app(__name__, make_settings(), name="things", openapi=False)
        auth.init_app(app, issuer=ISSUER, jwks=url)
        app.add_url_rule("/", "thing", auth.requires()(dict))

        response = app.test_client().get("/", headers=bearer())

        assert response.status_code == 200

    def test_asks_no_proxy(self, bearer, serve, monkeypatch):
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        url = serve(answering(json.dumps(bearer.jwks()).encode()))

        assert fetch_from(url)() == bearer.jwks()

    @pytest.mark.parametrize(("all_need_tokens", "ready"), [(True, 503), (False, 200)])
    def test_who_takes_nothing_without_a_token_is_ready_with_the_keys(
        self, make_settings, bearer, serve, all_need_tokens, ready
    ):
        def app_with(url):
            app = web.create_app("", make_settings(), name="things", openapi=False)
            auth.init_app(app, issuer=ISSUER, jwks=url, all_need_tokens=all_need_tokens)
            return app.test_client()

        keys = json.dumps(bearer.jwks()).encode()
        before = app_with(serve(answering(b"", 503))).get("/readyz")
        after = app_with(serve(answering(keys))).get("/readyz")

        assert before.status_code == ready
        assert before.json["checks"]["keys"]["error"] == "KeysUnavailable"
        assert after.status_code == 200
        assert after.json["checks"]["keys"]["ok"]

    @pytest.mark.parametrize("status", [204, 302, 404, 500])
    def test_other_answers_are_failures(self, serve, bearer, status):
        body = json.dumps(bearer.jwks()).encode() if status != 204 else b""
        url = serve(answering(body, status, Location="/else"))

        with pytest.raises(ConnectionError):
            fetch_from(url)()

    def test_what_is_no_json_is_a_failure(self, serve):
        with pytest.raises(ValueError, match="Expecting"):
            fetch_from(serve(answering(b"<html>")))()

    def test_a_body_without_end_is_given_up(self, serve):
        def endless(handler):
            handler.send_response(200)
            handler.end_headers()
            try:
                while True:
                    handler.wfile.write(b" " * 65536)
            except OSError:
                pass

        with pytest.raises(TimeoutError):
            fetch_from(serve(endless))()

    def test_a_body_that_drips_is_given_up(self, serve):
        # Each byte comes in time; all of them together do not.
        now = iter(range(1000))

        def drip(handler):
            handler.send_response(200)
            handler.end_headers()
            try:
                for _ in range(100):
                    handler.wfile.write(b" ")
                    time.sleep(0.01)
            except OSError:
                pass

        with pytest.raises(TimeoutError):
            fetch_from(serve(drip), lambda: next(now))()
