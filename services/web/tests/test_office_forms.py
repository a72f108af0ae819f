"""What all pages and forms of the back office do when they cannot be shown or taken."""

import pytest

from .test_categories import WRITTEN as CATEGORY
from .test_products import WRITTEN as PRODUCT

OFFICE = "/back-office"
MAKING = [("products", PRODUCT), ("categories", CATEGORY)]
SHOWN = [
    ("users", "auth", "Accounts"),
    ("clients", "auth", "Clients"),
    ("keys", "auth", "Keys"),
    ("audit", "catalog", "The audit"),
    ("audit/jobs", "worker", "The audit"),
    ("audit/accounts", "auth", "The audit"),
    ("products", "catalog", "Products"),
    ("categories", "catalog", "Categories"),
    ("dead-letters", "worker", "Dead letters"),
    ("schedules", "worker", "Schedules"),
    ("webhooks", "worker", "Webhooks"),
]
"""Pages, whose they are, and what they call what they show."""


@pytest.fixture
def one_of(platform, a_product, a_user, a_client, a_category, a_schedule, a_webhook):
    """Make what a page of the back office lists and return it."""
    makers = {
        "users": a_user,
        "clients": a_client,
        "products": lambda: platform.add(a_product),
        "categories": lambda: a_category("Kitchen"),
        "schedules": a_schedule,
        "webhooks": a_webhook,
    }
    return lambda page: makers[page]()


class TestPages:
    @pytest.mark.parametrize(("page", "service", "what"), SHOWN)
    def test_say_so_when_whose_they_are_is_down(
        self, administrator, platform, page, service, what
    ):
        platform.down.add(service)

        answer = administrator.get(f"{OFFICE}/{page}")

        assert answer.status_code == 503
        assert f"{what} cannot be shown right now." in answer.text
        assert "We do not know" not in answer.text

    @pytest.mark.parametrize(
        ("page", "service", "what"),
        [
            shown
            for shown in SHOWN
            if shown[0].partition("/")[0] not in {"keys", "audit", "dead-letters"}
        ],
    )
    def test_of_one_thing_say_so_too(
        self, administrator, platform, one_of, page, service, what
    ):
        found = one_of(page)
        platform.down.add(service)

        answer = administrator.get(f"{OFFICE}/{page}/{found['id']}")

        assert answer.status_code == 503
        assert f"{what} cannot be shown right now." in answer.text


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
    @pytest.mark.parametrize(
        ("page", "query"),
        [
            ("users", "role=customer&disabled=false"),
            ("audit", "entity=product&actor=system"),
            ("audit/jobs", "entity=job&actor=system"),
            ("audit/accounts", ""),
            ("clients", ""),
        ],
    )
    def test_go_on_page_by_page_within_the_filters(
        self,
        administrator,
        a_user,
        a_client,
        audited,
        job_audited,
        an_event,
        page,
        query,
    ):
        make = {
            "users": a_user,
            "audit": audited,
            "audit/jobs": job_audited,
            "audit/accounts": an_event,
            "clients": a_client,
        }[page]
        for _ in range(31):
            make()
        path = f"{OFFICE}/{page}"

        text = administrator.get(f"{path}?{query}").text

        more = "&".join([*query.split("&"), "after=30"]).lstrip("&")
        assert f'href="{path}?{more}"'.replace("&", "&amp;") in text
        assert "Back to the start" in administrator.get(f"{path}?{more}").text
