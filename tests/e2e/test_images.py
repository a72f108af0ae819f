"""Images of products through the gateway: sent, shown, made smaller, and removed."""

import hashlib
import struct
import zlib

import pytest
from harness.waiting import until

PRODUCTS = "/api/v1/products"


def png(width, height, seed):
    """Return a picture of two colours that no other run has."""

    def chunk(name, content):
        body = name + content
        check = struct.pack("!I", zlib.crc32(body))
        return struct.pack("!I", len(content)) + body + check

    head = struct.pack("!IIBBBBB", width, height, 8, 2, 0, 0, 0)
    colour = hashlib.sha256(seed.encode()).digest()
    row = b"\0" + colour[:3] * (width // 2) + colour[3:6] * (width - width // 2)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"tEXt", b"Comment\0a secret place")
        + chunk(b"IDAT", zlib.compress(row * height))
        + chunk(b"IEND", b"")
    )


@pytest.fixture
def product(merchandiser, word):
    with merchandiser.client() as client:
        made = client.post(
            PRODUCTS, json={"sku": word, "name": f"Flask {word}", "price_minor": 900}
        )
        assert made.status_code == 201, made.text
        yield made.json()
        path = f"{PRODUCTS}/{made.json()['id']}"
        tag = client.get(path).headers["ETag"]
        assert client.delete(path, headers={"If-Match": tag}).status_code == 204


class TestImage:
    def test_is_drawn_anew_shown_small_and_gone_when_deleted(
        self, stack, merchandiser, product, word
    ):
        path = f"{PRODUCTS}/{product['id']}/images"
        with merchandiser.client() as client, stack.client() as stranger:
            sent = client.post(
                path,
                files={"file": ("x.php", png(1200, 800, word), "text/html")},
                data={"alt": "A flask"},
            )
            assert sent.status_code == 201, sent.text
            image = sent.json()

            whole = stranger.get(image["url"])
            assert whole.status_code == 200, whole.text
            assert whole.headers["Content-Type"] == "image/webp"
            caching = "public, max-age=31536000, immutable"
            assert whole.headers["Cache-Control"] == caching
            assert whole.headers["X-Content-Type-Options"] == "nosniff"
            assert "sandbox" in whole.headers["Content-Security-Policy"]
            assert not whole.headers["ETag"].startswith("W/")
            assert hashlib.sha256(whole.content).hexdigest() == image["sha256"]
            assert b"secret" not in whole.content
            again = stranger.get(
                image["url"], headers={"If-None-Match": whole.headers["ETag"]}
            )
            assert again.status_code == 304

            def thumbnails():
                found = client.get(f"{path}/{image['id']}").json()["thumbnails"]
                return found if len(found) == 3 else None

            small = until(thumbnails, seconds=60)
            assert [one["width"] for one in small] == [160, 480, 960]
            for one in small:
                answer = stranger.get(one["url"])
                assert answer.status_code == 200
                assert answer.headers["Cache-Control"] == caching
                assert answer.content[8:12] == b"WEBP"
                assert len(answer.content) < len(whole.content) * 2

            shown = client.get(f"{PRODUCTS}/{product['id']}?include=images").json()
            assert shown["embedded"]["images"][0]["thumbnails"] == small
            page = stranger.get(
                f"/products/{product['slug']}", headers={"Accept": "text/html"}
            )
            assert f'src="{small[1]["url"]}"' in page.text
            assert 'alt="A flask"' in page.text

            tag = client.get(f"{path}/{image['id']}").headers["ETag"]
            gone = client.delete(f"{path}/{image['id']}", headers={"If-Match": tag})
            assert gone.status_code == 204

            def is_gone():
                answers = [stranger.get(one["url"]) for one in (image, *small)]
                return all(answer.status_code == 404 for answer in answers)

            assert until(is_gone, seconds=90)
            assert "immutable" not in stranger.get(image["url"]).headers.get(
                "Cache-Control", ""
            )

    def test_reaches_no_files_and_no_inside(self, stack):
        with stack.client() as stranger:
            for path in (
                "/_images/incoming/.ready",
                "/media/../_images/incoming/.ready",
                "/media/%2e%2e/_images/incoming/.ready",
                f"/internal/pictures/{'0' * 64}",
                f"/media/{'0' * 64}/full.webp",
            ):
                answer = stranger.get(path)
                assert answer.status_code in {400, 404}, path

    def test_that_is_too_large_stops_at_the_gateway(self, merchandiser, product):
        with merchandiser.client() as client:
            for size in (8 * 1024 * 1024 + 1, 20 * 1024 * 1024):
                sent = client.post(
                    f"{PRODUCTS}/{product['id']}/images",
                    files={"file": ("x.png", bytes(size), "image/png")},
                )
                assert sent.status_code == 413
                kind = sent.headers["Content-Type"]
                assert kind == "application/problem+json"
