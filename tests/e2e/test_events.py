"""Events of trusted clients, and streams over each version of HTTP, through the gateway."""

import json
import subprocess
import time
import uuid

import pytest
from harness.events import Stream
from harness.people import browser, csrf_token

from flagon_chassis import sse


@pytest.fixture(scope="module")
def robot(stack):
    """A program that an operator trusts, and its token."""
    words = "clients create Robot --grant client_credentials --scope events:write"
    made = json.loads(stack.make("cli", S="auth", C=words).strip().splitlines()[-1])
    with stack.client() as client:
        answer = client.post(
            "/oauth/token",
            data={"grant_type": "client_credentials", "scope": "events:write"},
            auth=(made["client_id"], made["client_secret"]),
        )
    assert answer.status_code == 200, answer.text
    return made["client_id"], answer.json()["access_token"]


def publish(stack, robot, name, n=1, **changes):
    client_id, token = robot
    with stack.client() as client:
        return client.post(
            "/api/v1/events",
            headers={"Authorization": f"Bearer {token}"},
            json={
                "specversion": "1.0",
                "id": f"{name}-{n}",
                "type": f"custom.{client_id}.reading.v1",
                "subject": name,
                "topics": [f"custom/{client_id}/{name}"],
                "data": {"n": n},
                **changes,
            },
        )


class TestPublishing:
    def test_reaches_who_follows_and_is_told_once(self, stack, robot, customer):
        name = f"s{uuid.uuid4().hex[:8]}"
        first = publish(stack, robot, name)
        again = publish(stack, robot, name)

        with sse.Stream(
            stack.url,
            [f"custom/{robot[0]}/*"],
            snapshot=True,
            token=lambda: customer.token,
        ) as stream:
            told = next(one for one in stream if one.envelope["subject"] == name)

        assert first.status_code == again.status_code == 201, first.text
        assert again.headers["Idempotent-Replayed"] == "true"
        assert first.json() == again.json()
        assert told.id == first.json()["position"]
        assert told.data == {"n": 1}

    def test_cannot_forge_what_the_platform_tells(self, stack, robot, merchandiser):
        forged = publish(stack, robot, "x", type="market.flagon.product.changed.v1")
        aimed = publish(stack, robot, "x", topics=["products"])
        person = publish(stack, (robot[0], merchandiser.token), "x")

        assert [forged.status_code, aimed.status_code] == [403, 403]
        assert person.status_code == 403


class TestSignOut:
    def test_ends_the_streams_of_the_session_within_a_second(self, stack, accounts):
        with (
            browser(stack, accounts["customer"]) as person,
            Stream(stack, ["me"], client=person) as stream,
        ):
            token = csrf_token(person.get("/status").text)

            person.post("/sign-out", data={"csrf_token": token})
            signed_out_at = time.monotonic()
            told = stream.next(lambda event: event.type == "close")
            took = time.monotonic() - signed_out_at

            assert told.raw == '{"reason": "token-revoked"}'
            assert stream.ended.wait(120)
            assert took < 1.0


class TestVersionsOfHttp:
    @pytest.mark.parametrize("version", ["1.1", "2"])
    def test_stream_alike(self, stack, robot, customer, version):
        name = f"s{uuid.uuid4().hex[:8]}"
        topic = f"custom/{robot[0]}/{name}"
        publish(stack, robot, name)
        with subprocess.Popen(
            [
                *("curl", "--silent", "--no-buffer", "--max-time", "120", "--include"),
                # Its certificate is another test's matter.
                *("--insecure", f"--http{version}"),
                *("--header", "Accept-Encoding: gzip"),
                *("--header", f"Authorization: Bearer {customer.token}"),
                f"{stack.https_url}/api/v1/events?topic={topic}&snapshot=1",
            ],
            stdout=subprocess.PIPE,
        ) as curl:
            status = curl.stdout.readline()
            parser, found = sse.Parser(), []
            while len(found) < 3:
                line = curl.stdout.readline()
                assert line, found
                found += parser.feed(line)
                if found and found[-1].type == "snapshot" and len(found) == 2:
                    publish(stack, robot, name, n=2)
            curl.kill()

        assert status.startswith(f"HTTP/{version} 200".encode())
        assert [one.type.rpartition(".")[2] for one in found] == [
            "v1",
            "snapshot",
            "v1",
        ]
        assert [found[0].data, found[2].data] == [{"n": 1}, {"n": 2}]


class TestWatch:
    def test_prints_what_happens(self, stack, robot):
        name = f"s{uuid.uuid4().hex[:8]}"
        publish(stack, robot, name)

        said = stack.make(
            "watch",
            TOPIC=f"custom/{robot[0]}/{name}",
            TYPE=f"custom.{robot[0]}.*",
            ROLE="customer",
            SNAPSHOT="1",
            N="1",
        )

        [line] = said.splitlines()
        assert name in line
        assert line.endswith("n=1")
