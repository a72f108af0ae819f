"""The mails of a test run, read as the worker reads them."""

import re
import uuid
from datetime import UTC, datetime
from html import unescape
from urllib.parse import parse_qs, urlsplit

from sqlalchemy import text

from flagon_auth.domain import clients
from flagon_auth.domain.clients import Registration
from flagon_chassis import db

from .conftest import basic, bearer_of

POSTMAN_SECRET = "p" * 40


class Post:
    """What the worker asks of auth, with a token of its own."""

    def __init__(self, app):
        self.app = app
        with app.app_context(), db.transaction() as session:
            registration = Registration(
                "postman",
                "Postman",
                POSTMAN_SECRET,
                grant_types=["client_credentials"],
                scope="mails:send",
            )
            clients.put_client(session, registration, now=datetime.now(UTC))
        answer = app.test_client().post(
            "/oauth/token",
            data={"grant_type": "client_credentials", "scope": "mails:send"},
            headers=basic("postman", POSTMAN_SECRET),
        )
        self.headers = bearer_of(answer.json)

    def waiting(self):
        """Return the ids of the mails that the outbox holds, oldest first."""
        with self.app.app_context(), db.transaction() as session:
            rows = session.execute(
                text(
                    "select body from outbox where name = 'worker.send_mail'"
                    " order by sequence"
                )
            )
            return [row.body["kwargs"]["mail_id"] for row in rows]

    def ask(self, mail_id, step="", attempt=None, **options):
        body = {"attempt": attempt or uuid.uuid4().hex} if not step else None
        return self.app.test_client().post(
            f"/internal/mails/{mail_id}{step}",
            **{"headers": self.headers, "json": body, **options},
        )

    def deliver(self):
        """Send everything that waits and return what was in it."""
        found = []
        for mail_id in self.waiting():
            answer = self.ask(mail_id)
            if answer.status_code == 200:
                found.append(answer.json)
                assert self.ask(mail_id, "/sent").status_code == 204
        return found

    def last(self, to):
        """Return the newest mail to an address."""
        return [mail for mail in self.deliver() if mail["to"] == to][-1]


def link_in(mail):
    """Return path and query of the mail's link; text and HTML hold the same."""
    (link,) = re.findall(r"^https?://\S+$", mail["text"], re.MULTILINE)
    assert unescape(mail["html"]).count(link) == 2
    return link.removeprefix(f"{urlsplit(link).scheme}://{urlsplit(link).netloc}")


def code_in(mail):
    """Return the secret part of the mail's link."""
    return parse_qs(urlsplit(link_in(mail)).query)["code"][0]
