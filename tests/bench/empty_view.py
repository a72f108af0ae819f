"""A service of one view that does nothing, with all that watches it or without a part."""

from unittest import mock

from flagon_chassis import server
from flagon_chassis.settings import ServiceSettings


class Settings(ServiceSettings, env_prefix="BENCH_"):
    """Where it serves, and what is left out."""

    left_out: str = ""
    """Of `metrics` and `lines`, whose hooks are not made then; other parts have settings."""


def app():
    """Return the app: what an API of the platform is, without anything of its own."""
    # After the metrics of processes were shared, which is decided at the first import.
    from flagon_chassis import auth, limits, logs, metrics, web

    settings = Settings()
    hooks = {"metrics": metrics, "lines": logs}
    left_out = [
        mock.patch.object(hooks[part], "init_app") for part in settings.left_out.split()
    ]
    for patch in left_out:
        patch.start()
    made = web.create_app(__name__, settings, name="bench", openapi=False)
    limits.init_app(made, settings)

    @made.get("/empty")
    @auth.open_route
    def empty():
        return "", 204

    return made


if __name__ == "__main__":
    server.serve(Settings(), "empty_view:app()")
