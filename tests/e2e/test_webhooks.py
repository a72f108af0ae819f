"""An event reaches a receiver outside, signed."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from harness.waiting import until
from standardwebhooks import Webhook

WEBHOOKS = "/api/v1/webhooks"
PRODUCTS = "/api/v1/products"


@pytest.fixture
def receiver():
    """A receiver on this machine: its URL, and what it got."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((dict(self.headers), body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", got
        server.shutdown()


class TestWebhook:
    def test_tells_of_a_product_that_was_made(
        self, operator, merchandiser, receiver, word
    ):
        url, got = receiver
        with operator.client() as client, merchandiser.client() as seller:
            new = {"url": url, "event_types": ["market.flagon.product.*"]}
            made = client.post(WEBHOOKS, json=new)
            assert made.status_code == 201, made.text
            endpoint = made.json()
            path = f"{WEBHOOKS}/{endpoint['id']}"
            product = seller.post(
                PRODUCTS, json={"sku": word, "name": word, "price_minor": 900}
            ).json()

            def told():
                for headers, body in got:
                    if json.loads(body)["subject"] == product["id"]:
                        return headers, body
                return None

            headers, body = until(told, 60)
            event = Webhook(endpoint["secret"]).verify(body, headers)
            assert event["data"]["sku"] == word

            def logged():
                items = client.get(f"{path}/deliveries").json()["items"]
                ids = {item["id"] for item in items if item["state"] == "delivered"}
                return headers["webhook-id"] in ids

            until(logged, 30)
            tag = client.get(path).headers["ETag"]
            assert client.delete(path, headers={"If-Match": tag}).status_code == 204
            tag = seller.get(f"{PRODUCTS}/{product['id']}").headers["ETag"]
            seller.delete(f"{PRODUCTS}/{product['id']}", headers={"If-Match": tag})

    def test_never_goes_inside(self, operator):
        with operator.client() as client:
            for url in ("https://169.254.169.254/", "https://10.0.0.1/"):
                new = {"url": url, "event_types": ["*"]}
                assert client.post(WEBHOOKS, json=new).status_code == 422
