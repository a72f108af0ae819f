"""Who else looks at a product, in real browsers."""

import re

import pytest
from harness.people import Person as Program
from playwright.sync_api import expect
from steps import a_product


@pytest.fixture
def product(stack, accounts):
    """The address of a product that nobody looks at."""
    with (
        Program(stack, accounts["merchandiser"]) as program,
        program.client() as client,
    ):
        return f"/products/{a_product(client)['id']}"


class TestProduct:
    def test_says_how_many_are_looking(self, person, product):
        first, second = person(), person()
        first.page.goto(product)
        second.page.goto(product)

        for one in (first, second):
            expect(one.page.locator("[data-lookers]")).to_have_text(
                "2 people are looking at this."
            )
        second.page.close()
        expect(first.page.locator("[data-lookers]")).to_be_hidden()

    def test_names_who_is_at_the_form_to_those_who_have_it_too(
        self, person, accounts, merchandiser, product
    ):
        admin, customer = person(), person()
        admin.sign_in(accounts["admin"])
        for one in (merchandiser, admin, customer):
            one.page.goto(product)
        expect(merchandiser.page.locator("[data-lookers]")).to_contain_text("3 people")

        merchandiser.page.focus("#price")

        words = admin.page.locator("[data-lookers]")
        expect(words).to_have_text(re.compile(r"3 people .* \S+.* is editing it\."))
        expect(words).not_to_contain_text("Somebody else")
        expect(customer.page.locator("[data-lookers]")).to_have_text(
            "3 people are looking at this."
        )
        merchandiser.page.click("h1")
        merchandiser.page.locator("#price").blur()
        expect(words).to_have_text("3 people are looking at this.")
