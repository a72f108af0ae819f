"""A service that takes its time, for the server under test."""

import os
import time

import structlog
from flask import Response, request, stream_with_context

from flagon_chassis import web
from flagon_chassis.settings import ServiceSettings


def create_app():
    settings = ServiceSettings(secret_key="not-a-secret-but-long-enough-for-it")
    app = web.create_app(__name__, settings, name="slow", openapi=False)

    maker = os.getpid()

    @app.get("/maker")
    def maker_():
        return Response(f"{maker} {os.getpid()}")

    @app.get("/pid")
    def pid():
        return Response(str(os.getpid()))

    @app.get("/slow")
    def slow():
        structlog.get_logger().info("slow_begun")
        time.sleep(float(request.args.get("seconds", 1.5)))
        return Response("done")

    @app.post("/size")
    def size():
        return Response(str(len(request.get_data())))

    @app.get("/parts")
    def parts():
        def made():
            yield "one "
            yield ""
            if "break" in request.args:
                message = "no more"
                raise RuntimeError(message)
            yield "two"

        return Response(stream_with_context(made()))

    @app.get("/seen/<path:path>")
    def seen(path):
        return Response(f"{path} {request.scheme}")

    return app
