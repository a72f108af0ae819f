"""Reviews on the page of a product: read, written, changed, deleted, brought back."""

import re

import pytest

from .conftest import REVIEWER

PAGE = "/products/the-hobbit"
REVIEW = {"rating": "5", "author": "Ada L.", "title": "Warm", "body": "So *good*."}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


@pytest.fixture
def hobbit(platform, product_with):
    return platform.add(
        product_with(slug="the-hobbit", rating={"count": 2, "average": 4.5})
    )


def sent(browser, **fields):
    hidden = dict(
        re.findall(
            r'name="(key|etag|review)" value="([^"]*)"',
            browser.get(PAGE).text.partition("#review-head")[0]
            + browser.get(f"{PAGE}?review=edit").text.partition('id="review-head"')[2],
        )
    )
    hidden["etag"] = hidden.get("etag", "").replace("&#34;", '"')
    data = {**hidden, **REVIEW, **fields, "csrf_token": browser.csrf()}
    return browser.post(f"{PAGE}/review", data)


class TestReadReviews:
    def test_shows_what_others_say(self, browser, hobbit, a_review):
        a_review(hobbit, author="Grace")

        text = browser.get(PAGE).text

        assert "Keeps tea warm" in text
        assert "<p>Two <em>hours</em>.</p>" in text
        assert "Grace" in text
        assert 'aria-label="4 stars of 5"' in text
        assert "4.5 of 5" in text
        assert "2 reviews" in text

    def test_goes_on_page_by_page(self, browser, hobbit, a_review):
        for number in range(12):
            a_review(hobbit, title=f"No. {number}!")

        first, second = browser.two_pages(PAGE)

        assert "No. 9!" in first
        assert "No. 10!" not in first
        assert "No. 11!" in second

    def test_says_when_there_are_none(self, browser, hobbit):
        text = browser.get(PAGE).text

        assert "Nobody has reviewed it yet." in text
        assert "Sign in to write a review" in text
        assert 'id="rating"' not in text

    def test_runs_no_script_of_a_review(self, browser, hobbit, a_review):
        # The catalog makes `body_html`; what it leaves out, the page does not make up.
        a_review(
            hobbit, title=HOSTILE, author=HOSTILE, body=HOSTILE, body_html="", note="x"
        )

        text = browser.get(PAGE).text

        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert "&lt;script&gt;" in text


class TestWriteReview:
    def test_makes_it_once_however_often_it_is_sent(self, signed_in, hobbit, platform):
        answer = sent(signed_in)

        assert answer.status_code == 303
        assert answer.location.endswith("#reviews-head")
        (made,) = platform.reviews.values()
        assert (made["rating"], made["author"]) == (5, "Ada L.")
        assert (made["title"], made["body"]) == ("Warm", "So *good*.")
        text = signed_in.get(PAGE).text
        assert "Thank you for your review." in text
        assert "Edit your review" in text

    def test_shows_at_the_fields_what_is_missing(self, signed_in, hobbit, platform):
        answer = sent(signed_in, rating="", title="")

        assert answer.status_code == 422
        assert "Choose between one and five stars." in answer.text
        assert 'id="title-error"' in answer.text
        # What was typed is still there.
        assert "So *good*." in answer.text
        assert platform.reviews == {}

    @pytest.mark.parametrize("rating", ["0", "6", "-1", "x", "4.5"])
    def test_takes_whole_stars_alone(self, signed_in, hobbit, platform, rating):
        assert sent(signed_in, rating=rating).status_code == 422
        assert platform.reviews == {}

    def test_shows_at_the_field_what_the_catalog_says(self, signed_in, hobbit):
        answer = sent(signed_in, author="ada@example.com")

        assert answer.status_code == 422
        said = re.search(r'id="author-error"[^>]*>([^<]*)', answer.text)[1]
        assert said == "Give a name and not an address."

    def test_keeps_what_was_written_when_the_catalog_refuses_a_second(
        self, signed_in, hobbit, platform, a_review
    ):
        key = {"key": "0" * 32, "csrf_token": signed_in.csrf()}
        a_review(hobbit, subject=REVIEWER)

        answer = signed_in.post(f"{PAGE}/review", {**REVIEW, **key})

        assert answer.status_code == 409
        assert "You have reviewed this product before." in answer.text
        assert "So *good*." in answer.text

    def test_is_not_for_strangers(self, browser, hobbit, platform):
        answer = browser.post(f"{PAGE}/review", {**REVIEW, "csrf_token": "x"})

        assert answer.status_code == 400
        assert platform.reviews == {}


class TestChangeReview:
    def test_changes_what_was_seen(self, signed_in, hobbit, platform, a_review):
        mine = a_review(hobbit, subject=REVIEWER)

        answer = sent(signed_in, title="Cold after all", rating="2")

        assert answer.status_code == 303
        assert platform.reviews[mine["id"]]["title"] == "Cold after all"
        assert platform.reviews[mine["id"]]["rating"] == 2

    def test_overwrites_nothing_that_was_not_seen(
        self, signed_in, hobbit, platform, a_review
    ):
        mine = a_review(hobbit, subject=REVIEWER)
        data = {
            **REVIEW,
            "key": "0" * 32,
            "etag": '"v0"',
            "review": mine["id"],
            "csrf_token": signed_in.csrf(),
        }

        answer = signed_in.post(f"{PAGE}/review", data)

        assert answer.status_code == 412
        assert "You changed this review elsewhere." in answer.text
        assert "So *good*." in answer.text
        assert platform.reviews[mine["id"]]["title"] == "Keeps tea warm"

    def test_is_for_the_author_alone(self, signed_in, hobbit, platform, a_review):
        foreign = a_review(hobbit, subject="somebody else")
        data = {
            **REVIEW,
            "key": "0" * 32,
            "etag": '"v1"',
            "review": foreign["id"],
            "csrf_token": signed_in.csrf(),
        }

        assert signed_in.post(f"{PAGE}/review", data).status_code == 403
        assert "Edit your review" not in signed_in.get(PAGE).text

    @pytest.mark.parametrize("review", ["../products/x", "x", "%2e%2e"])
    def test_reaches_no_other_address(self, signed_in, hobbit, review, platform):
        before = list(platform.calls)
        data = {
            **REVIEW,
            "key": "0" * 32,
            "etag": '"v1"',
            "review": review,
            "csrf_token": signed_in.csrf(),
        }

        answer = signed_in.post(f"{PAGE}/review", data)

        assert answer.status_code == 422
        assert all(method != "PATCH" for method, _ in platform.calls[len(before) :])


class TestDeleteReview:
    def delete(self, browser, review, etag='"v1"'):
        return browser.post(
            f"{PAGE}/review/{review['id']}/delete",
            {"etag": etag, "csrf_token": browser.csrf()},
        )

    def undo(self, browser):
        data = {"csrf_token": browser.csrf()}
        return browser.post(f"{PAGE}/review/undo", data)

    def test_can_be_taken_back(self, signed_in, hobbit, platform, a_review):
        mine = a_review(hobbit, subject=REVIEWER)

        assert self.delete(signed_in, mine).status_code == 303
        assert platform.reviews == {}
        assert f'action="{PAGE}/review/undo"' in signed_in.get(PAGE).text
        assert self.undo(signed_in).status_code == 303

        (back,) = platform.reviews.values()
        assert {name: back[name] for name in ("author", "rating", "title", "body")} == {
            name: mine[name] for name in ("author", "rating", "title", "body")
        }
        text = signed_in.get(PAGE).text
        assert "Your review is back." in text
        assert "/review/undo" not in text

    def test_leaves_what_changed_meanwhile(self, signed_in, hobbit, platform, a_review):
        mine = a_review(hobbit, subject=REVIEWER)

        self.delete(signed_in, mine, etag='"v0"')

        assert mine["id"] in platform.reviews
        text = signed_in.get(PAGE).text
        assert "It changed since you looked" in text
        assert "/review/undo" not in text

    def test_brings_nothing_back_where_nothing_was_deleted(
        self, signed_in, hobbit, platform
    ):
        self.undo(signed_in)

        assert platform.reviews == {}
        assert "There is nothing to bring back." in signed_in.get(PAGE).text
