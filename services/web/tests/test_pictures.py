from io import BytesIO

import pytest

PNG = b"\x89PNG\r\n\x1a\n and more"
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


@pytest.fixture
def mug(platform, product_with):
    return platform.add(product_with("Mug"))


@pytest.fixture
def place(mug):
    return f"/back-office/products/{mug['id']}"


@pytest.fixture
def upload(signed_in, place):
    def send(content=PNG, name="mug.png", key="0" * 32, **more):
        sent = {"file": (BytesIO(content), name), "alt": "A mug", "key": key, **more}
        return signed_in.submit(f"{place}/images", **sent)

    return send


class TestPictures:
    def test_are_shown_small_and_in_order(self, signed_in, mug, place, a_picture):
        first, second = a_picture(mug, alt="Front"), a_picture(mug, thumbnails=[])

        text = signed_in.get(place).text

        assert f'src="/media/{first["id"]}/160.webp"' in text
        assert f'src="{second["url"]}"' in text
        assert text.index(first["url"]) < text.index(second["url"])
        assert 'alt="Front"' in text
        # Nobody knows what it shows, but that there is one.
        assert 'alt="Picture 2"' in text

    def test_can_be_moved_only_where_there_is_another(
        self, signed_in, mug, place, a_picture
    ):
        a_picture(mug)
        assert "/move" not in signed_in.get(place).text

        a_picture(mug)
        text = signed_in.get(place).text

        assert text.count('value="earlier"') == text.count('value="later"') == 1

    def test_that_are_away_leave_the_form(self, signed_in, platform, place):
        platform.silent.add("/images")

        text = signed_in.get(place).text

        assert "The pictures cannot be shown right now." in text
        assert 'name="price"' in text

    def test_are_the_merchandisers(self, browser, platform, mug, place, a_picture):
        one = a_picture(mug)
        platform.role = "customer"
        browser.sign_in(platform)

        for step in ("", f"/{one['id']}/move", f"/{one['id']}/text"):
            assert browser.submit(f"{place}/images{step}", alt="x").status_code == 403
        gone = browser.submit(f"{place}/images/{one['id']}/delete", version="1")
        assert gone.status_code == 403
        assert platform.pictures[mug["id"]] == [one]


class TestAddPicture:
    def test_adds_it(self, upload, signed_in, platform, mug, place):
        answer = upload()

        assert answer.location == f"{place}#pictures-head"
        [made] = platform.pictures[mug["id"]]
        assert (made["alt"], made["content"]) == ("A mug", len(PNG))
        assert "The picture is added." in signed_in.get(place).text

    def test_takes_more_than_other_forms(self, upload, platform, mug):
        content = PNG + b"x" * 300_000

        assert upload(content).status_code == 303
        assert platform.pictures[mug["id"]][0]["content"] == len(content)

    def test_takes_no_more_than_it_may(self, make_app, make_browser, platform, place):
        browser = make_browser(app=make_app(picture_max_bytes=100_000))
        browser.sign_in(platform)
        file = (BytesIO(PNG + b"x" * 300_000), "mug.png")

        answer = browser.submit(f"{place}/images", file=file, alt="", key="0" * 32)

        assert answer.status_code == 413
        assert platform.pictures == {}

    def test_sent_twice_has_one_key(self, upload, platform):
        for content in (PNG, PNG, PNG + b"."):
            upload(content)

        assert platform.keys[0] == platform.keys[1] != platform.keys[2]

    @pytest.mark.parametrize(
        ("content", "more", "status", "words"),
        [
            (b"GIF no more", {}, 415, "Send JPEG, PNG, WebP, GIF or AVIF."),
            (PNG, {"alt": "\u202e"}, 422, "Text instead of it: Text must be one line."),
            (
                PNG,
                {"alt": "x" * 301},
                422,
                "Text instead of it: Field cannot be longer",
            ),
            (PNG, {"name": ""}, 422, "Choose a picture first."),
        ],
    )
    def test_says_what_is_wrong(
        self, upload, platform, place, content, more, status, words
    ):
        answer = upload(content, **more)

        assert answer.status_code == status
        assert "That picture was not taken." in answer.text
        assert words in answer.text.partition("data-why>")[2][:200]
        assert f'href="{place}#pictures-head"' in answer.text
        assert not any(platform.pictures.values())

    def test_says_so_when_the_catalog_is_down(self, upload, platform):
        platform.down.add("catalog")

        answer = upload()

        assert answer.status_code == 503
        assert "Send the picture again in a moment." in answer.text

    def test_is_an_error_where_it_is_forbidden(self, upload, platform):
        platform.refuse["catalog"] = (403, "No.")

        assert upload().status_code == 403

    def test_escapes_what_is_said_of_it(self, upload, signed_in, place):
        upload(alt=EVIL, name=f"{EVIL}.png")

        text = signed_in.get(place).text

        assert "onerror=alert(1)&gt;" in text
        assert "<script>alert" not in text
        assert "<img src=x" not in text


class TestMovePicture:
    def test_puts_it_earlier_and_later(
        self, signed_in, platform, mug, place, a_picture
    ):
        first, second = a_picture(mug), a_picture(mug, position=1)
        where = f"{place}/images/{second['id']}/move"

        signed_in.submit(where, version="1", step="earlier")
        assert platform.pictures[mug["id"]] == [second, first]

        signed_in.submit(where, version="2", step="later")
        assert platform.pictures[mug["id"]] == [first, second]
        assert "The picture is moved." in signed_in.get(place).text

    def test_leaves_what_changed_meanwhile(self, signed_in, mug, place, a_picture):
        one = a_picture(mug, version=2)

        for version in ("1", "", "x", '"2"'):
            sent = {"version": version, "step": "later"}
            signed_in.submit(f"{place}/images/{one['id']}/move", **sent)

        assert one["version"] == 2
        assert "It changed since you looked" in signed_in.get(place).text


class TestDescribePicture:
    def test_saves_its_text_in_one_line(self, signed_in, mug, place, a_picture):
        one = a_picture(mug)

        sent = {"version": "1", "alt": "  A mug\r\nin blue "}
        answer = signed_in.submit(f"{place}/images/{one['id']}/text", **sent)

        assert answer.location == f"{place}#pictures-head"
        assert one["alt"] == "A mug in blue"

    def test_of_one_that_is_gone_is_told(
        self, signed_in, platform, mug, place, a_picture
    ):
        one = a_picture(mug)
        platform.pictures.clear()

        signed_in.submit(f"{place}/images/{one['id']}/text", version="1", alt="x")

        assert "That picture is kept no more." in signed_in.get(place).text


class TestDeletePicture:
    def test_forgets_it(self, signed_in, platform, mug, place, a_picture):
        one = a_picture(mug)

        signed_in.submit(f"{place}/images/{one['id']}/delete", version="1")

        assert platform.pictures[mug["id"]] == []
        assert "No pictures yet" in signed_in.get(place).text

    def test_leaves_what_changed_meanwhile(
        self, signed_in, platform, mug, place, a_picture
    ):
        one = a_picture(mug, version=2)

        signed_in.submit(f"{place}/images/{one['id']}/delete", version="1")

        assert platform.pictures[mug["id"]] == [one]
