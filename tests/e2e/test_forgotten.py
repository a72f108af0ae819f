"""An account that is deleted at auth, and what it wrote at the catalog."""

import re
import secrets

from harness.people import Person
from harness.waiting import until

PRODUCTS = "/api/v1/products"


class TestDeletedAccount:
    def test_takes_its_reviews_with_it(self, stack, merchandiser, admin, word):
        account = {
            "email": f"{word}@example.com",
            "password": f"orchard-{secrets.token_hex(6)}-lantern",
        }
        with stack.client(follow_redirects=True) as stranger:
            page = stranger.get("/register").text
            token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)[1]
            made = {"csrf_token": token, "name": "Gone Soon", **account}
            assert stranger.post("/register", data=made).status_code == 200
        with merchandiser.client() as client:
            new = {"sku": word, "name": word, "price_minor": 900, "status": "active"}
            product = client.post(PRODUCTS, json=new).json()["id"]
        with Person(stack, account) as person, person.client() as client:
            me = client.get("/api/v1/me").json()["id"]
            body = {"author": "Gone", "rating": 2, "title": "T", "body": "B"}
            written = client.post(f"{PRODUCTS}/{product}/reviews", json=body)
            assert written.status_code == 201, written.text
            review = written.headers["Location"]
            assert client.get(review).status_code == 200

        with admin.client() as client:
            gone = client.delete(f"/api/v1/users/{me}", headers={"If-Match": "*"})
            assert gone.status_code == 204, gone.text
            query = {"id": written.json()["id"]}
            told = until(
                lambda: [
                    (row["action"], row["actor"])
                    for row in client.get("/api/v1/audit", params=query).json()["items"]
                    if row["action"] == "deleted"
                ],
                what="the audit of a review's end",
            )
            assert client.get(review).status_code == 404

        assert told == [("deleted", "system")]
