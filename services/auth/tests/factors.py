"""What people do with second factors, for the tests of several subjects."""

import base64
import json
import re
import time
from html import unescape

from sqlalchemy import text

from flagon_auth.domain import totp
from flagon_chassis import db

from .authenticator import SoftAuthenticator
from .conftest import fields


class Phone:
    """An authenticator app.

    Codes are of the step in which it was set up and the two after it: all are good
    while a test runs, even if a step ends meanwhile.
    """

    def __init__(self, secret):
        self.secret = base64.b32decode(secret)
        self.step = int(time.time()) // totp.STEP_SECONDS

    def code(self, steps=0):
        return totp.code_at(self.secret, self.step + steps)


def forms_of(answer):
    """Return the hidden fields of each form, by its action."""
    page = answer.get_data(as_text=True)
    found = {}
    for form in re.findall(r"<form.*?</form>", page, re.DOTALL):
        action = re.search(r'action="([^"]*)"', form)[1]
        found[action] = {
            unescape(re.search(r'name="([^"]*)"', tag)[1]): unescape(
                re.search(r'value="([^"]*)"', tag)[1]
            )
            for tag in re.findall(r'<input[^>]*type="hidden"[^>]*>', form)
        }
    return found


def options_of(answer):
    """Return what the page would ask the browser's authenticator."""
    page = answer.get_data(as_text=True)
    return json.loads(unescape(re.search(r'data-options="([^"]*)"', page)[1]))


def press(browser, page, action, **typed):
    """Open a page, fill in one of its forms and send it."""
    answer = browser.get(page)
    assert answer.status_code == 200, (answer.status_code, answer.location)
    return browser.post(action, {**forms_of(answer)[action], **typed})


def recovery_codes_of(answer):
    return re.findall(r"<code>([^<]*)</code>", answer.get_data(as_text=True))


def start_totp(browser):
    """Begin to set an app up; return the phone that has scanned the code."""
    begun = press(browser, "/account/two-factor", "/account/two-factor/app")
    assert begun.location == "/account/two-factor/app", begun.location
    page = browser.get(begun.location).get_data(as_text=True)
    return Phone(re.search(r'class="secret">([^<]*)<', page)[1].replace(" ", ""))


def enable_totp(browser):
    """Set an app up; return the phone and the recovery codes."""
    phone = start_totp(browser)
    answer = press(
        browser,
        "/account/two-factor/app",
        "/account/two-factor/app/confirm",
        code=phone.code(),
    )
    assert answer.status_code in {200, 303}, answer.status_code
    return phone, recovery_codes_of(answer)


def add_passkey(browser, device=None, name="Laptop"):
    """Add a passkey; return the device and the recovery codes, if it was the first."""
    device = device or SoftAuthenticator()
    page = browser.get("/account/passkeys/add")
    assert page.status_code == 200, page.location
    credential = device.create(options_of(page))
    answer = browser.post(
        "/account/passkeys/add",
        {**fields(page), "name": name, "credential": credential},
    )
    assert answer.status_code in {200, 303}, answer.get_data(as_text=True)
    return device, recovery_codes_of(answer)


def passkey_sign_in(browser, device, path="/login", **changes):
    page = browser.get(path)
    hidden = forms_of(page)["/login/passkey"]
    credential = device.get(options_of(page), **changes)
    return browser.post("/login/passkey", {**hidden, "credential": credential})


def second_step(browser, **typed):
    return press(browser, "/login/mfa", "/login/mfa", **typed)


def passkey_second_step(browser, device, page):
    shown = browser.get(page)
    return browser.post(
        "/login/mfa",
        {
            **forms_of(shown)["/login/mfa"],
            "credential": device.get(options_of(shown)),
        },
    )


def audited(app, browser, action):
    """Return the details of what was recorded about the person, newest first."""
    with app.app_context(), db.transaction() as session:
        found = session.scalars(
            text(
                "select details from audit_event where action = :action"
                " and account_id = :id order by sequence desc"
            ),
            {"action": action, "id": browser.account.id},
        )
        return list(found)


def age_session(store, seconds, **changes):
    """Let the only sign-in session be older than it is."""
    (key,) = [key for key in store.keys("auth:session:*") if "sid" in store.get(key)]
    content = json.loads(store.get(key))
    for name in ("auth_time", "confirmed_at"):
        content["data"][name] -= seconds
    content["data"].update(changes)
    store.set(key, json.dumps(content), ex=1800)


def age_pending(store, seconds):
    """Let whoever waits for the second step have waited longer."""
    (key,) = [
        key for key in store.keys("auth:session:*") if "second_step" in store.get(key)
    ]
    content = json.loads(store.get(key))
    content["data"]["second_step"]["since"] -= seconds
    store.set(key, json.dumps(content), ex=1800)
