"""Images of products: upload, attacks, order, thumbnails, and what is removed."""

import io
import os
import struct
import zlib
from hashlib import sha256
from uuid import uuid4

import pytest
from PIL import Image, ImageCms
from sqlalchemy import event, text
from werkzeug.datastructures import FileStorage
from werkzeug.test import encode_multipart

from flagon_catalog import keeper
from flagon_catalog.clients import Folder, Studio, StudioBusy
from flagon_catalog.domain import images, pictures, renditions
from flagon_chassis.testing import errands_of

PRODUCTS = "/api/v1/products"
MIB = 1024 * 1024


def encoded(kind="PNG", size=(60, 40), mode="RGB", colour="teal", **options):
    """Return a picture of one colour."""
    file = io.BytesIO()
    picture = Image.new(mode, size, colour)
    picture.save(file, kind, **options)
    return file.getvalue()


def unique(kind="PNG", size=(60, 40), **options):
    """Return a picture that no other test has."""
    file = io.BytesIO()
    Image.frombytes("RGB", (4, 4), os.urandom(48)).resize(
        size, Image.Resampling.NEAREST
    ).save(file, kind, **options)
    return file.getvalue()


def opened(content):
    picture = Image.open(io.BytesIO(content))
    picture.load()
    return picture


def chunk(name, content):
    body = name + content
    return struct.pack("!I", len(content)) + body + struct.pack("!I", zlib.crc32(body))


def bomb(width, height, rows):
    """Return a PNG that says it is so large and brings so many bytes of zeroes."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(MIB)) for _ in range(rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack("!IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", packed + packer.flush())
        + chunk(b"IEND", b"")
    )


@pytest.fixture
def send(client, merchandiser):
    """Send a file as an image of a product."""

    def send(product, content, name="x.png", *, headers=(), **fields):
        # By hand: of large bodies the test client makes files that it never closes.
        boundary, body = encode_multipart(
            {"file": FileStorage(io.BytesIO(content), name), **fields}
        )
        return client.post(
            f"{PRODUCTS}/{product['id']}/images",
            data=body,
            content_type=f"multipart/form-data; boundary={boundary}",
            headers={**merchandiser, **dict(headers)},
        )

    return send


@pytest.fixture
def storage(app):
    return app.extensions["flagon.images"]


@pytest.fixture
def kept(storage):
    """Return what is stored of an image."""

    def kept(image, name="full"):
        return storage.read(renditions.file_name(image["sha256"], name))

    return kept


class TestAddImage:
    def test_draws_it_anew_as_webp(self, send, make, kept):
        answer = send(make(), unique("JPEG"), alt="A mug")

        assert answer.status_code == 201, answer.text
        image = answer.json
        assert (image["alt"], image["position"], image["thumbnails"]) == (
            "A mug",
            0,
            [],
        )
        assert image["url"] == f"/media/{image['sha256']}/full.webp"
        assert sha256(kept(image)).hexdigest() == image["sha256"]
        assert opened(kept(image)).format == "WEBP"
        assert (image["width"], image["height"]) == (60, 40)

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
    def test_takes_each_kind_whatever_it_is_called(self, send, make, kind):
        answer = send(make(), unique(kind), name="page.html")

        assert answer.status_code == 201, answer.text

    @pytest.mark.parametrize(
        ("kind", "mode"),
        [
            ("PNG", "1"),
            ("PNG", "L"),
            ("PNG", "LA"),
            ("PNG", "P"),
            ("PNG", "RGBA"),
            ("PNG", "I;16"),
            ("JPEG", "CMYK"),
            ("WEBP", "RGBA"),
        ],
    )
    def test_takes_each_kind_of_pixels(self, send, make, kind, mode):
        colour = None if mode in {"P", "I;16"} else "white"
        answer = send(make(), encoded(kind, mode=mode, colour=colour))

        assert answer.status_code == 201, answer.text

    def test_keeps_what_is_transparent(self, send, make, kept):
        image = send(make(), encoded(mode="RGBA", colour=(9, 9, 9, 0))).json

        assert opened(kept(image)).getpixel((5, 5))[3] == 0

    def test_gives_the_product_a_version_an_event_and_a_task(self, app, send, make):
        product = make()
        image = send(product, unique(size=(300, 200))).json

        with app.app_context(), app.extensions["flagon.sessions"].begin() as session:
            rows = session.execute(
                text("select name, body from outbox order by sequence desc limit 2")
            ).all()
        told = dict(rows)
        assert told["worker.make_thumbnails"]["kwargs"] == {
            "sha256": image["sha256"],
            "widths": [160],
        }
        (changed,) = [body for name, body in rows if "product.changed" in name]
        assert changed["data"]["changed"] == ["images"]
        assert changed["data"]["version"] == product["version"] + 1

    def test_with_a_key_has_one_effect(self, send, make, client):
        product, content = make(), unique()
        key = {"Idempotency-Key": str(uuid4())}

        first, second = (send(product, content, headers=key) for _ in range(2))
        other = send(product, unique(), headers=key)

        assert (first.status_code, second.status_code) == (201, 201)
        assert first.json == second.json
        assert second.headers["Idempotent-Replayed"] == "true"
        assert other.status_code == 422
        path = f"{PRODUCTS}/{product['id']}/images"
        assert len(client.get(path).json["items"]) == 1

    def test_stores_what_two_products_show_once(self, send, make, kept):
        content = unique()
        one, two = (send(make(), content).json for _ in range(2))

        assert one["sha256"] == two["sha256"]
        assert kept(one)

    def test_refuses_the_same_image_twice(self, send, make):
        product, content = make(), unique()
        assert send(product, content).status_code == 201

        answer = send(product, content)

        assert answer.status_code == 409
        assert answer.json["type"].endswith("#image-twice")

    def test_refuses_more_than_there_may_be(self, send, make, monkeypatch):
        monkeypatch.setattr(images, "IMAGES_MAX", 1)
        product = make()
        assert send(product, unique()).status_code == 201

        assert send(product, unique()).json["type"].endswith("#images-full")

    def test_needs_the_right(self, client, make, customer):
        path = f"{PRODUCTS}/{make()['id']}/images"
        form = {"file": (io.BytesIO(unique()), "x")}

        assert client.post(path, data=form).status_code == 401
        form = {"file": (io.BytesIO(unique()), "x")}
        assert client.post(path, data=form, headers=customer).status_code == 403

    def test_needs_the_product(self, send):
        assert send({"id": uuid4()}, unique()).status_code == 404

    @pytest.mark.parametrize(
        "fields",
        [{"alt": "two\nlines"}, {"alt": "x" * 301}, {"alt": "\u202e"}, {"title": "x"}],
    )
    def test_refuses_other_fields_and_unusable_texts(self, send, make, fields):
        answer = send(make(), unique(), **fields)

        assert answer.status_code == 422
        assert answer.json["errors"][0]["pointer"] == f"#/{next(iter(fields))}"

    def test_refuses_a_form_without_a_file_and_what_is_no_form(
        self, client, make, merchandiser
    ):
        path = f"{PRODUCTS}/{make()['id']}/images"
        form = {"data": {"alt": "x"}, "content_type": "multipart/form-data"}

        assert client.post(path, headers=merchandiser, **form).status_code == 422
        assert client.post(path, headers=merchandiser, json={}).status_code == 415


class TestThreatHostileFile:
    @pytest.mark.parametrize(
        "content",
        [
            b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
            b"<?xml version='1.0'?><svg/>",
            b"%PDF-1.7\n",
            b"GIF8",
            b"BM" + bytes(60),
            b"II*\x00" + bytes(60),
            b"\x00\x00\x00\x18ftypheic" + bytes(60),
            b"#!/bin/sh\n",
            b"%!PS-Adobe-3.0 EPSF-3.0\n",
            b"",
        ],
    )
    def test_of_another_kind_is_a_415(self, send, make, content):
        answer = send(make(), content, name="x.png")

        assert answer.status_code == 415
        assert answer.json["type"].endswith("#picture-unknown")

    def test_that_is_too_large_is_a_413(self, make_app, database_url, bearer):
        app = make_app(database_url, image_bytes_max=1000)
        path = f"{PRODUCTS}/{uuid4()}/images"
        for size in (1001, 1000 + 64 * 1024):
            form = {"file": (io.BytesIO(bytes(size)), "x")}
            answer = app.test_client().post(
                path, data=form, headers=bearer("catalog:write")
            )
            assert answer.status_code == 413
            assert answer.json["type"].endswith("#image-too-large")

    def test_that_says_it_has_too_many_pixels_is_not_decoded(self, send, make):
        answer = send(make(), bomb(50_000, 50_000, rows=64))

        assert answer.status_code == 422
        assert answer.json["type"].endswith("#picture-too-large")

    def test_that_unpacks_to_more_than_it_says_is_drawn_as_it_says(self, send, make):
        answer = send(make(), bomb(100, 100, rows=2048))

        assert (answer.json["width"], answer.json["height"]) == (100, 100)

    def test_with_a_bomb_in_its_text_or_profile_costs_no_memory(self, send, make):
        packed = zlib.compress(bytes(700 * MIB), 9)
        whole = unique()
        for name, head in ((b"zTXt", b"Comment\0\0"), (b"iCCP", b"icc\0\0")):
            content = whole[:33] + chunk(name, head + packed) + whole[33:]
            assert send(make(), content).status_code in {201, 422}

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
    @pytest.mark.parametrize("part", [0.2, 0.6, 0.95])
    def test_that_is_cut_off_is_refused_or_whole(self, send, make, kind, part):
        content = io.BytesIO()
        Image.effect_noise((200, 150), 90).convert("RGB").save(content, kind)
        cut = content.getvalue()[: int(len(content.getvalue()) * part)]

        answer = send(make(), cut)

        assert answer.status_code == 422
        assert answer.json["type"].endswith("#picture-unreadable")

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
    def test_with_a_program_behind_it_leaves_the_program_behind(
        self, send, make, kept, kind
    ):
        evil = b"<script>alert(document.domain)</script>PK\x03\x04<?php system('id');"
        answer = send(make(), unique(kind) + evil)

        assert answer.status_code in {201, 422}
        if answer.status_code == 201:
            assert b"script" not in kept(answer.json)
            assert b"php" not in kept(answer.json)

    def test_loses_where_it_was_taken_and_stands_upright(self, send, make, kept):
        exif = Image.Exif()
        exif[0x0112] = 6
        exif[0x010F] = "Secret camera"
        exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
        content = unique("JPEG", exif=exif, comment=b"secret comment")
        assert b"Secret camera" in content

        image = send(make(), content).json

        assert (image["width"], image["height"]) == (40, 60)
        assert not opened(kept(image)).getexif()
        assert b"ecret" not in kept(image)
        for part in (b"EXIF", b"XMP ", b"ICCP"):
            assert part not in kept(image)

    def test_with_a_profile_is_converted_to_srgb(self, send, make, kept):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        # One that fits, one for other colours, one that is none.
        for given in (srgb, profile, b"no profile"):
            image = send(make(), unique(icc_profile=given)).json
            assert "icc_profile" not in opened(kept(image)).info

    def test_that_moves_stands_still(self, send, make, kept):
        frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
        content = io.BytesIO()
        frames[0].save(content, "GIF", save_all=True, append_images=frames[1:])

        image = send(make(), content.getvalue()).json

        picture = opened(kept(image))
        assert getattr(picture, "n_frames", 1) == 1
        red, _, blue = picture.convert("RGB").getpixel((5, 5))
        assert (red > 200, blue < 50) == (True, True)

    def test_is_made_smaller_than_a_screen(self, send, make):
        image = send(make(), encoded("JPEG", size=(4000, 1000))).json

        assert (image["width"], image["height"]) == (2048, 512)


class TestStudio:
    def test_ends_what_takes_too_much_memory(self, tmp_path):
        path = tmp_path / "x"
        path.write_bytes(encoded(size=(4000, 4000)))
        studio = Studio(pixels_max=20_000_000, memory_bytes=100 * MIB, seconds=20)

        with path.open("rb") as file, pytest.raises(pictures.PictureUnreadable):
            studio.redraw(file)

    def test_ends_what_takes_too_long(self, tmp_path):
        studio = Studio(pixels_max=100, memory_bytes=512 * MIB, seconds=1)
        path = tmp_path / "x"
        path.write_bytes(b"")
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        # Whose other end never says anything.
        end = os.open(fifo, os.O_RDWR)

        class Silent:
            def fileno(self):
                return end

            def seek(self, _place):
                return 0

        try:
            with pytest.raises(pictures.PictureUnreadable):
                studio.redraw(Silent())
        finally:
            os.close(end)

    def test_draws_one_at_a_time(self, tmp_path):
        studio = Studio(pixels_max=100, memory_bytes=512 * MIB, seconds=1)
        path = tmp_path / "x"
        path.write_bytes(unique())

        with path.open("rb") as file, studio._free, pytest.raises(StudioBusy):
            studio.redraw(file)


class TestChangeImage:
    def test_moves_it_and_makes_room(self, client, send, make, merchandiser):
        product = make()
        made = [send(product, unique()) for _ in range(3)]
        path = f"{PRODUCTS}/{product['id']}/images"
        last = made[2]

        answer = client.patch(
            f"{path}/{last.json['id']}",
            json={"position": 0, "alt": "First"},
            headers={**merchandiser, "If-Match": last.headers["ETag"]},
        )

        assert answer.status_code == 200, answer.text
        items = client.get(path).json["items"]
        order = [made[2], made[0], made[1]]
        assert [item["id"] for item in items] == [one.json["id"] for one in order]
        assert [item["position"] for item in items] == [0, 1, 2]
        assert items[0]["alt"] == "First"

    def test_needs_the_version_that_was_read(self, client, send, make, merchandiser):
        product = make()
        image = send(product, unique())
        path = f"{PRODUCTS}/{product['id']}/images/{image.json['id']}"
        stale = {**merchandiser, "If-Match": '"v7-x"'}

        assert client.patch(path, json={}, headers=merchandiser).status_code == 428
        assert client.patch(path, json={}, headers=stale).status_code == 412
        assert client.delete(path, headers=merchandiser).status_code == 428
        assert client.delete(path, headers=stale).status_code == 412

    def test_of_another_product_is_none(self, client, send, make, merchandiser):
        image = send(make(), unique())
        path = f"{PRODUCTS}/{make()['id']}/images/{image.json['id']}"

        assert client.get(path).status_code == 404
        gone = client.delete(path, headers={**merchandiser, "If-Match": "*"})
        assert gone.status_code == 404


class TestDeleteImage:
    def test_closes_the_gap(self, client, send, make, merchandiser):
        product = make()
        first, second = (send(product, unique()) for _ in range(2))
        path = f"{PRODUCTS}/{product['id']}/images"

        gone = client.delete(
            f"{path}/{first.json['id']}",
            headers={**merchandiser, "If-Match": first.headers["ETag"]},
        )

        assert gone.status_code == 204
        (left,) = client.get(path).json["items"]
        assert (left["id"], left["position"]) == (second.json["id"], 0)
        assert client.get(f"{path}/{first.json['id']}").status_code == 404


class TestFindImage:
    def test_hides_those_of_drafts(self, client, send, make, merchandiser):
        product = make(status="draft")
        image = send(product, unique()).json
        path = f"{PRODUCTS}/{product['id']}/images"

        for place in (path, f"{path}/{image['id']}"):
            assert client.get(place).status_code == 404
            assert client.get(place, headers=merchandiser).status_code == 200

    def test_has_a_tag_that_thumbnails_change(self, client, send, make, merchandiser):
        product = make()
        made = send(product, unique(size=(300, 200)))
        path = f"{PRODUCTS}/{product['id']}/images/{made.json['id']}"
        tag = made.headers["ETag"]
        same = client.get(path, headers={"If-None-Match": tag})
        put = f"/internal/pictures/{made.json['sha256']}/160"
        narrow = encoded("WEBP", size=(160, 107))

        kept = client.put(put, data=narrow, headers=merchandiser)

        assert (same.status_code, kept.status_code) == (304, 204)
        answer = client.get(path, headers={"If-None-Match": tag})
        assert answer.json["thumbnails"] == [
            {
                "width": 160,
                "height": 107,
                "url": f"/media/{made.json['sha256']}/160.webp",
            }
        ]
        # Nobody has edited it.
        gone = client.delete(path, headers={**merchandiser, "If-Match": tag})
        assert gone.status_code == 204


class TestIncludeImages:
    def test_shows_them_with_the_product(self, client, send, make):
        product = make()
        image = send(product, unique()).json
        path = f"{PRODUCTS}/{product['id']}?include=category,images"

        answer = client.get(path)

        assert answer.json["embedded"] == {"category": None, "images": [image]}

    def test_asks_the_database_as_often_for_many(self, app, client, send, make):
        word = f"s{uuid4().hex[:8]}"
        made = [make(name=f"{word} {number}") for number in range(3)]
        for product in made:
            send(product, unique())
            send(product, unique())
        counts = []
        statements = []

        def count(*_arguments):
            statements.append(1)

        with app.app_context(), app.extensions["flagon.sessions"]() as session:
            bind = session.get_bind()
        event.listen(bind, "before_cursor_execute", count)
        try:
            for limit in (1, 3):
                statements.clear()
                asked = f"{PRODUCTS}?q={word}&include=images&limit={limit}"
                answer = client.get(asked)
                counts.append(len(statements))
                assert len(answer.json["items"]) == limit
                for item in answer.json["items"]:
                    assert len(item["embedded"]["images"]) == 2
        finally:
            event.remove(bind, "before_cursor_execute", count)
        assert counts[0] == counts[1] > 0

    def test_changes_the_tag_with_the_thumbnails(
        self, client, send, make, merchandiser
    ):
        product = make()
        image = send(product, unique(size=(300, 200))).json
        path = f"{PRODUCTS}/{product['id']}?include=images"
        before = client.get(path).headers["ETag"]
        put = f"/internal/pictures/{image['sha256']}/160"

        client.put(put, data=encoded("WEBP"), headers=merchandiser)

        assert client.get(path).headers["ETag"] != before


class TestSendPicture:
    def test_names_the_file_to_the_gateway(self, client, send, make):
        image = send(make(), unique()).json

        answer = client.get(image["url"])

        digest = image["sha256"]
        place = f"/_images/{digest[:2]}/{digest}/full.webp"
        assert answer.headers["X-Accel-Redirect"] == place
        assert answer.mimetype == "image/webp"

    @pytest.mark.parametrize(
        "path",
        [
            f"{'0' * 64}/full.webp",
            f"{'0' * 63}/full.webp",
            f"{'G' * 64}/full.webp",
            "..%2f..%2fetc/passwd",
            f"{'0' * 64}/..%2f..%2ffull.webp",
            f"{'0' * 64}/161.webp",
            f"{'0' * 64}\n/full.webp",
        ],
    )
    def test_knows_no_other_names(self, client, path):
        answer = client.get(f"/media/{path}")

        assert answer.status_code in {400, 404}
        assert "X-Accel-Redirect" not in answer.headers

    def test_sends_it_where_the_gateway_does_not(
        self, client, send, make, kept, monkeypatch
    ):
        extensions = client.application.extensions
        ours = extensions["flagon.settings"].model_copy(
            update={"images_by_gateway": False}
        )
        monkeypatch.setitem(extensions, "flagon.settings", ours)
        image = send(make(), unique()).json

        answer = client.get(image["url"])
        tag = answer.headers["ETag"]
        again = client.get(image["url"], headers={"If-None-Match": tag})
        unknown = client.get(f"/media/{'0' * 64}/full.webp")

        assert answer.data == kept(image, "full")
        assert answer.mimetype == "image/webp"
        assert "X-Accel-Redirect" not in answer.headers
        caching = "public, max-age=31536000, immutable"
        assert answer.headers["Cache-Control"] == caching
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        assert (again.status_code, again.data) == (304, b"")
        assert unknown.status_code == 404


class TestKeepThumbnail:
    def test_keeps_the_first(self, client, send, make, merchandiser, kept):
        image = send(make(), unique(size=(300, 200))).json
        path = f"/internal/pictures/{image['sha256']}/160"
        first, second = unique("WEBP"), unique("WEBP")

        for content in (first, second):
            answer = client.put(path, data=content, headers=merchandiser)
            assert answer.status_code == 204

        assert kept(image, "160") == first

    def test_refuses_other_widths_kinds_and_callers(
        self, client, send, make, merchandiser, customer
    ):
        image = send(make(), unique(size=(300, 200))).json
        path = f"/internal/pictures/{image['sha256']}"
        webp = unique("WEBP")

        def put(width, content=webp, headers=merchandiser):
            answer = client.put(f"{path}/{width}", data=content, headers=headers)
            return answer.status_code

        assert put(161) == put(480) == 404
        assert put(160, b"<svg>") == 415
        assert put(160, headers=customer) == 403
        assert put(160, headers={}) == 401

    def test_has_what_thumbnails_are_made_of(self, client, send, make, merchandiser):
        image = send(make(), unique()).json
        path = f"/internal/pictures/{image['sha256']}"

        answer = client.get(path, headers=merchandiser)

        assert sha256(answer.data).hexdigest() == image["sha256"]
        other = client.get(f"/internal/pictures/{'0' * 64}", headers=merchandiser)
        assert other.status_code == 404


class TestErrand:
    @pytest.fixture
    def left(self, app):
        """Returns whether thumbnails of an image are still asked for."""

        def left(image):
            with app.app_context(), app.extensions["flagon.sessions"]() as session:
                return image["sha256"] in errands_of(session)

        return left

    def test_lasts_until_all_thumbnails_are_there(
        self, client, send, make, merchandiser, left
    ):
        image = send(make(), unique(size=(600, 400))).json
        path = f"/internal/pictures/{image['sha256']}"

        for width in (160, 480):
            assert left(image)
            client.put(f"{path}/{width}", data=unique("WEBP"), headers=merchandiser)

        assert not left(image)

    def test_is_over_with_the_picture(
        self, app, client, send, make, merchandiser, left
    ):
        product = make()
        image = send(product, unique(size=(600, 400))).json
        path = f"{PRODUCTS}/{product['id']}/images/{image['id']}"
        client.delete(path, headers={**merchandiser, "If-Match": "*"})
        assert left(image)
        with app.app_context():
            with app.extensions["flagon.sessions"].begin() as session:
                session.execute(text("update picture set created_at = '2026-01-01'"))
            keeper.tidy()

        assert not left(image)

    def test_is_none_for_what_needs_no_thumbnails(self, send, make, left):
        assert not left(send(make(), unique(size=(60, 40))).json)


class TestRemoveUnused:
    def age(self, app):
        with app.app_context(), app.extensions["flagon.sessions"].begin() as session:
            session.execute(
                text("update picture set created_at = now() - interval '1 minute'")
            )

    def test_leaves_what_an_image_shows_and_what_is_new(
        self, app, client, send, make, merchandiser, kept
    ):
        product, content = make(), unique()
        one, two = send(product, content), send(make(), content)
        self.age(app)

        def drop(image):
            path = f"{PRODUCTS}/{image.json['product_id']}/images/{image.json['id']}"
            answer = client.delete(path, headers={**merchandiser, "If-Match": "*"})
            assert answer.status_code == 204
            with app.app_context():
                keeper.tidy()

        drop(one)
        assert kept(two.json)
        drop(two)
        assert kept(two.json) is None
        # And comes back when it is sent again.
        again = send(product, content)
        assert kept(again.json)
        drop(again)
        assert kept(again.json)

    def test_takes_those_of_a_deleted_product(
        self, app, client, send, make, admin, kept
    ):
        product = make()
        image = send(product, unique()).json
        self.age(app)
        headers = {**admin, "If-Match": "*"}
        path = f"{PRODUCTS}/{product['id']}"
        assert client.delete(path, headers=headers).status_code == 204
        with app.app_context():
            keeper.tidy()
        assert kept(image)
        gone = client.delete(f"{path}?permanently=true", headers=headers)
        assert gone.status_code == 204

        with app.app_context():
            keeper.tidy()

        assert kept(image) is None


class TestAtOnce:
    def test_who_adds_and_who_removes_lose_no_file(
        self, real_app, together, bearer, new_product
    ):
        headers = bearer("catalog:write", sub=str(uuid4()))
        client = real_app.test_client
        content = unique()
        products = [
            client().post(PRODUCTS, json=new_product(), headers=headers).json
            for _ in range(4)
        ]
        sessions = real_app.extensions["flagon.sessions"]
        storage = real_app.extensions["flagon.images"]

        def step(product):
            for _ in range(3):
                with sessions.begin() as session:
                    session.execute(
                        text("update picture set created_at = '2026-01-01'")
                    )
                if product is None:
                    with real_app.app_context():
                        keeper.tidy()
                    continue
                path = f"{PRODUCTS}/{product['id']}/images"
                form = {"file": (io.BytesIO(content), "x")}
                made = client().post(path, data=form, headers=headers)
                assert made.status_code == 201, made.text
                name = renditions.file_name(made.json["sha256"], "full")
                assert storage.has(name)
                gone = client().delete(
                    f"{path}/{made.json['id']}", headers={**headers, "If-Match": "*"}
                )
                assert gone.status_code == 204

        together(step, [*products, None, None])


class TestFolder:
    def test_can_be_read_by_the_gateway(self, tmp_path):
        folder = Folder(tmp_path)
        folder.put("a/b.webp", b"x")
        folder.put("a/b.webp", b"x")

        assert (tmp_path / "a/b.webp").stat().st_mode & 0o777 == 0o644
        assert folder.read("a/b.webp") == b"x"
        folder.remove(["a/b.webp", "a/none"])
        assert not folder.has("a/b.webp")
