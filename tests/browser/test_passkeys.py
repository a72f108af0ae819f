"""Passkeys in a real browser, from the shop's sign-in through auth and back."""

import uuid

import pytest
from playwright.sync_api import expect

PASSWORD = "plum-harbour-92-quietly"


@pytest.fixture
def stranger(person, stack):
    """Somebody who has just created an account, with an authenticator in the device."""
    found = person()
    page = found.page
    cdp = page.context.new_cdp_session(page)
    cdp.send("WebAuthn.enable")
    made = cdp.send(
        "WebAuthn.addVirtualAuthenticator",
        {
            "options": {
                "protocol": "ctap2",
                "transport": "internal",
                "hasResidentKey": True,
                "hasUserVerification": True,
                "isUserVerified": True,
                "automaticPresenceSimulation": True,
            }
        },
    )
    found.device = {"authenticatorId": made["authenticatorId"]}
    found.cdp = cdp
    found.account = {
        "email": f"passkey-{uuid.uuid4().hex[:8]}@flagon.test",
        "password": PASSWORD,
    }
    page.goto("/register?next=/account")
    page.get_by_label("Name").fill("Pat Example")
    page.get_by_label("E-mail address").fill(found.account["email"])
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.locator("main form[action='/register'] button[type=submit]").click()
    page.wait_for_load_state()
    return found


class TestPasskey:
    def test_signs_in_to_the_shop_without_a_password(self, stranger):
        page = stranger.page
        stranger.sign_in(stranger.account, then="/")
        page.goto("/account/passkeys/add")
        page.get_by_label("Name").fill("Laptop")
        page.get_by_role("button", name="Add a passkey").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Your recovery codes")
        page.context.clear_cookies()

        # Offered in the field for the address, and picked by the authenticator: perhaps
        # before the page has all of its pictures, so nobody waits for those.
        page.goto("/sign-in?next=/jobs", wait_until="commit")

        page.wait_for_url(f"{stranger.url}/jobs")
        (credential,) = stranger.cdp.send("WebAuthn.getCredentials", stranger.device)[
            "credentials"
        ]
        assert credential["rpId"] == "localhost"
        assert credential["signCount"] >= 2
