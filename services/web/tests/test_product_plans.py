import json
from html import unescape

import pytest

from flagon_chassis.languages import COOKIE
from flagon_web.domain import money, plans

from .test_products import EVIL, PAGE, filled

STEP = {"id": "1", "sku": "mug", "name": "Mug", "currency": "EUR", "version": 1} | {
    "before": 1,
    "after": 2,
}

PLAN, CHANGE = f"{PAGE}/plan", f"{PAGE}/change"


@pytest.fixture
def shelf(platform, product_with):
    """Put three products on a shelf: one of each that a change can meet."""
    return [
        platform.add(product_with(name, sku=name.lower(), **more))
        for name, more in (
            ("Mug", {"price_minor": 1299, "stock": 5}),
            ("Cup", {"price_minor": 995, "stock": 0, "available": 0}),
            ("Jar", {"price_minor": 1000, "currency": "JPY", "category": None}),
        )
    ]


@pytest.fixture
def ask(signed_in):
    """Send what the list sends of ticked products, with more of the form."""

    def ask(change, *products, **more):
        sent = {"change": change, "product": [one["id"] for one in products]}
        for one in products:
            sent[f"sku.{one['id']}"] = one["sku"]
            sent[f"name.{one['id']}"] = one["name"]
        return signed_in.submit(PLAN, **{**sent, **more})

    return ask


@pytest.fixture
def go(signed_in):
    """Press the button of a preview."""

    def go(preview, **more):
        return signed_in.submit(CHANGE, **{**filled(preview.text, CHANGE), **more})

    return go


def rows(answer):
    """Return the text of each row of the only table."""
    found = answer.text.partition("<tbody>")[2].partition("</tbody>")[0]
    return [unescape(row) for row in found.split("<tr>")[1:]]


def prices(*products):
    return [one["price_minor"] for one in products]


class TestMoney:
    @pytest.mark.parametrize(
        ("price_minor", "percent", "wanted"),
        [
            (1299, "10", 1429),
            (995, "-10", 896),
            (995, "\N{MINUS SIGN}10 %", 896),
            (1, "50", 2),
            (1, "-50", 1),
            (1000, "+0,5%", 1005),
            (1299, "-100", 0),
            (0, "1000", 0),
            (999_999_999_999, "0.01", 1_000_099_999_999),
        ],
    )
    def test_is_whole_and_halves_go_up(self, app, price_minor, percent, wanted):
        with app.test_request_context():
            assert plans.by_percent(price_minor, plans.percent(percent)) == wanted

    @pytest.mark.parametrize(
        "text", ["", "x", "1e2", "10,5,", "1.234", "--5", "-100.01", "1001", "NaN", "²"]
    )
    def test_is_not_changed_by_what_is_no_percentage(self, app, text):
        with app.test_request_context(), pytest.raises(plans.PercentUnreadable):
            plans.percent(text)

    def test_is_set_in_its_own_currency_alone(self, app):
        yen = plans.Present(
            **dict.fromkeys(("id", "sku", "name"), "x"),
            **dict.fromkeys(("price_minor", "stock", "version"), 1),
            currency="JPY",
            category=None,
        )
        with app.test_request_context():
            assert plans.to_amount(yen, "1200", "JPY") == 1200
            with pytest.raises(plans.OtherCurrency):
                plans.to_amount(yen, "12.00", "EUR")
            with pytest.raises(money.AmountUnreadable):
                plans.to_amount(yen, "12.5", "JPY")


class TestPlanChanges:
    def test_begins_with_what_there_is(self, ask, shelf, platform):
        answer = ask("price", *shelf)

        assert answer.status_code == 200
        for row, words in zip(rows(answer), ("€12.99", "€9.95", "¥1,000"), strict=True):
            assert words in row
        # Currencies of the products, and no others.
        assert filled(answer.text, f"{PLAN}#preview")["change"] == "price"
        assert 'value="JPY"' in answer.text
        assert 'value="USD"' not in answer.text
        assert "field__error" not in answer.text
        assert f'action="{CHANGE}"' not in answer.text
        assert platform.keys == []

    def test_shows_what_becomes_of_each_and_changes_nothing(self, ask, shelf, platform):
        answer = ask("price", *shelf, how="percent", value="10")

        assert answer.status_code == 200
        mug, cup, jar = rows(answer)
        for row, before, after in (
            (mug, "€12.99", "€14.29"),
            (cup, "€9.95", "€10.95"),
            (jar, "¥1,000", "¥1,100"),
        ):
            assert row.index(before) < row.index(after)
        assert "3 would change, 0 are so already, 0 would be refused" in answer.text
        assert "Change 3 products" in answer.text
        assert prices(*shelf) == [1299, 995, 1000]
        assert platform.keys == []

    def test_says_which_would_be_refused_and_why(self, ask, go, shelf):
        mug, cup, jar = shelf
        cup["price_minor"] = 500

        answer = ask("price", *shelf, how="amount", value="5", currency="EUR")

        assert "1 would change, 1 is so already, 1 would be refused" in answer.text
        assert "as it is" in rows(answer)[1]
        assert "Its price is in JPY." in rows(answer)[2]
        go(answer)
        assert prices(mug, cup, jar) == [500, 500, 1000]
        assert (cup["version"], jar["version"]) == (1, 1)

    def test_lets_the_catalog_judge(self, ask, shelf):
        mug, cup, _ = shelf
        mug["available"] = 2

        answer = ask("stock", mug, cup, value="-3")

        assert "stock: Some are held for reservations." in rows(answer)[0]
        assert "There would be fewer than none." in rows(answer)[1]

    @pytest.mark.parametrize(
        ("change", "sent", "words"),
        [
            (
                "price",
                {"how": "percent", "value": "a lot"},
                "Write a percentage such as",
            ),
            ("price", {"how": "percent", "value": "-101"}, "between -100 and 1,000"),
            ("price", {"how": "percent", "value": ""}, "This field is required."),
            (
                "price",
                {"how": "amount", "value": "-1", "currency": "EUR"},
                "Write an amount",
            ),
            (
                "price",
                {"how": "amount", "value": "1.234", "currency": "EUR"},
                "2 decimals at most",
            ),
            (
                "price",
                {"how": "amount", "value": "200000", "currency": "EUR"},
                "is too much",
            ),
            ("stock", {"value": "x"}, "Not a valid integer"),
            ("stock", {"value": "1.5"}, "Not a valid integer"),
            ("stock", {"value": "-6"}, "There would be fewer than none."),
            ("stock", {"value": "2000000000"}, "between"),
            ("category", {"value": "made-up"}, "Not a valid choice"),
        ],
    )
    def test_says_at_the_field_what_is_wrong(self, ask, shelf, change, sent, words):
        answer = ask(change, shelf[0], **sent)

        assert answer.status_code == 422
        _, mark, after = answer.text.partition('id="value-error"')
        assert mark
        assert words in after.partition("</p>")[0]
        assert f'action="{CHANGE}"' not in answer.text
        assert shelf[0]["version"] == 1

    def test_tells_categories_apart_that_are_called_alike(self, ask, shelf, a_category):
        other = a_category("Other books")
        other["name"] = "Books"

        (row,) = rows(ask("category", shelf[0], value=other["slug"]))

        assert "as it is" not in row

    def test_offers_the_categories_and_none(self, ask, shelf, a_category):
        a_category("Mugs")

        text = ask("category", shelf[0]).text

        assert 'value="mugs">Mugs</option>' in text
        assert 'value="">None</option>' in text
        assert "Books" in rows(ask("category", shelf[0]))[0]

    def test_says_what_is_not_there_any_more(self, ask, shelf, product_with):
        answer = ask("stock", shelf[0], product_with("Gone"), value="1")

        assert "It is not there any more." in rows(answer)[1]
        assert "1 would be refused" in answer.text

    def test_has_nothing_to_press_where_nothing_would_change(self, ask, shelf):
        answer = ask("stock", shelf[0], value="0")

        assert "0 would change, 1 is so already" in answer.text
        assert f'action="{CHANGE}"' not in answer.text

    def test_needs_something_ticked(self, ask, signed_in):
        assert ask("price").location == PAGE
        assert "Tick a product first." in signed_in.get(PAGE).text

    def test_refuses_what_no_form_of_ours_sends(self, ask, shelf, product_with):
        assert ask("name", shelf[0]).status_code == 400
        assert ask("price", *(product_with() for _ in range(51))).status_code == 400

    def test_escapes_what_others_wrote(self, ask, platform, product_with):
        evil = platform.add(product_with(EVIL, sku="evil", category=EVIL))

        answer = ask("category", evil, value="")

        assert answer.status_code == 200
        assert "<script>alert" not in answer.text
        assert "<img src=x" not in answer.text

    def test_speaks_german(self, ask, shelf, signed_in):
        signed_in.client.set_cookie(COOKIE, "de")

        text = ask("price", shelf[0], how="percent", value="-7,5").text

        assert "12,02\N{NO-BREAK SPACE}€" in text
        assert "1 Produkt ändern" in text

    def test_is_for_those_who_keep_products(self, browser, platform, shelf):
        platform.role = "customer"
        browser.sign_in(platform)

        for place in (PLAN, CHANGE, f"{CHANGE}/undo"):
            assert browser.submit(place, change="price").status_code == 403

    def test_says_so_when_the_catalog_is_down(self, ask, shelf, platform):
        platform.down.add("catalog")

        assert ask("price", shelf[0]).status_code == 503


class TestChangeProducts:
    def test_does_what_was_shown(self, ask, go, shelf):
        answer = go(ask("price", *shelf, how="percent", value="-10"))

        assert prices(*shelf) == [1169, 896, 900]
        assert "3 changed" in answer.text
        assert "€12.99" in rows(answer)[0]
        assert "€11.69" in rows(answer)[0]

    def test_moves_and_restocks(self, ask, go, shelf, a_category):
        a_category("Mugs")
        mug, cup, jar = shelf

        go(ask("category", mug, jar, value="mugs"))
        go(ask("stock", mug, cup, value="7"))

        assert [one["category"] for one in shelf] == ["mugs", "books", "mugs"]
        assert [one["stock"] for one in shelf] == [12, 7, 5]
        go(ask("category", mug, value=""))
        assert mug["category"] is None

    def test_leaves_alone_what_somebody_changed_and_does_the_rest(
        self, ask, go, shelf, signed_in
    ):
        mug, cup, _ = shelf
        preview = ask("price", mug, cup, how="percent", value="-10")
        mug.update(price_minor=777, version=2)

        answer = go(preview)

        assert prices(mug, cup) == [777, 896]
        assert "1 changed, 0 were so already, 1 refused" in answer.text
        theirs, mine = rows(answer)[0].split("Yours")
        assert "€7.77" in theirs
        assert "€11.69" in mine
        again = filled(answer.text, PLAN)
        assert (again["product"], again["change"]) == (mug["id"], "price")
        assert "€7.77" in rows(signed_in.submit(PLAN, **again))[0]

    def test_sent_twice_has_one_key(self, ask, go, shelf, platform):
        preview = ask("stock", shelf[0], value="1")
        go(preview)
        go(preview)
        go(preview, key="0" * 32)

        assert platform.keys[0] == platform.keys[1] != platform.keys[2]

    @pytest.mark.parametrize(
        "plan",
        [
            *("", "x", "{}", '{"change": "name", "steps": []}', '{"change": "stock"}'),
            json.dumps({"change": "stock", "steps": [STEP | {"before": "none"}]}),
        ],
    )
    def test_refuses_what_no_form_of_ours_sends(self, signed_in, platform, plan):
        assert signed_in.submit(CHANGE, plan=plan).status_code == 400
        assert platform.keys == []

    def test_leads_back_to_the_list_as_it_was(self, ask, go, shelf):
        there = f"{PAGE}?q=mug&after=50"

        answer = go(ask("stock", shelf[0], value="1", back=there))

        assert f'href="{PAGE}?q=mug&amp;after=50"' in answer.text


class TestUndo:
    @pytest.fixture
    def undo(self, signed_in):
        def undo(answer):
            place = f"{CHANGE}/undo"
            return signed_in.submit(place, **filled(answer.text, place))

        return undo

    def test_takes_back_what_was_done(self, ask, go, undo, shelf, signed_in):
        answer = undo(go(ask("price", *shelf, how="percent", value="-10")))

        assert prices(*shelf) == [1299, 995, 1000]
        assert "3 changed" in answer.text
        assert f"{CHANGE}/undo" not in answer.text
        signed_in.submit(f"{CHANGE}/undo")
        assert "There is nothing to bring back." in signed_in.get(PAGE).text
        assert prices(*shelf) == [1299, 995, 1000]

    def test_is_of_its_own_page(self, ask, go, undo, shelf, signed_in):
        mug, cup, _jar = shelf
        earlier = go(ask("price", mug, how="percent", value="-10"))
        go(ask("stock", cup, value="2"))
        stock = cup["stock"]

        undo(earlier)

        assert "There is nothing to bring back." in signed_in.get(PAGE).text
        assert cup["stock"] == stock

    def test_leaves_alone_what_was_not_changed(self, ask, go, undo, shelf):
        mug, cup, jar = shelf
        cup["price_minor"] = 500
        done = go(ask("price", *shelf, how="amount", value="5", currency="EUR"))

        undo(done)

        assert prices(*shelf) == [1299, 500, 1000]
        assert [one["version"] for one in (mug, cup, jar)] == [3, 1, 1]

    def test_leaves_alone_what_somebody_changed_since(self, ask, go, undo, shelf):
        mug, cup, _ = shelf
        done = go(ask("stock", mug, cup, value="2"))
        mug.update(stock=1, version=9)

        answer = undo(done)

        assert (mug["stock"], cup["stock"]) == (1, 0)
        assert "Somebody changed it meanwhile" in rows(answer)[0]

    def test_can_be_sent_again_where_it_did_not_arrive(
        self, ask, go, undo, shelf, platform
    ):
        done = go(ask("stock", shelf[0], value="2"))
        platform.down.add("catalog")
        assert undo(done).status_code == 503
        platform.down.clear()

        undo(done)

        assert shelf[0]["stock"] == 5

    def test_is_offered_where_something_was_done(self, ask, go, shelf):
        preview = ask("stock", shelf[0], value="2")
        shelf[0].update(stock=1, version=9)

        assert f"{CHANGE}/undo" not in go(preview).text
