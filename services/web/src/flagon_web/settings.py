"""Everything the web service reads from its environment."""

from pathlib import Path
from tempfile import gettempdir

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr

from flagon_chassis.settings import ServiceSettings


class Settings(ServiceSettings, frozen=True, env_prefix="WEB_"):
    """Settings of one web process: read once at start-up, never changed."""

    auth_url: str = "http://127.0.0.1:8090"
    """auth as this process reaches it; browsers reach it by their own origin."""
    catalog_url: str = "http://127.0.0.1:8091"
    """catalog as this process reaches it."""
    realtime_url: str = "http://127.0.0.1:8092"
    """realtime, for the status page alone: browsers open their streams themselves."""
    worker_url: str = "http://127.0.0.1:8093"
    """The jobs API as this process reaches it."""
    gateway_url: str = ""
    """The gateway's inner listener, for the status page; empty: not shown."""
    prometheus_url: str = ""
    """Prometheus as this process reaches it, for the operations page; empty: there is
    none."""
    traces_url: str = ""
    """The sink of traces as this process reaches it, for the page of one request; empty:
    there is none."""
    traces_page: str = ""
    """Address of a trace's page as browsers reach it, with `{id}` in the place of its id;
    used where `traces` is `otlp`."""

    alerts_token: SecretStr | None = Field(default=None, min_length=32)
    """What Alertmanager shows when it tells web of alerts, for the operations page; none:
    it tells nothing."""
    alerts_seconds: PositiveInt = 90_000
    """A group of alerts is forgotten this long after the last word about it; longer than
    Alertmanager takes to repeat itself."""

    session_cookie: str = Field(default="flagon_session", pattern=r"^[A-Za-z0-9_-]+$")
    """Name of the session cookie; over https it gets the prefix `__Host-`."""
    session_idle_seconds: PositiveInt = 1800
    """A session ends this long after its last request."""
    session_absolute_seconds: PositiveInt = 43_200
    """A session ends this long after sign-in, whatever happens in it."""
    session_anonymous_seconds: PositiveInt = 900
    """Time to finish a sign-in that was begun."""
    refresh_before_seconds: PositiveInt = 45
    """An access token is replaced when it has less than this left to live."""

    sign_in_limit: str = "120 per minute"
    """Sign-ins that one address may begin."""

    call_seconds: PositiveFloat = 2.0
    """Longest wait for another service while a page is made."""
    upload_seconds: PositiveFloat = 60.0
    """Longest wait while a supplier's file is handed to the jobs API."""
    probe_seconds: PositiveFloat = 1.0
    """Longest wait for one service on the status page."""

    upload_max_bytes: PositiveInt = 64 * 1024 * 1024
    """Largest supplier file that the import form takes."""
    picture_max_bytes: PositiveInt = 8 * 1024 * 1024
    """Largest picture of a product that its form takes; the catalog may take less."""
    form_max_bytes: PositiveInt = 128 * 1024
    """Largest body of every other form."""
    spool_dir: Path = Path(gettempdir()) / "flagon-web"
    """Where an uploaded file waits between the steps of the import form; shared by all
    processes that serve the same people."""
    spool_seconds: PositiveInt = 3600
    """Files that were never imported are deleted after this time."""
    page_size: int = Field(default=18, gt=0, le=100)
    """Products on one page of a list."""
