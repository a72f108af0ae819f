"""Rooms over WebSockets, through the gateway: who else is here, and who edits."""

import uuid

import pytest
import socketio.exceptions
from harness.people import browser
from harness.waiting import until


@pytest.fixture
def room():
    return f"products/{uuid.uuid4()}"


def counts(number):
    return lambda event, content: event == "presence" and content["count"] == number


class TestRooms:
    def test_count_whoever_looks_and_forget_who_leaves(self, stack, connect, room):
        ada, bob = connect(stack.url), connect(stack.url)
        ada.call("join", room=room)
        assert bob.call("join", room=room) == {"room": room, "count": 2}
        ada.wait_for(counts(2))

        with stack.client() as client:
            told = client.get("/api/v1/presence", params={"room": room})
        bob.close()

        assert told.json() == {"room": room, "count": 2, "people": None, "lock": None}
        ada.wait_for(counts(1))

    def test_tell_names_and_locks_to_the_back_office_alone(
        self, stack, connect, room, merchandiser, admin, customer
    ):
        ada = connect(stack.url, merchandiser.bearer)
        bob = connect(stack.url, admin.bearer)
        eve = connect(stack.url, customer.bearer)
        ada.call("join", room=room)
        bob.call("join", room=room)
        seen = eve.call("join", room=room)

        lock = ada.call("lock", room=room)
        refused = bob.call("lock", room=room)["problem"]
        state = bob.wait_for(lambda e, c: c["count"] == 3 and c["lock"] is not None)

        assert seen == {"room": room, "count": 3}
        assert lock["token"]
        assert (refused["status"], refused["holder"]["id"]) == (
            409,
            state["lock"]["id"],
        )
        names = {person["name"] for person in state["people"]}
        assert len(state["people"]) == 2
        assert None not in names
        assert state["lock"]["name"] in names
        assert eve.call("lock", room=room)["problem"]["status"] == 403
        ada.close()
        until(
            lambda: "token" in bob.call("lock", room=room), what="the lock of who left"
        )


class TestBrowsers:
    def test_are_known_by_their_session(self, stack, accounts, connect, room):
        with browser(stack, accounts["merchandiser"]) as page:
            cookies = "; ".join(f"{c.name}={c.value}" for c in page.cookies.jar)
        headers = {"Cookie": cookies, "Origin": stack.url}

        told = connect(stack.url, headers).call("join", room=room)

        assert len(told["people"]) == 1

    def test_of_other_sites_get_no_websocket(self, stack, accounts, connect):
        with browser(stack, accounts["merchandiser"]) as page:
            cookies = "; ".join(f"{c.name}={c.value}" for c in page.cookies.jar)

        for origin in ("https://evil.example", "null", f"{stack.url}.evil.example"):
            with pytest.raises(socketio.exceptions.ConnectionError):
                connect(stack.url, {"Cookie": cookies, "Origin": origin})


class TestPolling:
    def test_is_refused_with_a_reason(self, stack):
        with stack.client() as client:
            answer = client.get("/socket.io/?EIO=4&transport=polling")

        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"].endswith("#polling-refused")
