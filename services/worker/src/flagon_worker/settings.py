"""Everything the worker reads from its environment."""

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    model_validator,
)

from flagon_chassis.settings import DatabaseSettings

SOURCE = "/services/worker"
EVENTS = Path(__file__).parent / "events"
"""The schemas of what it tells."""
_RATE = re.compile(r"([1-9]\d{0,6}) per (minute|hour|day)")
# No seconds: the reaper lets waiting jobs go on every few seconds.
_UNITS = {"minute": 60.0, "hour": 3600.0, "day": 86_400.0}


def _rate(given: object) -> object:
    found = _RATE.fullmatch(given) if isinstance(given, str) else None
    if found is None:
        message = "write a rate as '60 per minute', 'per hour' or 'per day'"
        raise ValueError(message)
    return int(found[1]), _UNITS[found[2]]


class Settings(DatabaseSettings, env_prefix="WORKER_"):
    """Settings of one worker process: read once at start-up, never changed."""

    files_dir: Path
    """Folder of uploads and artefacts, shared by the API and the Celery workers."""
    catalog_url: str = "http://127.0.0.1:8000"
    """The catalog service as seen from inside, without a slash at the end."""
    auth_url: str = "http://127.0.0.1:8000"
    """auth as seen from inside, without a slash at the end: what it wants delivered."""
    smtp_url: SecretStr | None = None
    """Server for mail, `smtp://user:password@host:587` (STARTTLS) or `smtps://host`;
    without it mails are files in `mail_dir`. `?tls=off` for one on this machine."""
    mail_from: str = "Flagon <no-reply@flagon.test>"
    """Sender of every mail."""
    mail_dir: Path | None = None
    """Folder of the mails that were not sent; `files_dir`/mail by default."""
    smtp_seconds: PositiveFloat = 20.0
    """Longest wait for one answer of the mail server."""
    upload_bytes: PositiveInt = 256 * 1024 * 1024
    """Largest file that a job may bring, in bytes."""
    import_batch_rows: int = Field(default=500, gt=0, le=1000)
    """Rows of one request to the catalog and of one confirmed step of an import."""
    catalog_seconds: PositiveFloat = 20.0
    """Longest time that one request to the catalog, retries included, may take."""
    logout_seconds: PositiveFloat = 5.0
    """Longest time that a client may take to hear of a logout."""

    webhook_seconds: PositiveFloat = 10.0
    """Longest time that a receiver of webhooks may take for all of it."""
    webhook_loopback: bool = False
    """Whether webhooks may go to this machine, without TLS; never in production."""
    webhook_overlap_hours: PositiveFloat = 24.0
    """How long the secret before a rotation signs, too."""
    keep_deliveries_days: PositiveInt = 14
    """How long the log of webhooks keeps a delivery."""

    concurrency: PositiveInt = 2
    """Tasks that one Celery process runs at a time, each in a child of its own."""
    tasks_per_process: PositiveInt = 5000
    """Tasks after which a child is replaced, to give back memory that libraries keep."""
    lease_seconds: PositiveFloat = 15.0
    """How long a job stays with a worker that gives no sign of life."""
    slice_seconds: PositiveFloat = 20.0
    """Time after which a long job makes room for others and queues up again."""
    soft_limit_seconds: PositiveInt = 120
    """Time after which a task is asked to stop; it hands its job back."""
    hard_limit_seconds: PositiveInt = 150
    """Time after which a task's process is killed; the lease then runs out."""
    cancel_grace_seconds: PositiveFloat = 10.0
    """How long a running job has to notice that it is cancelled; then its process is
    killed."""
    owner_running_max: dict[str, PositiveInt] = Field(
        default_factory=lambda: {"bulk": 10, "interactive": 10}
    )
    """Jobs of one owner that may run at once, by queue, as JSON; a queue that is not
    named has no limit."""
    kind_rates: dict[str, Annotated[tuple[int, float], BeforeValidator(_rate)]] = Field(
        default_factory=dict
    )
    """How many jobs of a kind may start, by kind, as JSON: `{"import": "60 per hour"}`,
    per minute, hour or day. As many may start at once after a rest."""
    crashes_max: PositiveInt = 3
    """Times that a job may take its worker down without progress before it fails."""
    patience_seconds: PositiveFloat = 86_400.0
    """How long a job tries again while the catalog does not answer."""
    backoff_seconds: PositiveFloat = 60.0
    """Longest pause between two such attempts."""
    resend_seconds: PositiveFloat = 10.0
    """Time without a start after which a job's message is looked for and sent again."""
    reap_seconds: PositiveFloat = 3.0
    """How often lost jobs are looked for, until the schedule `reap` is edited."""
    keep_events_days: PositiveInt = 30
    """How long the archive keeps an event."""
    audit_days: int = Field(default=400, ge=30)
    """How long it is kept who did what; at least what the database insists on."""
    keep_jobs_days: PositiveInt = 30
    """How long a finished job and its files are kept."""

    @model_validator(mode="after")
    def _limits_are_ordered(self) -> Self:
        if self.webhook_loopback and self.environment == "production":
            message = "webhook_loopback lets callers reach this machine's own services"
            raise ValueError(message)
        # The broker's own limit follows from the hard one (see flagon_chassis.queue).
        longest_turn = self.slice_seconds + self.catalog_seconds
        if not longest_turn < self.soft_limit_seconds < self.hard_limit_seconds:
            message = (
                "slice_seconds + catalog_seconds < soft_limit_seconds < "
                "hard_limit_seconds must hold: else tasks are cut off at work"
            )
            raise ValueError(message)
        return self
