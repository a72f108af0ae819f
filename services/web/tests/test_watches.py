"""Prices that people watch: begun, changed, ended and brought back."""

import re

import pytest

from .conftest import make_watch

PAGE = "/products/the-hobbit"
LIST = "/watches"


@pytest.fixture
def hobbit(platform, product_with):
    return platform.add(product_with(slug="the-hobbit"))


@pytest.fixture
def watched(platform, hobbit):
    """Watch the product."""

    def watch(**members):
        made = make_watch(hobbit["id"], **members)
        platform.watches[hobbit["id"]] = made
        return made

    return watch


def sent(browser, limit="", etag=""):
    data = {"limit": limit, "etag": etag, "csrf_token": browser.csrf()}
    return browser.post(f"{PAGE}/watch", data)


def wish(platform, product):
    found = platform.watches[product["id"]]
    return found["below_minor"], found["currency"]


def stop(browser, product, back=""):
    data = {"back": back, "csrf_token": browser.csrf()}
    return browser.post(f"{LIST}/{product['id']}/delete", data)


def undo(browser):
    return browser.post(f"{LIST}/undo", {"csrf_token": browser.csrf()})


class TestProductPage:
    def test_offers_it_to_who_is_signed_in(self, signed_in, hobbit):
        text = signed_in.get(PAGE).text

        assert f'action="{PAGE}/watch"' in text
        assert "Stop watching" not in text
        assert "data-drops" in text

    def test_asks_strangers_to_sign_in(self, browser, hobbit, platform):
        text = browser.get(PAGE).text

        assert "Sign in to watch the price" in text
        assert f'action="{PAGE}/watch"' not in text
        assert "data-drops" not in text
        assert not any("/watches" in path for _, path in platform.calls)

    def test_says_that_it_is_watched(self, signed_in, hobbit, watched):
        watched()

        text = signed_in.get(PAGE).text

        assert "You are told of each lower price." in text
        assert "Stop watching" in text

    def test_says_below_which_price(self, signed_in, hobbit, watched):
        watched(below_minor=1150, currency="EUR")

        text = signed_in.get(PAGE).text

        assert "each lower price below €11.50." in text
        assert re.search(r'id="limit"[^>]*value="11.50"', text)

    def test_offers_nothing_of_what_is_not_for_sale(
        self, signed_in, platform, product_with
    ):
        platform.add(product_with(slug="the-hobbit", status="draft"))

        assert 'id="watch"' not in signed_in.get(PAGE).text

    def test_goes_without_it_while_the_worker_is_down(
        self, signed_in, hobbit, platform
    ):
        platform.down.add("worker")

        answer = signed_in.get(PAGE)

        assert answer.status_code == 200
        assert "Whether you watch it cannot be shown right now." in answer.text
        assert "The Hobbit" in answer.text
        assert f'action="{PAGE}/watch"' not in answer.text


class TestWatchProduct:
    @pytest.mark.parametrize(
        ("limit", "told"),
        [("", (None, None)), (" 11,50 ", (1150, "EUR")), ("9", (900, "EUR"))],
    )
    def test_begins(self, signed_in, hobbit, platform, limit, told):
        answer = sent(signed_in, limit)

        assert (answer.status_code, answer.location) == (303, PAGE)
        assert wish(platform, hobbit) == told
        assert "We tell you by mail" in signed_in.get(PAGE).text

    def test_changes_what_was_seen(self, signed_in, hobbit, platform, watched):
        watched()

        assert sent(signed_in, "8", '"v1"').status_code == 303
        assert wish(platform, hobbit) == (800, "EUR")

    @pytest.mark.parametrize(
        ("limit", "why"),
        [
            ("cheap", "Write an amount such as 12.99"),
            ("-1", "Write an amount such as 12.99"),
            ("1.234", "2 decimals at most"),
            ("0,00", "Nothing is cheaper than that."),
            ("999999", "is too much"),
            ("1" * 15, "longer than 14 characters"),
        ],
    )
    def test_says_at_the_field_what_is_wrong(
        self, signed_in, hobbit, platform, limit, why
    ):
        answer = sent(signed_in, limit)

        assert answer.status_code == 422
        assert why in re.search(r'id="limit-error"[^>]*>([^<]*)', answer.text)[1]
        assert f'value="{limit}"' in answer.text
        assert platform.watches == {}

    @pytest.mark.parametrize(
        ("etag", "why"),
        [
            ("", "You watch its price already."),
            ('"v0"', "You changed this watch elsewhere."),
        ],
    )
    def test_overwrites_nothing_that_was_not_seen(
        self, signed_in, hobbit, platform, watched, etag, why
    ):
        watched()

        assert sent(signed_in, "8", etag).status_code == 303

        assert why in signed_in.get(PAGE).text
        assert wish(platform, hobbit) == (None, None)

    def test_begins_no_other_where_one_was_ended_meanwhile(
        self, signed_in, hobbit, platform
    ):
        sent(signed_in, "8", '"v1"')

        assert "You no longer watch its price." in signed_in.get(PAGE).text
        assert platform.watches == {}

    def test_says_when_there_are_too_many(self, signed_in, hobbit, platform):
        platform.most_watches = 0

        answer = sent(signed_in, "7.77")

        assert answer.status_code == 409
        assert "as many products as one may" in answer.text
        assert 'value="7.77"' in answer.text

    def test_keeps_what_was_written_while_the_worker_is_down(
        self, signed_in, hobbit, platform
    ):
        signed_in.csrf()
        platform.down.add("worker")

        answer = sent(signed_in, "7.77")

        assert answer.status_code == 503
        assert "What you wrote is still here" in answer.text
        assert 'value="7.77"' in answer.text

    def test_passes_on_a_refusal_for_another_reason(self, signed_in, hobbit, platform):
        signed_in.csrf()
        platform.refuse["worker"] = (403, "No.")

        assert sent(signed_in).status_code == 403

    def test_leads_strangers_to_the_sign_in(self, browser, hobbit):
        browser.get(PAGE)

        assert browser.post(f"{PAGE}/watch", {"csrf_token": "x"}).status_code == 400


class TestDeleteWatch:
    def test_can_be_taken_back(self, signed_in, hobbit, platform, watched):
        watched(below_minor=1150, currency="EUR")

        answer = stop(signed_in, hobbit, back=PAGE)
        assert (answer.status_code, answer.location) == (303, PAGE)
        assert platform.watches == {}
        for page in (PAGE, LIST):
            assert f'action="{LIST}/undo"' in signed_in.get(page).text
        assert undo(signed_in).location == LIST

        assert wish(platform, hobbit) == (1150, "EUR")
        text = signed_in.get(PAGE).text
        assert "You watch its price again." in text
        assert "/undo" not in text

    def test_is_over_when_it_is_watched_anew(
        self, signed_in, hobbit, platform, watched
    ):
        watched(below_minor=1150, currency="EUR")
        stop(signed_in, hobbit)
        sent(signed_in)

        assert "/undo" not in signed_in.get(PAGE).text
        undo(signed_in)
        assert "There is nothing to bring back." in signed_in.get(PAGE).text
        assert wish(platform, hobbit) == (None, None)

    def test_takes_nothing_back_twice(self, signed_in, hobbit, platform, watched):
        watched()
        stop(signed_in, hobbit)
        # As in another tab.
        watched(below_minor=700, currency="EUR")

        undo(signed_in)

        assert "You watch its price again." in signed_in.get(PAGE).text
        assert wish(platform, hobbit) == (700, "EUR")

    def test_says_when_the_product_is_gone(self, signed_in, hobbit, platform, watched):
        watched()
        stop(signed_in, hobbit)
        platform.products.clear()

        undo(signed_in)

        assert "It is not for sale any more." in signed_in.get(LIST).text

    def test_of_what_is_not_watched_changes_nothing(self, signed_in, hobbit):
        assert stop(signed_in, hobbit).location == LIST
        assert "/undo" not in signed_in.get(LIST).text

    def test_passes_on_a_refusal_of_what_is_taken_back(
        self, signed_in, hobbit, platform, watched
    ):
        watched()
        stop(signed_in, hobbit)
        signed_in.csrf()
        platform.refuse["worker"] = (403, "No.")

        assert undo(signed_in).status_code == 403

    @pytest.mark.parametrize(
        "back", ["https://evil.example/", "//evil.example", "/\\x"]
    )
    def test_leads_to_no_other_site(self, signed_in, hobbit, watched, back):
        watched()

        assert stop(signed_in, hobbit, back=back).location == LIST


class TestList:
    def test_shows_what_is_watched(self, signed_in, hobbit, watched):
        watched(below_minor=1150, currency="EUR", told_at="2026-02-03T04:05:06Z")

        text = signed_in.get(LIST).text

        assert f'<a href="{PAGE}">' in text
        assert "€12.99" in text
        assert "below €11.50" in text
        assert "2026-02-03T04:05:06" in text
        assert "Stop watching: The Hobbit" in text

    def test_goes_on_page_by_page(self, signed_in, platform, product_with):
        for number in range(13):
            one = platform.add(product_with(f"Book {number}!"))
            platform.watches[one["id"]] = make_watch(one["id"])

        first, second = signed_in.two_pages(LIST)

        assert "Book 11!" in first
        assert "Book 12!" not in first
        assert "Book 12!" in second
        assert "Newest" in second

    def test_says_when_there_is_none(self, signed_in):
        assert "You watch no price yet" in signed_in.get(LIST).text

    def test_bears_what_is_no_longer_for_sale(self, signed_in, platform):
        one = make_watch("gone", seen={"price_minor": 800, "currency": "EUR"})
        platform.watches["gone"] = one

        text = signed_in.get(LIST).text

        assert "Not for sale at the moment" in text
        assert "€8.00" in text

    def test_shows_what_the_worker_knows_while_the_catalog_is_down(
        self, signed_in, hobbit, platform, watched
    ):
        watched()
        platform.down.add("catalog")

        answer = signed_in.get(LIST)

        assert answer.status_code == 200
        assert "What the products are called cannot be shown" in answer.text
        assert hobbit["id"] in answer.text
        assert "€12.99" in answer.text

    def test_passes_on_a_refusal_of_the_catalog(
        self, signed_in, hobbit, platform, watched
    ):
        watched()
        platform.refuse["catalog"] = (403, "No.")

        assert signed_in.get(LIST).status_code == 403

    def test_says_so_when_the_worker_is_down(self, signed_in, platform):
        platform.down.add("worker")

        answer = signed_in.get(LIST)

        assert answer.status_code == 503
        assert "Your watches cannot be shown right now." in answer.text

    def test_leads_strangers_to_the_sign_in(self, browser):
        answer = browser.get(LIST)

        assert answer.status_code == 303
        assert answer.location.startswith("/sign-in")
