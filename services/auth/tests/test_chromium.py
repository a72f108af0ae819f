"""Passkeys and second factors in a real browser, with Chromium's virtual authenticator."""

import shutil
import socket
import threading
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect, sync_playwright
from werkzeug.serving import make_server

from flagon_chassis.testing import lacking

from .conftest import PASSWORD
from .factors import Phone

# The page itself reports what its content security policy refused.
WATCH = """
window.__refused = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.__refused.push(`${event.violatedDirective}: ${event.blockedURI}`);
});
"""


def program():
    """Return the browser's program."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    return found or lacking("Chromium", "BROWSER=1 make setup")


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program(),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture
def site(make_app):
    """The address of an auth that listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://localhost:{port}"
    server = make_server("127.0.0.1", port, make_app(public_url=url), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield url
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def tab(chromium, site, person):
    """A function that opens a browser of its own; at the end none has complained."""
    person()
    contexts, complaints = [], []

    def make(**options):
        context = chromium.new_context(base_url=site, **options)
        context.set_default_timeout(10_000)
        context.add_init_script(WATCH)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(f"crash: {error}"))
        page.on("console", lambda message: complaints.append(message.text))
        return page

    yield make
    refused = []
    for page in (page for context in contexts for page in context.pages):
        page.wait_for_load_state()
        refused += page.evaluate("window.__refused || []")
    for context in contexts:
        context.close()
    assert [one for one in complaints if "status of 4" not in one] + refused == []


class Authenticator:
    """A platform authenticator with resident keys that verifies its user."""

    def __init__(self, page, **options):
        self.cdp = page.context.new_cdp_session(page)
        self.cdp.send("WebAuthn.enable")
        made = self.cdp.send(
            "WebAuthn.addVirtualAuthenticator",
            {
                "options": {
                    "protocol": "ctap2",
                    "transport": "internal",
                    "hasResidentKey": True,
                    "hasUserVerification": True,
                    "isUserVerified": True,
                    "automaticPresenceSimulation": True,
                    **options,
                }
            },
        )
        self.id = {"authenticatorId": made["authenticatorId"]}

    def credentials(self):
        return self.cdp.send("WebAuthn.getCredentials", self.id)["credentials"]

    @contextmanager
    def away(self):
        """Nobody touches it meanwhile, so that it does not answer by itself."""
        self.switch(enabled=False)
        yield
        self.switch(enabled=True)

    def switch(self, *, enabled):
        self.cdp.send(
            "WebAuthn.setAutomaticPresenceSimulation", {**self.id, "enabled": enabled}
        )

    def user_verified(self, verified):
        self.cdp.send(
            "WebAuthn.setUserVerified", {**self.id, "isUserVerified": verified}
        )


def sign_in(page, path="/login"):
    page.goto(path)
    page.get_by_label("E-mail address").fill("ada@flagon.test")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.wait_for_load_state()


def sign_out(page):
    page.context.clear_cookies()


def add_passkey(page, name="Laptop"):
    page.goto("/account/passkeys/add")
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Add a passkey").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Your recovery codes")


class TestPasskey:
    def test_signs_in_without_a_password(self, tab):
        page = tab()
        device = Authenticator(page)
        sign_in(page)
        add_passkey(page)
        codes = page.locator(".codes code").all_inner_texts()
        sign_out(page)

        with device.away():
            page.goto("/login?next=/account/passkeys")
            button = page.get_by_role("button", name="Sign in with a passkey")
            expect(button).to_be_visible()
        button.click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Passkeys")

        (credential,) = device.credentials()
        assert credential["isResidentCredential"]
        assert credential["rpId"] == "localhost"
        assert len(codes) == 10
        expect(page.get_by_text("Laptop")).to_be_visible()
        expect(page.get_by_text("Last used on")).to_be_visible()

    def test_is_offered_where_the_address_is_typed(self, tab):
        """Conditional mediation: the virtual authenticator picks what is offered."""
        page = tab()
        device = Authenticator(page)
        sign_in(page)
        add_passkey(page)
        sign_out(page)

        page.goto("/login?next=/account/passkeys")

        expect(page.get_by_role("heading", level=1)).to_have_text("Passkeys")
        assert device.credentials()[0]["signCount"] >= 2

    def test_is_a_second_step_after_the_password(self, tab):
        page = tab()
        device = Authenticator(page)
        sign_in(page)
        add_passkey(page)
        sign_out(page)

        with device.away():
            sign_in(page)
        page.get_by_role("button", name="Use a passkey").click()

        page.wait_for_url("**/account")

    def test_confirms_who_is_signed_in(self, tab, store):
        page = tab()
        Authenticator(page)
        sign_in(page)
        add_passkey(page)
        page.goto("/account/passkeys/add")
        expect(page.get_by_role("heading", level=1)).to_have_text("Second step")
        page.get_by_role("button", name="Use a passkey").click()

        expect(page.get_by_role("heading", level=1)).to_have_text("Add a passkey")

    def test_of_a_user_who_was_not_verified_is_refused(self, tab):
        page = tab()
        device = Authenticator(page)
        sign_in(page)
        add_passkey(page)
        sign_out(page)
        device.user_verified(verified=False)

        page.goto("/login")
        page.get_by_role("button", name="Sign in with a passkey").click()

        expect(page.get_by_role("alert")).to_contain_text("Nothing happened")
        assert page.url.endswith("/login")

    def test_second_one_on_the_same_device_is_explained(self, tab):
        page = tab()
        Authenticator(page)
        sign_in(page)
        add_passkey(page)
        page.goto("/account/passkeys/add")
        page.get_by_role("button", name="Use a passkey").click()
        page.get_by_label("Name").fill("Again")
        page.get_by_role("button", name="Add a passkey").click()

        expect(page.get_by_role("alert")).to_contain_text("has a passkey for your")

    def test_can_be_used_with_the_keyboard_alone(self, tab):
        page = tab()
        Authenticator(page)
        sign_in(page)
        page.goto("/account/passkeys/add")
        page.keyboard.type("Keyboard")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")

        expect(page.get_by_role("heading", level=1)).to_have_text("Your recovery codes")

    def test_is_not_needed_where_no_script_runs(self, tab):
        page = tab(java_script_enabled=False)
        sign_in(page)
        page.wait_for_url("**/account")
        page.goto("/account/passkeys/add")

        expect(page.get_by_text("Passkeys need JavaScript")).to_be_visible()
        expect(page.get_by_role("button", name="Add a passkey")).to_have_count(0)


class TestAuthenticatorApp:
    def test_is_set_up_and_asked_for_without_any_script(self, tab):
        page = tab(java_script_enabled=False)
        sign_in(page)
        page.goto("/account/two-factor")
        page.get_by_role("button", name="Set up an app").click()
        phone = Phone(page.locator(".secret").inner_text().replace(" ", ""))
        page.get_by_label("Code of your authenticator app").fill(phone.code())
        page.get_by_role("button", name="Confirm").click()
        with page.expect_download() as saved:
            page.get_by_role("link", name="Save as a file").click()
        text = saved.value.path().read_text()
        codes = page.locator(".codes code").all_inner_texts()
        sign_out(page)

        sign_in(page)
        page.get_by_label("Code of your authenticator app").fill(phone.code(1))
        page.keyboard.press("Enter")
        page.wait_for_url("**/account")

        assert saved.value.suggested_filename == "flagon-recovery-codes.txt"
        assert all(code in text for code in codes)

    def test_recovery_code_replaces_it(self, tab):
        page = tab()
        sign_in(page)
        page.goto("/account/two-factor")
        page.get_by_role("button", name="Set up an app").click()
        phone = Phone(page.locator(".secret").inner_text().replace(" ", ""))
        page.get_by_label("Code of your authenticator app").fill(phone.code())
        page.get_by_role("button", name="Confirm").click()
        code = page.locator(".codes code").first.inner_text()
        sign_out(page)

        sign_in(page)
        page.get_by_text("Use a recovery code").click()
        page.get_by_label("Recovery code", exact=True).fill(code)
        page.get_by_role("button", name="Use the recovery code").click()

        page.wait_for_url("**/account")
