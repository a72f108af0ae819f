"""What a WSGI app needs that has nothing but psycopg."""

import types
from threading import local

import psycopg


class Bare:
    """A WSGI app without a framework, with one connection for each thread."""

    # Looked at by the server for checks of health; there are none.
    extensions = types.MappingProxyType({})

    def __init__(self, settings):
        url = settings.database_url.get_secret_value()
        self._url = url.replace("postgresql+psycopg:", "postgresql:")
        self._own = local()

    @property
    def connection(self):
        """The connection of this thread."""
        if not hasattr(self._own, "connection"):
            self._own.connection = psycopg.connect(self._url, autocommit=True)
        return self._own.connection


def sent(start_response, status, body):
    """Answer with JSON that is already made."""
    start_response(
        status,
        [("Content-Type", "application/json"), ("Content-Length", str(len(body)))],
    )
    return [body]
