"""A person who watches a product hears that it got cheaper, live and by mail."""

import json

from harness.events import Stream
from harness.waiting import until

WATCHES = "/api/v1/watches"
PRODUCTS = "/api/v1/products"
DROPPED = "market.flagon.price.dropped.v1"


class TestWatch:
    def test_tells_live_and_by_mail_of_each_drop_once(
        self, stack, customer, merchandiser, accounts, word
    ):
        with merchandiser.client() as seller, customer.client() as client:
            new = {"sku": word, "name": word, "price_minor": 1000, "status": "active"}
            product = seller.post(PRODUCTS, json=new).json()
            path = f"{PRODUCTS}/{product['id']}"
            watch = f"{WATCHES}/{product['id']}"
            made = client.put(watch, json={})
            assert made.status_code == 201, made.text
            assert made.json()["seen"]["price_minor"] == 1000

            with Stream(stack, ["me"], person=customer) as stream:
                for price in (1100, 900):
                    tag = seller.get(path).headers["ETag"]
                    changed = seller.patch(
                        path, json={"price_minor": price}, headers={"If-Match": tag}
                    )
                    assert changed.status_code == 200, changed.text
                event = stream.next(lambda event: event.type == DROPPED)
                data = event.envelope["data"]
                assert (data["previous_price_minor"], data["price_minor"]) == (
                    1100,
                    900,
                )
                assert data["product_id"] == product["id"]
                again = [each for each in stream.collected() if each.type == DROPPED]
                assert again == []

            def mails():
                email = accounts["customer"]["email"]
                said = stack.make("mail", TO=email, N="9", FORMAT="json")
                return [line for line in said.splitlines() if word in line]

            (mail,) = until(mails, 60, pause=2, what="the mail about the price")
            assert f"/products/{product['id']}" in json.loads(mail)["text"]

            tag = client.get(watch).headers["ETag"]
            ended = client.delete(watch, headers={"If-Match": tag})
            assert ended.status_code == 204
