"""web, with two pages more: the templates of others with data that never changes.

Each has what the page itself was last rendered with; what belongs to a request is the
request's own.
"""

from flask import before_render_template, render_template

from flagon_chassis import server
from flagon_chassis.auth import open_route
from flagon_web import app as web
from flagon_web.settings import Settings

OWN = {"g", "request", "session"} | {
    *("visitor", "may", "nonce", "page", "session_down"),
}
"""What every request brings to every template."""
KEPT = {}


def create_app():
    """Return a web app with `/constant/<template>`."""
    app = web.create_app()
    before_render_template.connect(_keep, app)

    @app.get("/constant/<name>")
    @open_route
    def constant(name):
        return render_template(name, **KEPT[name])

    return app


def _keep(_app, template, context):
    KEPT[template.name] = {
        name: value for name, value in context.items() if name not in OWN
    }


if __name__ == "__main__":
    server.serve(Settings(), "constant:create_app()")
