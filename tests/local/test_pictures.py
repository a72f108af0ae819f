"""Pictures through the gateway: from a folder, and from a real store with S3's protocol."""

from contextlib import contextmanager

import pytest

from flagon_catalog.clients import Bucket, Folder
from flagon_chassis.testing import BUCKET_KEY, free_port, start_bucket

from .conftest import stand_in, start_gateway

NAME = "ab/cd/full.webp"
PICTURE = b"RIFF of some length"
SHOWN = {
    "content-type": "image/webp",
    "cache-control": "public, max-age=31536000, immutable",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
    "cross-origin-resource-policy": "same-origin",
}


@contextmanager
def opened(folder, port):
    """A gateway whose catalog hands over what the test says."""
    with (
        stand_in() as upstream,
        start_gateway(folder, upstream, GATEWAY_BUCKET=f"127.0.0.1:{port}") as gateway,
    ):
        yield gateway


def hand_over(gateway, headers):
    """Have the catalog answer with these headers, as it does for a picture."""

    def answer(handler):
        handler.reply(200, b"", content_type="image/webp", **headers)

    gateway.upstream.answer = answer


@pytest.fixture(scope="module")
def store():
    yield from start_bucket()


@pytest.fixture(scope="module")
def running(tmp_path_factory, store):
    port = int(store.url.split(":")[2].partition("/")[0])
    with opened(tmp_path_factory.mktemp("gateway"), port) as gateway:
        yield gateway


@pytest.fixture
def gateway(running):
    running.upstream.answer = None
    return running


@pytest.fixture
def folder(gateway):
    return Folder(gateway.folder / "images")


@pytest.fixture
def bucket(store):
    return Bucket(
        store.url, region="us-east-1", key_id=BUCKET_KEY[0], key=BUCKET_KEY[1]
    )


@pytest.fixture(params=["folder", "bucket"])
def kept(request):
    return request.getfixturevalue(request.param)


class TestPictures:
    def test_are_sent_with_the_same_headers_from_either_store(self, gateway, kept):
        kept.put(NAME, PICTURE)
        hand_over(gateway, kept.handed_over(NAME))

        reply = gateway.client.get("/media/cd/full.webp")

        assert reply.content == PICTURE
        assert {name: reply.headers.get(name) for name in SHOWN} == SHOWN
        assert reply.headers.get_list("content-type") == ["image/webp"]
        assert not {"x-accel-redirect", "x-bucket-host"} & {
            name.lower() for name in reply.headers
        }
        assert not [
            name
            for name in reply.headers
            if name.startswith(("x-amz", "access-control"))
        ]

    def test_answer_head_ranges_and_validators(self, gateway, kept):
        kept.put(NAME, PICTURE)
        hand_over(gateway, kept.handed_over(NAME))

        whole = gateway.client.get("/media/cd/full.webp")
        head = gateway.client.head("/media/cd/full.webp")
        part = gateway.client.get("/media/cd/full.webp", headers={"Range": "bytes=0-3"})
        same = gateway.client.get(
            "/media/cd/full.webp", headers={"If-None-Match": whole.headers["etag"]}
        )

        assert head.status_code == 200
        assert head.content == b""
        assert (part.status_code, part.content) == (206, b"RIFF")
        assert same.status_code == 304

    @pytest.mark.parametrize("inside", ["/_images/", "/_bucket/pictures/"])
    def test_are_not_to_be_had_without_the_catalog(self, gateway, kept, inside):
        kept.put(NAME, PICTURE)

        for path in (
            inside + NAME,
            f"/media/..{inside}{NAME}",
            f"/media/%2e%2e{inside}",
        ):
            assert PICTURE not in gateway.client.get(path).content

    def test_nothing_of_the_client_reaches_the_bucket(self, gateway, bucket):
        bucket.put(NAME, PICTURE)
        hand_over(gateway, bucket.handed_over(NAME))

        # The store would refuse a second authorization beside the signature.
        reply = gateway.client.get(
            "/media/cd/full.webp?X-Amz-Signature=mine",
            headers={"Authorization": "AWS4-HMAC-SHA256 x", "Cookie": "a=b"},
        )

        assert reply.content == PICTURE

    def test_what_the_bucket_lacks_or_refuses_is_not_found(self, gateway, bucket):
        signed = bucket.handed_over("ab/none.webp")
        forged = {**signed, "X-Accel-Redirect": signed["X-Accel-Redirect"][:-1] + "x"}

        for headers in (signed, forged):
            hand_over(gateway, headers)
            reply = gateway.client.get("/media/cd/full.webp")
            assert reply.status_code == 404
            assert reply.json()["title"] == "Not Found"
            # No word of the store's own: it names bucket and key.
            assert "pictures" not in reply.text


def test_a_bucket_that_is_away_is_a_503(tmp_path):
    port = free_port()
    bucket = Bucket(
        f"http://127.0.0.1:{port}/pictures",
        region="us-east-1",
        key_id=BUCKET_KEY[0],
        key=BUCKET_KEY[1],
    )
    with opened(tmp_path, port) as gateway:
        hand_over(gateway, bucket.handed_over(NAME))

        reply = gateway.client.get("/media/cd/full.webp")

        assert reply.status_code == 503
        assert int(reply.headers["Retry-After"]) > 0
