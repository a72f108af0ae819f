"""Signing out at one place counts at all, and a device gets in without a browser."""

import re
from html import unescape
from urllib.parse import urlsplit

from harness.people import browser
from harness.waiting import until

DEVICE = "urn:ietf:params:oauth:grant-type:device_code"


def name_shown(page, account):
    return account["name"] in unescape(page.text)


def fields(page, form=0):
    """Return the fields of one of a page's forms."""
    text = page.text.split("<form")[form + 1].split("</form>", 1)[0]
    found = {}
    for tag in re.findall(r"<input[^>]*>", text):
        name = re.search(r'name="([^"]*)"', tag)
        value = re.search(r'value="([^"]*)"', tag)
        if name:
            found[name[1]] = unescape(value[1]) if value else ""
    return found


class TestSignOut:
    def test_at_auth_ends_the_shops_session_within_seconds(self, stack, accounts):
        account = accounts["customer"]
        with browser(stack, account) as person:
            assert name_shown(person.get("/"), account)
            page = person.get("/account")
            # The last form of the page: others may come before it.
            number = page.text.count('action="/account/sign-out"') and next(
                n
                for n, text in enumerate(page.text.split("<form")[1:])
                if 'action="/account/sign-out"' in text
            )
            person.post("/account/sign-out", data=fields(page, number))

            until(
                lambda: not name_shown(person.get("/"), account),
                20,
                what="the shop forgets who signed out at auth",
            )
            answer = person.get("/api/v1/jobs", follow_redirects=False)
            assert answer.status_code == 401

    def test_at_auth_leaves_another_browser_signed_in(self, stack, accounts):
        account = accounts["customer"]
        with browser(stack, account) as one, browser(stack, account) as other:
            page = one.get("/logout")
            one.post("/account/sign-out", data=fields(page))
            until(
                lambda: not name_shown(one.get("/"), account),
                20,
                what="the shop forgets who signed out at auth",
            )

            assert name_shown(other.get("/"), account)

    def test_in_the_shop_ends_the_session_at_auth(self, stack, accounts):
        account = accounts["customer"]
        with browser(stack, account) as person:
            page = person.get("/status")
            token = re.search(r'name="csrf-token" content="([^"]+)"', page.text)[1]

            back = person.post("/sign-out", data={"csrf_token": token})

            assert urlsplit(str(back.url)).path == "/"
            assert not name_shown(back, account)
            person.follow_redirects = False
            assert person.get("/account").status_code == 303


class TestSignOutWhileTheShopIsAway:
    def test_is_told_when_it_is_back(self, stack, accounts):
        account = accounts["customer"]
        with browser(stack, account) as person:
            page = person.get("/logout")
            stack.make("stop", P="web")
            try:
                person.post("/account/sign-out", data=fields(page))
            finally:
                stack.make("start", P="web")
            stack.ready()

            # The pauses between attempts double from a second on.
            until(
                lambda: not name_shown(person.get("/"), account),
                90,
                pause=0.5,
                what="the shop hears of a sign-out that it missed",
            )


class TestDevice:
    def test_gets_in_once_a_person_agreed(self, stack, accounts):
        account = accounts["customer"]
        with stack.client() as device, browser(stack, account) as person:
            started = device.post(
                "/oauth/device_authorization",
                data={"client_id": "cli", "scope": "openid jobs:read"},
            ).json()
            form = {
                "client_id": "cli",
                "grant_type": DEVICE,
                "device_code": started["device_code"],
            }
            waiting = device.post("/oauth/token", data=form)
            assert waiting.json()["error"] == "authorization_pending"

            page = person.get("/device", params={"user_code": started["user_code"]})
            page = person.post("/device", data=fields(page))
            person.post("/device/decision", data=fields(page))

            tokens = device.post("/oauth/token", data=form).json()
            answer = device.get(
                "/api/v1/jobs",
                headers={"Authorization": f"Bearer {tokens['access_token']}"},
            )
            assert answer.status_code == 200


class TestInside:
    def test_is_not_reached_from_outside(self, stack):
        with stack.client() as stranger:
            for path in (
                "/internal/logout-notices/00000000-0000-0000-0000-000000000000",
                "/internal/mails/00000000-0000-0000-0000-000000000000",
                "/backchannel-logout",
            ):
                assert stranger.post(path, data={"a": "b"}).status_code == 404, path
