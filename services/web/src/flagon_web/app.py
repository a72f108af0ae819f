"""The web app: the only place that sees all its parts."""

from functools import cache
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flask import Flask, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf import CSRFProtect
from werkzeug.exceptions import HTTPException

from flagon_chassis import health, limits, logs, web
from flagon_chassis.http import Client

from . import i18n, routes
from .clients import Backends
from .clients.audit import Audit, JobAudit
from .clients.catalog import Catalog
from .clients.categories import Categories
from .clients.dead import DeadLetters
from .clients.gather import Gather
from .clients.identity import Identity
from .clients.jobs import Jobs
from .clients.notices import Notices
from .clients.pictures import Pictures
from .clients.products import Products
from .clients.profiles import Profiles
from .clients.prometheus import Prometheus
from .clients.readiness import Readiness
from .clients.registered_clients import RegisteredClients
from .clients.reviews import Reviews
from .clients.schedules import Schedules
from .clients.sessions import RedisSessions, Sessions
from .clients.signing_keys import SigningKeys
from .clients.spool import Spool
from .clients.traces import Traces
from .clients.users import Users
from .clients.watches import Watches
from .clients.webhooks import Webhooks
from .domain.products import status_words
from .domain.terms import capitalized, term
from .settings import Settings


def create_app(settings: Settings | None = None) -> Flask:
    """Return a web app that is ready to serve.

    :param settings: read from the environment when omitted, as gunicorn does.
    :raises pydantic.ValidationError: a setting is missing or malformed.
    """
    settings = settings or Settings()
    app = web.create_app(
        __package__ or "flagon_web",
        settings,
        name="web",
        openapi=False,
        page=_error_page,
        static_folder="static",
    )
    found = _backends(settings)
    app.extensions["flagon.web"] = found
    app.session_interface = RedisSessions(found.sessions, settings.session_cookie)
    # Public pages work without the store, so its loss must not close the shop.
    health.check(app, "redis_store", found.sessions.ping, required=False)
    _limit_bodies(app, settings)
    # A token lives as long as its session, not an hour: forms may stay open.
    app.config["WTF_CSRF_TIME_LIMIT"] = None
    guard = CSRFProtect(app)
    _fit_templates(app)
    routes.init_app(app)
    # From auth, not from a page: what it brings is signed.
    guard.exempt(app.view_functions["account.backchannel_logout"])
    # From Alertmanager, which shows a token.
    guard.exempt(app.view_functions["notices.keep_notice"])
    # On pages of strangers, who have no session; it looks at the sender itself.
    guard.exempt(app.view_functions["languages.choose_language"])
    _limit_requests(app, settings)
    # After the limits, since who is led on is asked no more.
    _forgive_slashes(app)
    _fit_toolbar(app)
    return app


def _fit_templates(app: Flask) -> None:
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    i18n.texts.init_app(app)
    app.jinja_env.filters["capitalized"] = capitalized
    app.jinja_env.globals.update(
        asset=_asset,
        date_time=i18n.date_time,
        decimal_sign=i18n.decimal_sign,
        language=i18n.language,
        ngettext=i18n.ngettext_html,
        languages=i18n.LANGUAGES,
        number=i18n.number,
        request_id=logs.request_id,
        size=i18n.size,
        status_words=status_words,
        term=term,
    )


def _backends(settings: Settings) -> Backends:
    def client(name: str, url: str, retries: int = 1) -> Client:
        return Client(
            url,
            settings,
            name=name,
            deadline_seconds=settings.call_seconds,
            # A person waits: better to leave a part out than to try three times.
            retries=retries,
        )

    sessions = Sessions(
        settings.redis_store_url.get_secret_value(),
        idle_seconds=settings.session_idle_seconds,
        absolute_seconds=settings.session_absolute_seconds,
        anonymous_seconds=settings.session_anonymous_seconds,
    )
    catalog = client("catalog", settings.catalog_url)
    worker = client("worker", settings.worker_url)
    auth = client("auth", settings.auth_url)
    return Backends(
        catalog=Catalog(catalog),
        products=Products(catalog),
        categories=Categories(catalog),
        pictures=Pictures(catalog, upload_seconds=settings.upload_seconds),
        reviews=Reviews(catalog),
        jobs=Jobs(worker, upload_seconds=settings.upload_seconds),
        dead=DeadLetters(worker),
        profiles=Profiles(worker),
        schedules=Schedules(worker),
        watches=Watches(worker),
        webhooks=Webhooks(worker),
        signing_keys=SigningKeys(auth),
        users=Users(auth),
        audit=Audit(catalog),
        job_audit=JobAudit(worker),
        registered_clients=RegisteredClients(auth),
        identity=Identity(
            auth,
            sessions,
            issuer=settings.public_url,
            client_id=settings.client_id,
            client_secret=settings.client_secret.get_secret_value(),
            refresh_before_seconds=settings.refresh_before_seconds,
        ),
        notices=Notices(
            settings.redis_store_url.get_secret_value(),
            seconds=settings.alerts_seconds,
        ),
        prometheus=Prometheus(
            client("prometheus", settings.prometheus_url, retries=0)
            if settings.prometheus_url
            else None,
            seconds=settings.call_seconds,
        ),
        traces=Traces(
            client("traces", settings.traces_url, retries=0)
            if settings.traces_url and settings.traces == "otlp"
            else None
        ),
        readiness=Readiness(
            {
                "auth": settings.auth_url,
                "catalog": settings.catalog_url,
                "realtime": settings.realtime_url,
                "worker": settings.worker_url,
            },
            settings.gateway_url,
            seconds=settings.probe_seconds,
        ),
        sessions=sessions,
        spool=Spool(settings.spool_dir, seconds=settings.spool_seconds),
        gather=Gather(settings.threads * 2),
        gather_aside=Gather(settings.threads),
    )


def _forgive_slashes(app: Flask) -> None:
    # People type a slash at the end of an address, and chat programs add one.
    @app.before_request
    def lead_on() -> ResponseReturnValue | None:
        asks = request.method in {"GET", "HEAD"}
        if request.url_rule or not asks or not request.path.endswith("/"):
            return None
        try:
            addresses = app.url_map.bind_to_environ(request.environ)
            endpoint, values = addresses.match(request.path.rstrip("/"))
        except HTTPException:
            return None
        # Built from the route and not cut from the path, which may name another host.
        where = url_for(endpoint, **values)
        query = request.query_string.decode("latin-1")
        return redirect(f"{where}?{query}" if query else where, 308)


def _limit_bodies(app: Flask, settings: Settings) -> None:
    app.config["MAX_CONTENT_LENGTH"] = settings.form_max_bytes

    # Before the CSRF check, which reads the form.
    @app.before_request
    def allow_upload() -> None:
        largest = {
            "imports.upload_file": settings.upload_max_bytes,
            "pictures.add_picture": settings.picture_max_bytes,
        }.get(request.endpoint or "")
        if largest is not None:
            request.max_content_length = largest + settings.form_max_bytes


def _limit_requests(app: Flask, settings: Settings) -> None:
    limiter = limits.init_app(app, settings)
    # The gateway asks for everybody, as part of requests that are counted elsewhere.
    limiter.exempt(app.view_functions["account.exchange_session"])
    # Each of these leaves an entry in the session store for a while.
    begin = app.view_functions["account.sign_in"]
    limited: Any = limiter.limit(settings.sign_in_limit)(begin)
    app.view_functions["account.sign_in"] = limited


def _error_page(status: int, title: str, detail: str) -> str:
    return render_template("error.html", status=status, title=title, detail=detail)


def _asset(name: str) -> str:
    """Return the address of a static file, with a mark that changes with its content."""
    return url_for("static", filename=name, v=_fingerprint(name))


@cache
def _fingerprint(name: str) -> str:
    content = (Path(__file__).parent / "static" / name).read_bytes()
    return blake2b(content, digest_size=6).hexdigest()


def _fit_toolbar(app: Flask) -> None:
    # `flask --debug run` in development only; never under gunicorn.
    if app.debug and find_spec("flask_debugtoolbar"):
        from flask_debugtoolbar import (  # noqa: PLC0415 (not in images)
            DebugToolbarExtension,
        )

        app.config["DEBUG_TB_INTERCEPT_REDIRECTS"] = False
        DebugToolbarExtension(app)
