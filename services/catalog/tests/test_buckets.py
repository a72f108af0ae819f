"""Pictures in a bucket: a real store with the S3 protocol, which checks signatures."""

import io
import threading
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx2
import pytest
from PIL import Image
from pydantic import ValidationError
from sqlalchemy import text

from flagon_catalog import keeper
from flagon_catalog.clients import Bucket, PicturesUnreachable
from flagon_chassis.testing import BUCKET_KEY, free_port, start_bucket

PRODUCTS = "/api/v1/products"


@pytest.fixture(scope="module")
def server():
    yield from start_bucket()


def opened(url, key=BUCKET_KEY[1]):
    return Bucket(url, region="us-east-1", key_id=BUCKET_KEY[0], key=key)


@pytest.fixture
def bucket(server):
    return opened(server.url)


@pytest.fixture(scope="module")
def bucket_app(migrated, make_app, server):
    return make_app(
        migrated(),
        images_dir=None,
        images_url=server.url,
        images_key_id=BUCKET_KEY[0],
        images_key=BUCKET_KEY[1],
    )


def picture():
    file = io.BytesIO()
    Image.new("RGB", (60, 40), "teal").save(file, "PNG")
    return file.getvalue()


def address(server, headers):
    """Return what the gateway makes of what the catalog answers."""
    host = urlsplit(server.url).netloc
    assert headers["X-Bucket-Host"] == host
    return f"http://{host}" + headers["X-Accel-Redirect"].removeprefix("/_bucket")


class TestBucket:
    def test_keeps_reads_and_forgets(self, bucket):
        assert bucket.read("ab/one.webp") is None
        assert not bucket.has("ab/one.webp")

        bucket.put("ab/one.webp", b"first")
        bucket.put("ab/one.webp", b"first")

        assert bucket.has("ab/one.webp")
        assert bucket.read("ab/one.webp") == b"first"
        bucket.remove(["ab/one.webp", "ab/none.webp"])
        assert bucket.read("ab/one.webp") is None

    def test_signs_one_name_for_a_minute(self, bucket, server):
        bucket.put("ab/two.webp", b"second")
        url = address(server, bucket.handed_over("ab/two.webp"))

        assert httpx2.get(url).content == b"second"
        assert "X-Amz-Expires=60&" in url
        assert httpx2.get(url.replace("two", "one")).status_code == 403
        assert httpx2.get(url.replace("Expires=60", "Expires=6000")).status_code == 403
        assert httpx2.get(url.partition("?")[0]).status_code >= 400
        assert httpx2.put(url, content=b"x").status_code == 403

    def test_a_wrong_key_is_unreachable_and_says_no_secret(self, server):
        wrong = opened(server.url, key="another-secret")

        with pytest.raises(PicturesUnreachable) as refused:
            wrong.put("ab/three.webp", b"x")

        assert "secret" not in str(refused.value)
        with pytest.raises(PicturesUnreachable):
            wrong.probe()


class TestCatalog:
    def test_keeps_what_is_sent_in_the_bucket_until_nothing_shows_it(
        self, bucket_app, bucket, server, merchandiser, new_product
    ):
        client = bucket_app.test_client()
        product = client.post(PRODUCTS, json=new_product(), headers=merchandiser).json
        path = f"{PRODUCTS}/{product['id']}/images"

        made = client.post(
            path, data={"file": (io.BytesIO(picture()), "x")}, headers=merchandiser
        )

        assert made.status_code == 201, made.text
        shown = client.get(urlsplit(made.json["url"]).path)
        fetched = httpx2.get(address(server, shown.headers))
        assert fetched.content.startswith(b"RIFF")
        assert fetched.headers["content-type"] == "image/webp"
        inside = client.get(
            f"/internal/pictures/{made.json['sha256']}", headers=merchandiser
        )
        assert inside.data == fetched.content

        client.delete(
            f"{path}/{made.json['id']}", headers={**merchandiser, "If-Match": "*"}
        )
        with bucket_app.extensions["flagon.sessions"].begin() as session:
            session.connection().exec_driver_sql(
                "update picture set created_at = '2026-01-01'"
            )
        with bucket_app.app_context():
            keeper.tidy()
        assert httpx2.get(address(server, shown.headers)).status_code == 404

    def test_without_the_store_all_but_pictures_works(
        self, migrated, make_app, merchandiser, new_product, tmp_path
    ):
        port = free_port()
        app = make_app(
            migrated(),
            images_dir=None,
            images_url=f"http://127.0.0.1:{port}/pictures",
            images_key_id=BUCKET_KEY[0],
            images_key=BUCKET_KEY[1],
        )
        client = app.test_client()
        product = client.post(PRODUCTS, json=new_product(), headers=merchandiser).json
        path = f"{PRODUCTS}/{product['id']}/images"

        def send():
            form = {"file": (io.BytesIO(picture()), "x")}
            return client.post(path, data=form, headers=merchandiser)

        refused = send()

        assert refused.status_code == 503
        assert refused.json["type"].endswith("#pictures-unreachable")
        assert int(refused.headers["Retry-After"]) > 0
        assert client.get(path).json["items"] == []
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json["checks"]["images"]["ok"] is False
        # It comes back, and nothing has to be started again.
        with contextmanager(start_bucket)(port, tmp_path):
            assert send().status_code == 201

    def test_without_the_store_time_goes_on(self, migrated, make_app):
        """The thread that ends reservations lives, though it cannot remove pictures."""
        app = make_app(
            migrated(),
            images_dir=None,
            images_url=f"http://127.0.0.1:{free_port()}/pictures",
            images_key_id=BUCKET_KEY[0],
            images_key=BUCKET_KEY[1],
        )
        sessions, stop = app.extensions["flagon.sessions"], threading.Event()
        with sessions.begin() as session:
            session.execute(
                text(
                    "insert into picture (sha256, bytes, width, height, created_at)"
                    " values (repeat('a', 64), 1, 1, 1, '2026-01-01')"
                )
            )
        thread = keeper.start(app, seconds=0.01, stop=stop)
        try:
            for _ in range(3):
                with sessions.begin() as session:
                    session.execute(
                        text(
                            "insert into reservation"
                            " (id, product_id, quantity, holder, expires_at) values"
                            " (gen_random_uuid(), gen_random_uuid(), 1, 'x', now())"
                        )
                    )
                with sessions() as session:
                    for _ in range(1500):
                        held = "select count(*) from reservation where outcome is null"
                        if not session.scalar(text(held)):
                            break
                        session.execute(text("select pg_sleep(0.02)"))
                        session.rollback()
                    else:
                        pytest.fail("a reservation did not end")
        finally:
            stop.set()
            thread.join(30)

        assert not thread.is_alive()


class TestSettings:
    @pytest.mark.parametrize(
        "values",
        [
            {"images_dir": None},
            {"images_url": "http://store/pictures", "images_key_id": "a"},
            {"images_dir": None, "images_url": "http://store/pictures"},
            {"images_dir": None, "images_url": "http://store"},
            {"images_dir": None, "images_url": "ftp://store/pictures"},
            {"images_dir": None, "images_url": "http://me:secret@store/pictures"},
        ],
    )
    def test_ask_for_one_store(self, make_settings, values):
        with pytest.raises(ValidationError):
            make_settings("postgresql://x", **values)
