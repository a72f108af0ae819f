"""The least that a WSGI server can be asked to do: the limit that rates are put beside."""

import types

from flagon_auth.settings import Settings
from flagon_chassis import server

BODY = b"{}"


class Bare:
    """A WSGI app that answers any request with an empty JSON object."""

    # Looked at by the server for checks of health; there are none.
    extensions = types.MappingProxyType({})

    def __call__(self, _environ, start_response):
        headers = [("Content-Type", "application/json"), ("Content-Length", "2")]
        start_response("200 OK", headers)
        return [BODY]


if __name__ == "__main__":
    server.serve(Settings(), "bare:Bare()")
