"""A disk is lost: everything comes back as it was at a moment, and works."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from harness import imports
from harness.events import Stream
from harness.waiting import until

CHANGED = "market.flagon.product.changed.v1"


class Shelf:
    """Products of one test, written through the gateway."""

    def __init__(self, person, word):
        self.person = person
        self.word = word
        self.tags = {}
        """The last entity tag, by id."""

    def add(self, number):
        """Create a product and return its id."""
        sku = f"{self.word}-{number}"
        body = {"sku": sku, "name": f"Thing {sku}", "price_minor": number}
        made = self._send("POST", "", body, {"Idempotency-Key": uuid4().hex})
        return made["id"]

    def price(self, id_, price):
        """Change the price of a product."""
        self._send("PATCH", f"/{id_}", {"price_minor": price}, self._seen(id_))

    def archive(self, id_):
        """Take a product out of the shop."""
        self._send("DELETE", f"/{id_}", None, self._seen(id_))

    def _seen(self, id_):
        return {"If-Match": self.tags[id_]}

    def _send(self, method, path, body, headers):
        with self.person.client() as client:
            answer = client.request(
                method, f"/api/v1/products{path}", json=body, headers=headers
            )
        assert answer.is_success, answer.text
        if method == "DELETE":
            return None
        self.tags[answer.json()["id"]] = answer.headers["etag"]
        return answer.json()

    def found(self, client):
        """Return price and status by SKU, of all that the API has."""
        query = {"q": self.word, "status": "any", "limit": 100}
        fresh = {"Cache-Control": "no-cache"}
        items = client.get("/api/v1/products", params=query, headers=fresh).json()
        return {
            one["sku"]: (one["price_minor"], one["status"]) for one in items["items"]
        }


def revoke(stack, token):
    """End an access token, and see that it has ended."""
    with stack.client() as client:
        client.post("/oauth/revoke", data={"client_id": "cli", "token": token})
    until(lambda: refused(stack, token), what="the end of a token")


def refused(stack, token):
    """Say whether a token is worth nothing."""
    headers = {"Authorization": f"Bearer {token}"}
    with stack.client(headers=headers) as client:
        return client.get("/api/v1/jobs").status_code == 401


@pytest.mark.restarts
class TestRestore:
    def test_brings_back_exactly_what_was_there_at_a_moment(
        self, stack, merchandiser, word
    ):
        shelf = Shelf(merchandiser, word)
        first = shelf.add(1)
        stack.make("backup", seconds=600)
        second = shelf.add(2)
        shelf.price(first, 10)
        # Nobody takes it up: its message is in Redis alone, and will be lost there.
        stack.make("stop", P="worker-bulk")
        content = imports.as_csv(imports.rows(f"{word}i", 3))
        job = imports.accepted(merchandiser, content, imports.params(word))

        token = merchandiser.sign_in()["access_token"]

        noted = datetime.now(UTC)
        shelf.add(3)
        shelf.price(first, 99)
        shelf.archive(second)
        revoke(stack, token)
        # It is of a history that will be left, and takes the log of all that to safety.
        stack.make("backup", seconds=600)
        stack.lose_the_database()
        said = stack.make("restore", seconds=600, AT=noted.isoformat())
        print(said)
        stack.ready()

        with merchandiser.client() as client:
            assert shelf.found(client) == {
                f"{word}-1": (10, "active"),
                f"{word}-2": (2, "active"),
            }
        # No database knows of it, and it counts all the same.
        assert refused(stack, token)
        assert imports.ended(merchandiser, job)["state"] == "succeeded"
        assert len(imports.products(stack, word)) == 3
        # Who comes back reads what was told before, in order, and what is told now.
        with Stream(stack, [f"products/{first}"], last_event_id="0-1") as stream:
            told = [stream.next(lambda e: e.type == CHANGED).data for _ in range(2)]
            with merchandiser.client() as client:
                now = client.get(f"/api/v1/products/{first}")
            shelf.tags[first] = now.headers["etag"]
            shelf.price(first, 11)
            told.append(stream.next(lambda e: e.type == CHANGED).data)
        assert [(one["version"], one["price_minor"]) for one in told] == [
            (1, 1),
            (2, 10),
            (3, 11),
        ]
        assert merchandiser.sign_in()["access_token"]
        assert "WRONG" not in stack.make("invariants")
