"""Persons in front of Chromium."""

import shutil
from contextlib import contextmanager

from playwright.sync_api import sync_playwright

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    # Chromium ends all that is underway on HTTP/2 when an address of the machine comes or
    # goes (ERR_NETWORK_CHANGED), as containers of other tests make them.
    "--disable-http2",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# The page itself reports what its content security policy refused.
WATCH = """
window.__refused = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.__refused.push(`${event.violatedDirective}: ${event.blockedURI}`);
});
"""


def chromium_path():
    """Return where Chromium is; None lets Playwright use its own."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def chromium():
    """Yield a running Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path(), args=ARGUMENTS
        )
        yield browser
        browser.close()


class Person:
    """One person with a browser of their own.

    :param complaints: where errors of the console, crashes of scripts and violations of
        the content security policy are written down.
    """

    def __init__(self, browser, url, complaints=None, **options):
        self.url = url
        self.complaints = [] if complaints is None else complaints
        self.scripts = options.get("java_script_enabled", True)
        self.context = browser.new_context(
            base_url=url, ignore_https_errors=True, **options
        )
        self.context.set_default_timeout(60_000)
        self.context.add_init_script(WATCH)
        self.page = self.tab()

    def tab(self):
        """Open another tab."""
        page = self.context.new_page()
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(f"crash: {error}"))
        return page

    def _heard(self, message):
        if message.type in {"error", "warning"}:
            place = message.location.get("url", "")
            self.complaints.append(f"{message.type}: {message.text} ({place})")

    def forgive(self, *statuses):
        """Forget each refusal with these statuses: a browser reports it as an error.

        It has to report them all, a little later perhaps, and what else it reports stays.
        """
        for words in [f"status of {status}" for status in statuses]:
            while not (said := [one for one in self.complaints if words in one]):
                self.context.wait_for_event("console")
            self.complaints.remove(said[0])

    def sign_in(self, account, then="/"):
        """Sign in at auth's page and come back to `then`."""
        self.page.goto(f"/sign-in?next={then}")
        self.page.fill("input[name=email]", account["email"])
        self.page.fill("input[name=password]", account["password"])
        self.page.click("main button[type=submit]")
        self.page.wait_for_url(f"{self.url}{then}")

    def upload(self, path):
        """Go through the first step of an import."""
        self.page.goto("/import")
        self.page.set_input_files("#file", path)
        self.page.click("main button[type=submit]")
        self.page.wait_for_url("**/import/columns")

    def refused(self):
        """Return what the content security policy refused on the present page.

        Without scripts no page can say.
        """
        return self.page.evaluate("window.__refused") if self.scripts else []
