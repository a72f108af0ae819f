"""What all forms of the back office do when they cannot be taken."""

import pytest

from .test_categories import WRITTEN as CATEGORY
from .test_products import WRITTEN as PRODUCT

OFFICE = "/back-office"
MAKING = [("products", PRODUCT), ("categories", CATEGORY)]


class TestForms:
    @pytest.mark.parametrize(("page", "written"), MAKING)
    def test_keep_what_was_written_while_the_catalog_is_down(
        self, signed_in, platform, page, written
    ):
        platform.down.add("catalog")

        sent = {**written, "name": "precious"}
        answer = signed_in.submit(f"{OFFICE}/{page}/new", **sent)

        assert answer.status_code == 503
        assert "What you wrote is still here" in answer.text
        assert 'value="precious"' in answer.text
        category = '<option selected value="books">books</option>'
        assert (category in answer.text) == ("category" in written)

    @pytest.mark.parametrize(("page", "written"), MAKING)
    def test_are_an_error_where_they_are_forbidden(
        self, signed_in, platform, page, written
    ):
        platform.refuse["catalog"] = (403, "No.")

        answer = signed_in.submit(f"{OFFICE}/{page}/new", **written)

        assert answer.status_code == 403

    @pytest.mark.parametrize(
        ("page", "written", "forms"),
        [
            ("products", PRODUCT, ["new", "{}", "{}/archive", "status", "undo"]),
            ("categories", CATEGORY, ["new", "{}", "{}/move", "{}/delete"]),
        ],
    )
    def test_are_those_of_merchandisers(
        self, browser, platform, a_product, a_category, page, written, forms
    ):
        product, category = platform.add(a_product), a_category("Kitchen")
        thing = {"products": product, "categories": category}[page]
        platform.role = "customer"
        browser.sign_in(platform)
        place = f"{OFFICE}/{page}"
        before = (thing.copy(), platform.categories.copy())

        for path in (place, f"{place}/new", f"{place}/{thing['id']}"):
            assert browser.get(path).status_code == 403
        for form in forms:
            path = f"{place}/{form.format(thing['id'])}"
            assert browser.submit(path, **written, etag='"v1"').status_code == 403
        assert (thing, platform.categories) == before
        assert platform.keys == []


class TestPagesOfAdministrators:
    @pytest.mark.parametrize("what", ["accounts", "clients"])
    def test_say_so_when_auth_is_down(
        self, administrator, platform, a_user, a_client, what
    ):
        page, one = {
            "accounts": ("users", a_user()),
            "clients": ("clients", a_client()),
        }[what]
        platform.down.add("auth")

        for path in (f"{OFFICE}/{page}", f"{OFFICE}/{page}/{one['id']}"):
            answer = administrator.get(path)
            assert answer.status_code == 503
            assert f"{what.title()} cannot be shown right now." in answer.text

    @pytest.mark.parametrize(
        ("page", "query"),
        [
            ("users", "role=customer&disabled=false"),
            ("audit", "entity=product&actor=system"),
            ("clients", ""),
        ],
    )
    def test_go_on_page_by_page_within_the_filters(
        self, administrator, a_user, a_client, audited, page, query
    ):
        make = {"users": a_user, "audit": audited, "clients": a_client}[page]
        for _ in range(31):
            make()
        path = f"{OFFICE}/{page}"

        text = administrator.get(f"{path}?{query}").text

        more = "&".join([*query.split("&"), "after=30"]).lstrip("&")
        assert f'href="{path}?{more}"'.replace("&", "&amp;") in text
        assert "Back to the start" in administrator.get(f"{path}?{more}").text
