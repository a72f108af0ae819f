import pytest

from flagon_realtime.clients import EventLog
from flagon_realtime.roster import Roster, Subscriber
from flagon_realtime.warden import Warden


class Ended(Subscriber):
    """Remembers why it was ended."""

    reason = None

    def end(self, reason, retry_milliseconds=None):
        self.reason = self.reason or reason


@pytest.fixture
def roster():
    return Roster(10_000)


@pytest.fixture
def look(roster, make_source):
    warden = Warden(roster, make_source().event_log)
    return lambda now=1000, monotonic_now=0.0: warden.look(now, monotonic_now)


@pytest.fixture
def open_stream(roster, helpers):
    def enter(**claims):
        given = helpers.grant(**claims) if claims else None
        subscriber = Ended(helpers.ticket("products", grant=given), 600.0)
        roster.enter(subscriber)
        return subscriber

    return enter


class TestLook:
    def test_ends_what_has_expired(self, open_stream, look):
        old, young = open_stream(expires_at=1000), open_stream(expires_at=1001)

        look(now=1000)

        assert (old.reason, young.reason) == ("token-expired", None)

    def test_ends_what_is_old(self, open_stream, look):
        stranger = open_stream()

        look(monotonic_now=stranger.rotate_at)

        assert stranger.reason == "age"

    @pytest.mark.parametrize("claim", ["jti", "sid", "gid", "kid", "sub"])
    def test_ends_what_was_revoked(self, open_stream, look, publish, claim):
        it, other = open_stream(**{claim: "it"}), open_stream(**{claim: "other"})
        publish.redis.set(f"denylist:{claim}:it", 500)

        look()

        assert (it.reason, other.reason) == ("token-revoked", None)

    def test_keeps_tokens_issued_after_the_account_was_revoked(
        self, open_stream, look, publish
    ):
        old, new = open_stream(issued_at=500), open_stream(issued_at=501)
        publish.redis.set("denylist:sub:ada", 500)

        look()

        assert (old.reason, new.reason) == ("token-revoked", None)

    def test_looks_at_every_one_of_many(self, open_stream, look, publish):
        streams = [open_stream(jti=f"j{n}", sid=None) for n in range(2500)]
        publish.redis.set("denylist:jti:j2499", 1)

        look()

        assert [s.reason for s in streams if s.reason] == ["token-revoked"]
        assert streams[-1].reason == "token-revoked"

    def test_asks_redis_nothing_for_strangers(self, open_stream, roster):
        open_stream()
        warden = Warden(roster, EventLog("redis://127.0.0.1:1/0", "events"))

        warden.look(1000, 0.0)

    def test_keeps_streams_while_redis_is_away(self, open_stream, roster):
        stream = open_stream(jti="it")
        warden = Warden(roster, EventLog("redis://127.0.0.1:1/0", "events"))

        warden.look(1000, 0.0)

        assert stream.reason is None
