"""What administrators do in the back office, in a real browser."""

import uuid

from axe import judge
from playwright.sync_api import expect
from steps import find, imported, plan, press

BASE = "/back-office"


class TestUsers:
    def test_get_roles_and_lose_them_with_their_sessions(
        self, administrator, person, accounts
    ):
        """A customer is found, becomes more, and is shut out while signed in."""
        somebody, other = administrator(), person()
        customer = accounts["customer"]
        # A page without a stream of events, which would tell that it was refused.
        other.sign_in(customer, then="/status")
        page = somebody.page

        page.goto(f"{BASE}/users")
        judge(page)
        page.fill("#email", customer["email"])
        page.click("main button:text-is('Filter')")
        expect(page.locator("main tbody tr")).to_have_count(1)
        page.click("main tbody a")
        expect(page.locator("h1")).to_have_text(customer["name"])
        judge(page)
        page.check("[name=roles][value=merchandiser]")
        page.click("main button:text-is('Save')")
        expect(page.locator("main .note--success")).to_be_visible()
        expect(page.locator("[name=roles][value=merchandiser]")).to_be_checked()
        expect(page.locator("#events-head ~ ul")).to_contain_text("Account changed")

        page.uncheck("[name=roles][value=merchandiser]")
        page.click("main button:text-is('Save')")
        expect(page.locator("main .note--success")).to_be_visible()
        page.click("main summary:has-text('Sign out everywhere')")
        page.click("main button:text-is('End all sessions')")
        expect(page.locator("#sessions-head ~ p")).to_be_visible()
        other.page.goto("/jobs")
        expect(other.page.locator("input[name=password]")).to_be_visible()

    def test_are_mailed_shut_out_and_let_in_again(
        self, administrator, person, accounts
    ):
        page, other, customer = administrator().page, person(), accounts["customer"]
        other.sign_in(customer, then="/status")
        page.goto(f"{BASE}/users?email={customer['email']}")
        page.click("main tbody a")
        told = page.locator("main .note--success")

        page.click("main summary:has-text('Reset the password')")
        with page.expect_navigation():
            press(page, "Send the mail")
        expect(told).to_be_visible()
        ends = page.locator("main button:text-is('End it')")
        sessions = ends.count()
        # The latest is the first.
        ends.first.click()
        expect(ends).to_have_count(sessions - 1)
        other.page.goto("/jobs")
        expect(other.page.locator("input[name=password]")).to_be_visible()

        page.click("main summary:has-text('Disable')")
        press(page, "Disable the account")
        expect(page.locator("main button:text-is('Enable')")).to_be_visible()
        judge(page)
        press(page, "Enable")
        expect(page.locator("main summary:has-text('Disable')")).to_be_visible()
        other.sign_in(customer, then="/status")

    def test_never_lose_the_last_administrator(self, administrator, accounts):
        somebody = administrator()
        page = somebody.page
        page.goto(f"{BASE}/users?email={accounts['admin']['email']}")
        page.click("main tbody a")
        page.uncheck("[name=roles][value=admin]")
        page.click("main button:text-is('Save')")
        expect(page.locator("#give_up-error")).to_be_visible()
        judge(page)
        page.check("#give_up")
        page.click("main button:text-is('Save')")
        expect(page.locator("#roles-error")).to_be_visible()
        judge(page)
        page.goto(page.url.removesuffix("/roles"))
        expect(page.locator("[name=roles][value=admin]")).to_be_checked()
        somebody.forgive(422, 409)


class TestClients:
    def test_show_their_secret_once_and_are_deleted(self, administrator):
        somebody = administrator()
        page, name = somebody.page, f"axe-{uuid.uuid4().hex[:8]}"
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{BASE}/clients")
        judge(page)
        page.click("main a:text-is('New client')")
        judge(page)
        page.fill("#name", name)
        page.fill("#redirect_uris", "https://app.example.com/callback")
        page.click("main button:text-is('Register it')")
        secret = page.locator("#secret").inner_text()
        assert len(secret) > 30
        judge(page)
        page.click("main a:text-is('I have it')")
        expect(page.locator("h1")).to_have_text(name)
        assert secret not in page.content()
        judge(page)

        page.goto(f"{BASE}/clients")
        page.click(f"main a:has-text('{name}')")
        page.click("main summary:has-text('New secret')")
        page.click("main button:text-is('Make a new secret')")
        assert page.locator("#secret").inner_text() not in {"", secret}
        page.click("main a:text-is('I have it')")
        page.click("main a:has-text('Delete')")
        judge(page)
        page.click("main button:text-is('Delete for good')")
        expect(page.locator("main .note--success")).to_be_visible()
        expect(page.locator(f"main a:has-text('{name}')")).to_have_count(0)
        assert not [url for url in asked if secret in url]


class TestKeys:
    def test_are_shown_and_changed_on_purpose_alone(self, administrator):
        page = administrator().page
        page.goto(f"{BASE}/keys")
        judge(page)
        expect(page.locator("main tbody .badge--succeeded").first).to_be_visible()
        page.click("main summary:has-text('Change the keys')")
        expect(page.locator("main button:text-is('Change them now')")).to_be_visible()
        page.click("main summary:has-text('It was stolen') >> nth=0")
        judge(page)


class TestAudit:
    def test_tells_what_a_price_was_and_became(self, administrator, tmp_path):
        somebody = administrator()
        page, mark = somebody.page, imported(somebody, tmp_path, 1)
        expect(page.locator("[data-state-badge]")).to_have_text("Succeeded")
        find(page, mark, 0)
        page.fill("#price", "7.77")
        page.click("button:text-is('Save')")
        expect(page.locator(".note--success")).to_contain_text("€7.77")

        page.goto(f"{BASE}/audit?entity=product")
        change = page.locator(".delivery", has_text="777").first
        expect(change.locator("del")).to_have_text("550")
        expect(change.locator("ins")).to_have_text("777")
        judge(page)
        change.locator("a:text-is('all of this one')").click()
        expect(page.locator(".delivery")).to_have_count(2)
        page.click(".delivery a >> nth=0")
        expect(page.locator("h1")).to_contain_text(mark)

    def test_has_a_page_for_each_service(self, administrator):
        page, name = administrator().page, f"audited-{uuid.uuid4().hex[:8]}"
        plan(page, name, {"seconds": 0})
        sources = page.locator("nav[aria-label='Audit of what']")

        page.goto(f"{BASE}/audit")
        sources.locator("a:text-is('Jobs and webhooks')").click()
        made = page.locator(".delivery", has_text=name)
        expect(made.locator(".badge")).to_have_text("Created")
        judge(page)
        made.locator("a:text-is('all of this one')").click()
        expect(page.locator(".delivery")).to_have_count(1)
        page.click(".delivery a >> nth=0")
        expect(page.locator("h1")).to_have_text(name)

        page.goto(f"{BASE}/audit")
        sources.locator("a:text-is('Accounts and clients')").click()
        signed_in = page.locator(".delivery", has_text="Signed in").first
        expect(signed_in).to_be_visible()
        judge(page)


class TestOthers:
    def test_see_no_link_and_no_page(self, operator):
        """The pages are the administrators' in the whole platform, not in web alone."""
        somebody = operator()
        page = somebody.page
        links = "a[href^='/back-office/users'], a[href^='/back-office/clients']"
        expect(page.locator("a[href='/back-office/audit']").first).to_be_visible()
        expect(page.locator(links)).to_have_count(0)
        for path in ("users", "clients", "clients/-/new"):
            assert page.goto(f"{BASE}/{path}").status == 403
            expect(page.locator("main h1")).to_have_text("This is not open to you")
            somebody.forgive(403)
