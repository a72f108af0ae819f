"""Alertmanager tells web of alerts, and operators see what people were told."""

import json

import pytest

from flagon_web.clients import notices as clients
from flagon_web.domain.notices import Group

PATH = "/internal/alerts"
PAGE = "/back-office/operations"
TOKEN = "a-token-that-both-were-given-" + "x" * 20
KNOWN = {"Authorization": f"Bearer {TOKEN}"}
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def alert(name="OutboxOld", status="firing", annotations=None, **labels):
    """Return an alert as Alertmanager 0.28 posts it."""
    return {
        "status": status,
        "labels": {"alertname": name, "severity": "page", **labels},
        "annotations": {
            "summary": f"{name} is the case.",
            "runbook": "docs/runbooks/outbox-old.md",
        }
        if annotations is None
        else annotations,
        "startsAt": "2026-01-02T03:04:05.123456789Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus:9090/graph?g0.expr=up",
        "fingerprint": "b2fab01c1fa0cb69",
    }


def message(*alerts, name="OutboxOld", receiver="pager", **members):
    """Return a message as Alertmanager 0.28 posts it."""
    found = list(alerts) or [alert(name)]
    going = any(one["status"] == "firing" for one in found)
    return {
        "version": "4",
        "groupKey": f'{{}}/{{severity="page"}}:{{alertname="{name}"}}',
        "truncatedAlerts": 0,
        "status": "firing" if going else "resolved",
        "receiver": receiver,
        "groupLabels": {"alertname": name, "service": "catalog"},
        "commonLabels": {"alertname": name},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager:9093",
        "alerts": found,
        **members,
    }


@pytest.fixture
def fitted(fit_app):
    """The app where there is an Alertmanager."""

    def fit(**settings):
        return fit_app(**{"alerts_token": TOKEN, **settings})

    return fit


@pytest.fixture
def tell(fitted):
    """Tell web of alerts as Alertmanager does: no cookie, no form, no Referer."""
    app = fitted()

    def tell(body, headers=KNOWN, **options):
        options = {"data": body} if isinstance(body, bytes) else {"json": body}
        return app.test_client().post(PATH, headers=headers, **options)

    tell.app = app
    return tell


@pytest.fixture
def looks(tell, make_browser, platform):
    """What an operator sees of it."""
    platform.role = "operator"
    browser = make_browser(app=tell.app)
    assert browser.sign_in(platform).status_code == 303
    return lambda **headers: browser.get(PAGE, headers=headers).text


def shown(text):
    """Return the part of a page that is about what people were told."""
    return text.partition('id="notices-head"')[2].partition("</section>")[0]


class TestKeepNotice:
    def test_shows_what_people_were_told(self, tell, looks):
        answer = tell(message(alert(), alert(shard="b"), alert(shard="c")))

        assert answer.status_code == 204
        assert "Set-Cookie" not in answer.headers
        text = shown(looks())
        assert ">OutboxOld<" in text
        assert ">catalog<" in text
        assert ">pager<" in text
        assert text.count("OutboxOld is the case.") == 3
        assert "badge--down" in text
        assert 'href="http://localhost/docs/runbooks/outbox-old"' in text

    def test_shows_the_last_word_on_each_group(self, tell, looks):
        tell(message())
        tell(message(name="DiskFull", receiver="tickets"))
        tell(message(alert(status="resolved")))

        text = shown(looks())

        assert text.index(">DiskFull<") < text.index(">OutboxOld<")
        assert text.count("<tr>") == 3
        assert "is over" in text
        assert "badge--ready" in text

    def test_tells_alerts_apart_that_are_over_in_a_group(self, tell, looks):
        tell(message(alert(), alert(status="resolved"), alert("DiskFull")))

        assert shown(looks()).count("is over") == 1

    def test_shows_few_alerts_of_a_large_group(self, tell, looks):
        tell(message(*(alert(shard=str(n)) for n in range(8)), truncatedAlerts=40))

        assert "43 more." in shown(looks())

    def test_shows_a_ticket_as_less_urgent_and_what_has_no_name(self, tell, looks):
        bare = alert("DiskFull", annotations={}, severity="ticket")
        tell(message(bare, groupLabels={}))

        text = shown(looks())

        assert "badge--degraded" in text
        assert text.count(">DiskFull<") == 2
        assert "runbooks" not in text

    def test_is_shown_in_german(self, tell, looks):
        tell(message())

        assert "Benachrichtigungen" in looks(**{"Accept-Language": "de"})

    def test_nothing_is_shown_before_anything_was_told(self, looks):
        assert "notices-head" not in looks()

    def test_nothing_is_shown_where_there_is_no_alertmanager(
        self, tell, fitted, make_browser, platform
    ):
        tell(message())
        platform.role = "operator"
        browser = make_browser(app=fitted(alerts_token=None))
        browser.sign_in(platform)

        assert "notices-head" not in browser.get(PAGE).text
        answer = browser.client.post(PATH, json=message(), headers=KNOWN)
        assert answer.status_code == 404


class TestNotices:
    @pytest.fixture
    def kept(self, redis_url):
        """What is kept, and the time by which it is."""

        class Clock:
            now = 1_000_000.0

            def __call__(self):
                return self.now

        clock = Clock()
        found = clients.Notices(redis_url, seconds=90_000, clock=clock)
        yield found, clock
        found._redis.close()

    def names(self, found):
        return [one.group.name for one in found.list_notices()]

    def test_are_forgotten_when_they_are_old(self, kept, store):
        found, clock = kept
        found.keep(Group.model_validate(message()))
        over = alert("DiskFull", status="resolved")
        found.keep(Group.model_validate(message(over, name="DiskFull")))
        assert self.names(found) == ["OutboxOld", "DiskFull"]

        clock.now += 3601
        assert self.names(found) == ["OutboxOld"]
        clock.now += 90_000
        assert self.names(found) == []
        assert store.hlen(clients.KEY) == 2
        found.keep(Group.model_validate(message(name="QueueOld")))

        assert self.names(found) == ["QueueOld"]
        assert 0 < store.ttl(clients.KEY) <= 90_000

    def test_of_another_release_are_left_out(self, kept, store):
        found, _clock = kept
        store.hset(clients.KEY, "a", json.dumps({"group": {"version": "5"}}))
        store.hset(clients.KEY, "b", "{")
        assert self.names(found) == []

        found.keep(Group.model_validate(message()))

        assert self.names(found) == ["OutboxOld"]
        # It reads them still.
        assert store.hlen(clients.KEY) == 3

    def test_are_a_limited_number(self, kept, store):
        found, clock = kept
        for number in range(clients.MOST + 5):
            clock.now += 1
            found.keep(Group.model_validate(message(name=f"N{number}")))

        assert store.hlen(clients.KEY) == clients.MOST
        assert "N4" not in self.names(found)
        assert self.names(found)[0] == f"N{clients.MOST + 4}"

    def test_that_are_over_leave_before_what_goes_on(self, kept):
        found, clock = kept
        found.keep(Group.model_validate(message(name="GoesOn")))
        for number in range(clients.MOST):
            clock.now += 1
            over = alert(f"N{number}", status="resolved")
            found.keep(Group.model_validate(message(over, name=f"N{number}")))

        assert self.names(found)[0] == "GoesOn"
        assert len(self.names(found)) == clients.MOST

    def test_many_are_counted_on_the_page(self, tell, looks):
        for number in range(53):
            tell(message(name=f"N{number}"))

        assert "3 more." in shown(looks())


class TestAttacks:
    """Who does not know the token is not heard; who does can say no more than it may."""

    @pytest.mark.parametrize(
        "authorization",
        [
            None,
            "",
            "Bearer",
            "Bearer ",
            f"Bearer {TOKEN[:-1]}",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN.upper()}",
            f"Basic {TOKEN}",
            TOKEN,
            "Bearer \xff\xfe",
            "Bearer " + "x" * 9000,
        ],
    )
    @pytest.mark.parametrize("body", [message(), b"{", b"x" * 10_000_000])
    def test_without_the_token_nothing_is_read(self, tell, store, authorization, body):
        headers = {} if authorization is None else {"Authorization": authorization}

        answer = tell(body, headers)

        assert answer.status_code == 401
        assert answer.mimetype == "application/problem+json"
        assert answer.json["type"].endswith("#not-alertmanager")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert not store.exists(clients.KEY)

    def test_a_session_is_no_token(self, tell, make_browser, platform, store):
        platform.role = "admin"
        browser = make_browser(app=tell.app)
        browser.sign_in(platform)

        answer = browser.client.post(
            PATH, json=message(), headers={"X-CSRF-Token": browser.csrf()}
        )

        assert answer.status_code == 401
        assert not store.exists(clients.KEY)

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"", 400),
            (b"{", 400),
            (b"[" * 100_000, 400),
            (b"\xff", 400),
            (b"null", 422),
            (b"[]", 422),
            (b"{}", 422),
            (b'"x"', 422),
            (message(version="5"), 422),
            (message(status="odd"), 422),
            (message(groupKey=""), 422),
            (message(receiver=None), 422),
            (message(alerts=[]), 422),
            (message(alerts=[{}]), 422),
            (message(truncatedAlerts=-1), 422),
            (message(groupLabels={"a": {"b": 1}}), 422),
            (message({**alert(), "startsAt": "yesterday"}), 422),
            (message({**alert(), "startsAt": "0001-01-01T00:00:00+14:00"}), 422),
            (message({**alert(), "startsAt": "9999-12-31T23:59:59-14:00"}), 422),
            (message({**alert(), "startsAt": 1e300}), 422),
            (message({**alert(), "annotations": ["x"]}), 422),
            (message(receiver="\ud800"), 400),
            (message(groupKey="\ud800"), 400),
            (message(alert(annotations={"summary": "x" * 200_000})), 413),
            (b"x" * 10_000_000, 413),
        ],
    )
    def test_a_wrong_body_is_a_problem(self, tell, store, body, status):
        headers = {**KNOWN, "Content-Type": "application/json"}

        answer = tell(body, headers)

        assert answer.status_code == status
        assert answer.mimetype == "application/problem+json"
        assert answer.json["status"] == status
        assert not store.exists(clients.KEY)

    def test_another_kind_of_body_is_a_problem(self, tell):
        answer = tell(json.dumps(message()).encode(), KNOWN)

        assert answer.status_code == 415
        assert answer.mimetype == "application/problem+json"

    def test_nothing_is_taken_for_markup_or_for_an_address(self, tell, looks):
        notes = {"summary": EVIL, "runbook": "javascript:alert(1)"}
        tell(
            message(
                alert(EVIL, annotations=notes, service=EVIL),
                name=EVIL,
                receiver=EVIL,
                externalURL="javascript:alert(1)",
                groupLabels={"alertname": EVIL, "service": EVIL},
            )
        )

        text = shown(looks())

        assert text.count("&lt;script&gt;") == 4
        assert "<script" not in text
        assert "<img" not in text
        assert "javascript:" not in text

    @pytest.mark.parametrize("method", ["get", "put", "delete", "patch"])
    def test_is_only_told(self, tell, method):
        answer = getattr(tell.app.test_client(), method)(PATH, headers=KNOWN)

        assert answer.status_code == 405

    def test_a_short_token_is_none(self, fitted):
        with pytest.raises(ValueError, match="alerts_token"):
            fitted(alerts_token="short")

    def test_is_told_again_when_it_could_not_be_kept(self, fit_app):
        away = fit_app(alerts_token=TOKEN, redis_store_url="redis://127.0.0.1:1/0")

        answer = away.test_client().post(PATH, json=message(), headers=KNOWN)

        # Alertmanager tries again after a 5xx, and after nothing else.
        assert answer.status_code == 503
        assert answer.mimetype == "application/problem+json"
