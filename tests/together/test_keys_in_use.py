"""Signing keys change, are stolen, and auth goes away: what the other services do."""

import base64
import json
import os
import signal
import time

import pytest
import redis

ALLOWED = {200, 403}
"""A token that was believed; auth has nothing for it, which is another matter."""


def kid_of(token):
    head = token.split(".")[0]
    return json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"]


def claims_of(token):
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


def eventually(check, seconds):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


class TestRotation:
    def test_under_load_is_a_401_nowhere(self, platform):
        kids = set()
        with platform.load() as load:
            for _ in range(3):
                time.sleep(1.5)
                platform.flask("keys", "rotate")
                kids.add(kid_of(platform.token("auth-2")))
            time.sleep(1)

        assert {status for _name, status in load.answers} <= ALLOWED
        assert len(kids) == 3
        for name in ("auth", "catalog", "worker", "realtime"):
            assert load.count(name) > 10

    def test_by_surprise_is_known_at_once(self, platform):
        platform.flask("keys", "rotate", "--now")

        token = platform.token()
        assert set(platform.everywhere(token).values()) <= ALLOWED


class TestDrop:
    def test_makes_a_stolen_key_worthless_everywhere_within_seconds(self, platform):
        stolen = platform.token()
        assert set(platform.everywhere(stolen).values()) <= ALLOWED

        platform.flask("keys", "drop", kid_of(stolen))

        began = time.monotonic()
        for _ in range(100):
            if set(platform.everywhere(stolen).values()) == {401}:
                break
        assert set(platform.everywhere(stolen).values()) == {401}
        assert time.monotonic() - began < 3

    def test_others_are_believed_at_once(self, platform):
        platform.flask("keys", "drop", kid_of(platform.token()))

        # The heir may be too young for anybody to have seen it: all fetch it now.
        time.sleep(0.5)
        assert set(platform.everywhere(platform.token("auth-2")).values()) <= ALLOWED


class TestRevocation:
    @pytest.mark.parametrize("kind", ["jti", "sub", "kid"])
    def test_takes_effect_everywhere_within_a_second(self, platform, kind):
        token = platform.token()
        known = {**claims_of(token), "kid": kid_of(token)}
        for _ in range(3):
            assert set(platform.everywhere(token).values()) <= ALLOWED

        name = f"denylist:{kind}:{known[kind]}"
        with redis.Redis.from_url(platform.redis) as store:
            store.set(name, str(int(time.time())), ex=60)
            try:
                began = time.monotonic()
                time.sleep(0.9)
                assert set(platform.everywhere(token).values()) == {401}
                assert time.monotonic() - began < 5
            finally:
                store.delete(name)
        eventually(lambda: set(platform.everywhere(token).values()) <= ALLOWED, 5)


class TestAuthStopped:
    def test_the_other_services_go_on_believing_tokens(self, platform):
        token = platform.token()
        believed = platform.everywhere(token)

        platform.stop("auth")
        platform.stop("auth-2")
        try:
            others = ("catalog", "worker", "realtime")
            expected = {name: believed[name] for name in others}
            end = time.monotonic() + 4
            while time.monotonic() < end:
                assert platform.everywhere(token) == expected

            # Nor does it matter who is new among the workers of a service.
            before = platform.workers("catalog")
            for victim in before:
                os.kill(victim, signal.SIGKILL)
                eventually(lambda: len(platform.workers("catalog")) == len(before), 20)
                for _ in range(10):
                    assert platform.everywhere(token) == expected
            assert not set(before) & set(platform.workers("catalog"))
        finally:
            platform.start("auth", "auth-2")
        assert set(platform.everywhere(platform.token()).values()) <= ALLOWED
