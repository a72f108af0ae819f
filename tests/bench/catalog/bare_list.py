"""The least that a list of 50 can be: the catalog's statement, and its rows as JSON.

psycopg itself and no framework, under the same gunicorn as the catalog. The statement is
the very text that the catalog sends.
"""

import os

from bare import Bare, sent
from pydantic_core import to_json
from sqlalchemy import create_engine, event
from sqlalchemy.orm import Session

from flagon_catalog.domain.products import Filter, list_products
from flagon_catalog.settings import Settings
from flagon_chassis import server

LIMIT = 50


class BareList(Bare):
    """A WSGI app that answers any request with the newest 50 products.

    There is no cursor in it: one that the catalog makes is put in from outside.
    """

    def __init__(self, settings, cursor):
        super().__init__(settings)
        self._statement, self._values = _sent(settings.database_url.get_secret_value())
        self._cursor = cursor

    def __call__(self, _environ, start_response):
        rows = self.connection.execute(self._statement, self._values)
        names = [column.name for column in rows.description]
        items = [dict(zip(names, row, strict=True)) for row in rows.fetchall()[:LIMIT]]
        for item in items:
            del item["position"]
        body = to_json({"items": items, "next_cursor": self._cursor})
        return sent(start_response, "200 OK", body)


def _sent(url):
    """Return the statement that the catalog sends for the list, and its values."""
    engine, sent = create_engine(url), []

    @event.listens_for(engine, "before_cursor_execute")
    def _remember(_connection, _cursor, statement, values, *_rest):
        sent[:] = [(statement, dict(values))]

    with Session(engine) as session:
        list_products(session, Filter(), sort="-created_at", limit=LIMIT + 1)
    engine.dispose()
    return sent[0]


def create_app():
    """Return the app with what its environment says."""
    return BareList(Settings(), os.environ["BARE_CURSOR"])


if __name__ == "__main__":
    server.serve(Settings(), "bare_list:create_app()")
