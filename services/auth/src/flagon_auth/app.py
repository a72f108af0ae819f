"""Where auth is put together; the only place that sees all of it."""

import hmac
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import redis
from flask import Flask, Response, g, render_template, request
from flask_login import LoginManager
from flask_wtf.csrf import CSRFError, CSRFProtect

from flagon_chassis import auth, db, events, health, limits, logs, web

from . import cli, i18n
from .clients import (
    Attempts,
    Denylist,
    DeviceCookie,
    Guesses,
    Parts,
    SessionStore,
    Social,
    connect,
    guesses,
)
from .clients.providers import read_providers
from .domain import keys
from .domain.devices import UserCodes
from .domain.email_tokens import Linker
from .domain.passwords import Breached, Hasher
from .domain.tokens import Issuer
from .i18n import gettext as _
from .oauth import endpoints
from .oauth.server import Server
from .routes import (
    account,
    api_keys,
    apps,
    device,
    devices_and_sessions,
    email,
    languages,
    mails,
    mfa,
    notices,
    passkeys,
    password,
    register,
    registered_clients,
    sessions,
    sign_in,
    sign_out,
    signing_keys,
    social,
    two_factor,
    users,
)
from .routes.menu import account_menu
from .routes.showing import moment, this_page
from .settings import Settings


def create_app(settings: Settings | None = None) -> Flask:
    """Return an auth app that is ready to serve.

    :param settings: read from the environment when omitted, as gunicorn does.
    :raises pydantic.ValidationError: a setting is missing or malformed.
    """
    settings = settings or Settings()
    app = web.create_app(
        __package__, settings, name="auth", title="Flagon accounts", page=_error_page
    )
    db.init_app(app, settings)
    parts = _parts(app, settings)
    app.extensions["flagon.auth"] = parts
    app.session_interface = parts.sessions
    parts.guesses.init_app(app)
    events.init_app(app, "/services/auth", Path(__file__).parent / "events")
    limiter = limits.init_app(app, settings)
    for view in (
        *(endpoints.token, endpoints.revoke, endpoints.introspect, endpoints.push),
        endpoints.authorize_device,
        endpoints.jwks,
    ):
        # Our own services ask for everybody and from one address; what strangers send
        # is limited by the gateway, and guessing 256 bits is no way in.
        limiter.exempt(view)
    # Asked by the gateway before every request that brings a key; that one is limited.
    limiter.exempt(api_keys.exchange_api_key)
    # Asked by the worker alone, for everybody.
    limiter.exempt(notices.bp)
    limiter.exempt(mails.bp)
    # Has stricter counters of its own.
    limiter.exempt(sign_in.login)
    auth.init_app(
        app,
        issuer=settings.public_url,
        jwks=lambda: endpoints.own_keys(app),
        redis_url=settings.redis_store_url.get_secret_value(),
        # Here revocations are made: they count at the very next request.
        remember_marks=False,
    )
    _guard_forms(app)
    _sign_in_manager(app)
    for blueprint in (
        sign_in.bp,
        mfa.bp,
        passkeys.bp,
        two_factor.bp,
        register.bp,
        sign_out.bp,
        account.bp,
        devices_and_sessions.bp,
        email.bp,
        languages.bp,
        mails.bp,
        password.bp,
        users.bp,
        api_keys.bp,
        api_keys.pages,
        api_keys.internal,
        registered_clients.bp,
        signing_keys.bp,
        notices.bp,
        device.bp,
        apps.bp,
        social.bp,
        endpoints.bp,
    ):
        app.register_blueprint(blueprint)
    app.extensions["flagon.oauth"] = Server(parts.issuer)
    app.after_request(_protect_pages)
    app.register_error_handler(CSRFError, _form_too_old)
    i18n.init_app(app)
    app.context_processor(_for_templates)
    app.add_template_filter(moment)
    cli.init_app(app, settings)
    return app


def _parts(app: Flask, settings: Settings) -> Parts:
    store = connect(settings.redis_store_url.get_secret_value())
    cache = connect(settings.redis_cache_url.get_secret_value())
    # Tokens are issued without either: a service that cannot sign people in for a while
    # must still let everybody go on who has signed in.
    health.check(app, "redis_store", store.ping, required=False)
    health.check(app, "redis_cache", cache.ping, required=False)
    return Parts(
        issuer=Issuer(
            url=settings.public_url,
            sealer=keys.Sealer(settings.sealing_key, settings.previous_sealing_key),
            code_seconds=settings.code_seconds,
            access_seconds=settings.access_token_seconds,
            id_seconds=settings.id_token_seconds,
            refresh_idle_seconds=settings.refresh_idle_seconds,
            refresh_absolute_seconds=settings.refresh_absolute_seconds,
            session_absolute_seconds=settings.session_absolute_seconds,
        ),
        hasher=Hasher(
            concurrency=settings.hash_concurrency,
            wait_seconds=settings.hash_wait_seconds,
            breached=Breached(settings.breached_passwords_dir),
        ),
        user_codes=UserCodes(
            hmac.digest(
                settings.secret_key.get_secret_value().encode(),
                b"device user codes",
                "sha256",
            )
        ),
        linker=Linker(
            hmac.digest(
                settings.secret_key.get_secret_value().encode(), b"mail links", "sha256"
            )
        ),
        sessions=SessionStore(
            store,
            cookie=settings.session_cookie,
            idle_seconds=settings.session_idle_seconds,
            absolute_seconds=settings.session_absolute_seconds,
        ),
        denylist=Denylist(store, settings.access_token_seconds),
        plan=keys.Plan(
            every=timedelta(days=settings.key_rotation_days) or None,
            lead=timedelta(seconds=settings.key_lead_seconds),
            token_life=timedelta(
                seconds=max(settings.access_token_seconds, settings.id_token_seconds)
            ),
        ),
        guesses=_guesses(cache, settings),
        social=Social(
            read_providers(settings.providers_file),
            settings,
            key=settings.secret_key.get_secret_value().encode(),
        ),
    )


def _guesses(cache: redis.Redis, settings: Settings) -> Guesses:
    secret = settings.secret_key.get_secret_value()
    return Guesses(
        Attempts(cache),
        DeviceCookie(secret, cookie=f"{settings.session_cookie}_device"),
        guesses.rules(
            pair=settings.login_pair_limit,
            account=settings.login_account_limit,
            place=settings.login_address_limit,
            seconds=settings.login_window_seconds,
            register=settings.register_limit,
        ),
        key=secret.encode(),
    )


def _guard_forms(app: Flask) -> None:
    """Let only forms in that came from our own pages."""
    # The token lives as long as the session; a page left open must not expire sooner.
    app.config["WTF_CSRF_TIME_LIMIT"] = None
    # The token is bound to a session that only this host's pages share. Insisting on a
    # Referer on top would lock out people whose browser sends none.
    app.config["WTF_CSRF_SSL_STRICT"] = False
    guard = CSRFProtect(app)
    # Clients, not forms: they authenticate themselves, and no cookie counts there.
    for view in (
        *(endpoints.token, endpoints.revoke, endpoints.introspect, endpoints.push),
        endpoints.authorize_device,
        endpoints.userinfo,
    ):
        guard.exempt(view)
    # Protocol messages that a browser brings from elsewhere: the first only becomes the
    # same request by GET, the second acts on a signed ID token or asks the person.
    guard.exempt(endpoints.authorize_by_post)
    guard.exempt(sign_out.logout)
    for blueprint in (
        users.bp,
        api_keys.bp,
        registered_clients.bp,
        signing_keys.bp,
        notices.bp,
        mails.bp,
    ):
        guard.exempt(blueprint)


def _form_too_old(_error: CSRFError) -> tuple[str, int]:
    page = _error_page(
        400,
        _("This page was open for too long"),
        _("Go back, reload it and try again."),
    )
    return page, 400


def _sign_in_manager(app: Flask) -> None:
    manager = LoginManager()
    # The session is on the server and its id random; tying it to an address as well
    # would sign people out whose phone changes networks.
    manager.session_protection = None
    manager.user_loader(sessions.load_signed_in)
    # Not `init_app`: it adds a hook for a "remember me" cookie, which we do not have,
    # and which would look into the session at every API request.
    app.login_manager = manager  # type: ignore[attr-defined]


def _protect_pages(response: Response) -> Response:
    if not (response.mimetype or "").startswith("text/html"):
        return response
    targets = " ".join(["'self'", *g.get("form_targets", ())])
    # Pages that ask for a passkey; all others run no script at all.
    scripts = f"script-src 'nonce-{web.csp_nonce()}'; " if g.get("scripts") else ""
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; style-src 'nonce-{web.csp_nonce()}'; img-src data:; "
        f"{scripts}require-trusted-types-for 'script'; trusted-types 'none'; "
        f"form-action {targets}; frame-ancestors 'none'; base-uri 'none'"
    )
    response.headers["X-Frame-Options"] = "DENY"
    # The address of these pages can hold an ID token or where a person came from.
    # A link from a mail is more than that: not even our own pages learn it.
    secret = "code" in request.args
    response.headers["Referrer-Policy"] = "no-referrer" if secret else "same-origin"
    response.headers["Cache-Control"] = "no-store"
    response.headers["Content-Language"] = i18n.language()
    return response


def _for_templates() -> dict[str, Any]:
    return {
        "account_menu": account_menu,
        "connected_providers": social.connected_providers,
        "csp_nonce": web.csp_nonce,
        "language": i18n.language,
        "languages": i18n.LANGUAGES,
        "request_id": logs.request_id,
        "social_providers": social.social_providers,
        "this_page": this_page,
    }


def _error_page(status: int, title: str, detail: str) -> str:
    if status in _ERRORS and title == HTTPStatus(status).phrase:
        # In the person's language, and for people.
        plain_title, plain_detail = _ERRORS[status]
        title, detail = str(plain_title), str(plain_detail)
    return render_template("error.html", status=status, title=title, detail=detail)


_ERRORS = {
    404: (
        i18n.LazyText("There is no such page"),
        i18n.LazyText("Perhaps the address has a slip of the pen, or the page moved."),
    ),
    405: (
        i18n.LazyText("This page cannot do that"),
        i18n.LazyText("Go back and try again."),
    ),
    413: (
        i18n.LazyText("That was too much at once"),
        i18n.LazyText("Go back and send less."),
    ),
    429: (
        i18n.LazyText("Too many requests"),
        i18n.LazyText("Wait a moment, then try again."),
    ),
    500: (
        i18n.LazyText("Something went wrong here"),
        i18n.LazyText("It has been reported. Try again in a moment."),
    ),
}
