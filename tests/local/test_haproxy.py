"""HAProxy in nginx's place: the same promises, and those that it keeps otherwise."""

import os
import re
import signal
from functools import partial

import httpx2
import pytest
from flagonctl import haproxy

from . import test_gateway
from .conftest import ROOT, render, start_gateway, wait_for
from .test_gateway import KEPT_BY_ALL, unique

globals().update(KEPT_BY_ALL)
TestRetry = test_gateway.TestRetry


@pytest.fixture(scope="module")
def start(installed_haproxy):
    return partial(start_gateway, program="haproxy")


class TestErrors(test_gateway.WithoutListener, test_gateway.TestErrors):
    """Also of a service of which nobody listens."""


class TestBodies(test_gateway.TestBodies):
    def test_a_body_without_a_length_is_cut_off(self, gateway):
        """By the service, which counts what it reads."""
        body = [b"x" * 65536] * 40

        gateway.client.post("/api/v1/products", content=iter(body))

        got = gateway.upstream.last("/api/v1/products")
        assert got["headers"]["transfer-encoding"] == "chunked"
        assert len(got["body"]) == 40 * 65536


class TestHeaders(test_gateway.TestHeaders):
    def test_files_with_a_hash_in_their_name_never_change(self, gateway):
        """The files are web's to send; how long they hold is said here."""
        for path, said in {
            "/static/app.3f9a1c77.css": "public, max-age=31536000, immutable",
            "/static/app.css?v=3f9a1c77": "public, max-age=31536000, immutable",
            "/static/app.css": "no-cache",
        }.items():
            headers = {"Cookie": "flagon_session=abc"}
            reply = gateway.client.get(path, headers=headers)
            assert reply.headers["cache-control"] == said
            assert "cookie" not in gateway.upstream.last(path)["headers"]


class TestRoutes:
    """One table of routes: nginx's, read for HAProxy."""

    @pytest.fixture
    def lines(self, tmp_path):
        variables = render(tmp_path, 1)
        text = (ROOT / "gateway" / "routes.conf.template").read_text()
        places = re.findall(r"^location (?:[=~^]+ )?([/^]\S*) \{", text, re.MULTILINE)
        found = haproxy.route_lines(text, variables)
        assert len(found) == len(places)
        return [line.split(" ", 1) for line in found]

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("/", "web:page:1048576:35000:none:plain"),
            ("/metrics", "nowhere:page:1048576:35000:none:plain"),
            ("/api/v1/products/1/images", "catalog:api:9437184:35000:api:plain"),
            ("/api/v1/products/1", "catalog:api:1048576:35000:api:plain"),
            ("/api/v1/jobs", "worker:api:268435456:120000:api:plain"),
            ("/api/v1/jobs/1", "worker:api:1048576:35000:api:plain"),
            ("/api/v1/events", "realtime:api:1048576:60000:api:stream"),
            ("/socket.io/", "realtime:api:1048576:60000:api:upgrade"),
            ("/oauth/token", "auth:page:1048576:35000:token:plain"),
            ("/oauth/authorize", "auth:page:1048576:35000:sign_in+api:plain"),
            ("/media/a/b", "catalog:open:1048576:35000:api:plain"),
            ("/static/a", "web:file:1048576:35000:none:plain"),
            ("/docs/", "documents:page:1048576:35000:none:plain"),
            ("/api/v1/other", "nowhere:page:1048576:35000:none:plain"),
        ],
    )
    def test_say_what_nginx_does(self, lines, path, value):
        assert next(said for place, said in lines if re.match(place, path)) == value

    def test_that_nobody_thought_of_are_refused(self, tmp_path):
        odd = "location /odd {\n    fastcgi_pass elsewhere;\n}\n"

        with pytest.raises(ValueError, match="/odd"):
            haproxy.route_lines(odd, render(tmp_path, 1))

    def test_count_a_limit_as_long_as_a_burst_is_paid_back(self, tmp_path):
        wide = {"GATEWAY_API_RATE": "50r/s", "GATEWAY_API_BURST": "100"}
        slow = {"GATEWAY_SIGN_IN_RATE": "2r/m", "GATEWAY_SIGN_IN_BURST": "3"}
        render(tmp_path, 1, "haproxy", **wide, **slow)

        text = (tmp_path / "conf" / "haproxy.cfg").read_text()

        assert "gpc0_rate ge 101 }" in text
        assert "gpc0_rate(2020ms)" in text
        assert "gpc0_rate(120000ms)" in text


class TestReload(test_gateway.Reloads):
    def reload(self, gateway):
        said = gateway.folder / "errors.log"

        def loaded():
            return said.read_text().count("Loading success.")

        # It listens before it is done with its start, and then hears no signal.
        wait_for(loaded)
        before = loaded()
        os.kill(gateway.pid, signal.SIGUSR2)
        wait_for(lambda: loaded() > before)


class TestSlowness(test_gateway.Slowness):
    """With its own clocks."""


class TestTraces(test_gateway.Spans):
    """Told by its own log."""


class TestInside:
    def test_answers_probes_and_tells_its_own_metrics(self, gateway):
        gateway.client.get(unique("/api/v1/jobs"))

        with httpx2.Client(
            base_url=f"http://127.0.0.1:{gateway.port + 28}", trust_env=False
        ) as inside:
            assert inside.get("/healthz").json() == {"status": "alive"}
            assert inside.get("/stub_status").status_code == 404
            told = inside.get("/metrics").text

        requests = 'haproxy_frontend_http_requests_total{proxy="gateway"} '
        assert int(told.split(requests)[1].split("\n")[0]) > 0
        assert gateway.client.get("/metrics").status_code == 404
