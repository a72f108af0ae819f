"""The worker's tasks: each is a name and one call."""

import os
import signal
import socket
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, cast
from uuid import UUID

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery, Task, shared_task
from celery.exceptions import Reject
from flask import current_app
from structlog.contextvars import bound_contextvars

from flagon_chassis import audit, health, logs, tracing
from flagon_chassis import queue as queues
from flagon_chassis.db import transaction

from . import clients, telemetry
from .domain import (
    archive,
    deliveries,
    exports,
    fairness,
    files,
    imports,
    jobs,
    leases,
    logouts,
    mails,
    overviews,
    probes,
    reindexing,
    rescue,
    runs,
    schedules,
    thumbnails,
    webhooks,
)
from .models import Job
from .settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

log = structlog.get_logger()


def _settings() -> Settings:
    return cast("Settings", current_app.extensions["flagon.settings"])


def _patience(settings: Settings) -> leases.Patience:
    return leases.Patience(
        lease_seconds=settings.lease_seconds,
        crashes_max=settings.crashes_max,
        patience_seconds=settings.patience_seconds,
        backoff_seconds=settings.backoff_seconds,
        resend_seconds=settings.resend_seconds,
    )


def _begin_anywhere() -> runs.Begin:
    """Return what opens transactions in every thread: the heartbeat's has no context."""
    app = cast("Any", current_app)._get_current_object()  # noqa: SLF001 (as documented)
    sessions = app.extensions["flagon.sessions"]

    @contextmanager
    def begin() -> "Iterator[Any]":
        with app.app_context(), sessions.begin() as session:
            yield session

    return begin


def _end_process(job: Job) -> None:
    """End this child of the pool; Celery starts another, which finds nothing to do."""
    telemetry.count_ended(job.kind, job.state)
    os.kill(os.getpid(), signal.SIGKILL)


def rules_of(settings: Settings) -> fairness.Rules:
    """Return what keeps one owner or one kind from taking everything."""
    return fairness.Rules(
        owner_max=settings.owner_running_max,
        rates={
            kind: fairness.Rate(*rate) for kind, rate in settings.kind_rates.items()
        },
    )


@contextmanager
def _within(job: Job) -> "Iterator[None]":
    """Work in the logs and the trace of the request that handed the job in.

    The message that woke this worker was perhaps sent for another job.
    """
    request_id = job.headers.get("request_id") or logs.request_id()
    with (
        bound_contextvars(job_id=str(job.id), request_id=request_id),
        tracing.continue_from(
            job.headers.get("traceparent"), f"job {job.kind}", kind="consumer"
        ),
    ):
        yield


@shared_task(name=jobs.TASK)
def run_job(
    *, job_id: str, queue: str | None = None, times: int = 1, **_newer: object
) -> None:
    """Take up the job whose turn it is and work on it, for a turn or to its end.

    Goes on with the next one while they are short.

    Safe to run twice, also at once: the job's row says who has it.

    :param job_id: UUID of the job that the message was sent for, as text.
    :param queue: where to look for a job; without it, as older releases sent, the task
        is for that one job.
    :param times: how many messages this one stands for.
    """
    settings = _settings()
    with bound_contextvars(woken_for=job_id):
        outcomes = runs.run_jobs(
            _begin_anywhere(),
            UUID(job_id),
            kinds={
                "import": lambda run: imports.run_import(
                    run,
                    folder=files.folder_of(settings.files_dir, run.job.id),
                    catalog=current_app.extensions["flagon.catalog"],
                    batch_rows=settings.import_batch_rows,
                ),
                "export": lambda run: exports.run_export(
                    run,
                    folder=files.folder_of(settings.files_dir, run.job.id),
                    catalog=current_app.extensions["flagon.catalog"],
                ),
                "report": lambda run: overviews.run_report(
                    run,
                    folder=files.folder_of(settings.files_dir, run.job.id),
                    catalog=current_app.extensions["flagon.catalog"],
                ),
                "reindex": lambda run: reindexing.run_reindex(
                    run, catalog=current_app.extensions["flagon.catalog"]
                ),
                "probe": probes.run_probe,
            },
            patience=_patience(settings),
            slice_seconds=settings.slice_seconds,
            stopping=health.draining,
            too_long=SoftTimeLimitExceeded,
            worker=f"{socket.gethostname()}/{os.getpid()}",
            cancel_grace_seconds=settings.cancel_grace_seconds,
            kill=_end_process,
            queue=queue,
            times=times,
            rules=rules_of(settings),
            within=_within,
        )
        idle = True
        for outcome in outcomes:
            idle = False
            telemetry.observe(outcome)
            log.info("job_turn", kind=outcome.kind, outcome=outcome.name)
            if outcome.failure is not None:
                # Already written down; raised so that it is reported.
                raise outcome.failure
        if idle:
            log.info("job_not_ready")


@shared_task(
    name="worker.deliver_logout",
    bind=True,
    # Auth says when it is enough.
    max_retries=None,
    # For a client that answers a byte at a time.
    soft_time_limit=30,
)
def deliver_logout(
    self: "Task[Any, Any]", /, *, notice_id: str, **_newer: object
) -> None:
    """Tell one client that a session ended, again and again until it knows.

    Safe to run twice.

    :param notice_id: UUID of the notice, as text.
    """
    extensions = current_app.extensions
    try:
        outcome = logouts.deliver(
            extensions["flagon.identity"],
            extensions["flagon.strangers"],
            UUID(notice_id),
        )
    except (deliveries.NotYet, SoftTimeLimitExceeded) as failure:
        telemetry.count_logout("postponed")
        log.info("logout_postponed", notice=notice_id, reason=str(failure))
        again(self, deliveries.pause_seconds(self.request.retries + 1))
    telemetry.count_logout(outcome)
    log.info("logout_told", notice=notice_id, outcome=outcome)


@shared_task(
    name="worker.send_mail",
    bind=True,
    # Auth says when it is too late.
    max_retries=None,
    soft_time_limit=60,
)
def send_mail(self: "Task[Any, Any]", /, *, mail_id: str, **_newer: object) -> None:
    """Send one mail, again and again until a server has it.

    Safe to run twice: auth gives a mail to one attempt at a time.

    :param mail_id: UUID of the mail, as text.
    """
    extensions = current_app.extensions
    try:
        outcome = mails.deliver(
            extensions["flagon.identity"],
            extensions["flagon.post"],
            clients.mail_sender(_settings()),
            UUID(mail_id),
        )
    except (deliveries.NotYet, SoftTimeLimitExceeded) as failure:
        telemetry.count_mail("postponed")
        log.info("mail_postponed", mail=mail_id, reason=str(failure))
        again(self, deliveries.pause_seconds(self.request.retries + 1))
    telemetry.count_mail(outcome)
    log.info("mail", mail=mail_id, outcome=outcome)


@shared_task(
    name="worker.make_thumbnails",
    bind=True,
    # For three hours or so; a picture without them is shown whole.
    max_retries=60,
    soft_time_limit=60,
)
def make_thumbnails(
    self: "Task[Any, Any]", /, *, sha256: str, widths: list[int], **_newer: object
) -> None:
    """Make thumbnails of one picture of the catalog, again and again until it has them.

    Safe to run twice.

    :param sha256: the picture's name.
    :param widths: of the thumbnails, in pixels.
    """
    catalog = current_app.extensions["flagon.catalog"]
    try:
        outcome = thumbnails.make(catalog, sha256, widths)
    except (deliveries.NotYet, SoftTimeLimitExceeded) as failure:
        log.info("thumbnails_postponed", sha256=sha256, reason=str(failure))
        again(self, deliveries.pause_seconds(self.request.retries + 1))
    log.info("thumbnails", sha256=sha256, outcome=outcome)


def again(task: "Task[Any, Any]", seconds: float) -> NoReturn:
    """Have the task at hand run again after a while.

    :raises celery.exceptions.Retry: always, unless the broker is away.
    """
    try:
        raise task.retry(countdown=seconds)
    except Reject as lost:
        # The broker did not take the message. The present one stays with it instead, and
        # is given out again once its time is up.
        raise Reject(str(lost), requeue=True) from lost


@shared_task(name="worker.reap_jobs")
def reap_jobs(**_newer: object) -> None:
    """Rescue jobs whose worker or message was lost; sent every few seconds."""
    settings = _settings()
    celery = cast("Celery", current_app.extensions["celery"])
    depths = queues.depths(celery, queues.QUEUES)
    with transaction() as session:
        reaped = rescue.reap(
            session,
            depths=depths,
            patience=_patience(settings),
            rules=rules_of(settings),
        )
    # Who died at them could not.
    for kind, outcome in reaped.ended:
        telemetry.count_ended(kind, outcome)
    if reaped.ended or reaped.woken:
        log.warning(
            "jobs_rescued",
            crashed=len(reaped.ended),
            poisoned=reaped.poisoned,
            woken=reaped.woken,
        )


@shared_task(name="worker.purge")
def purge(**_newer: object) -> None:
    """Forget what is too old: jobs and their files, events, who did what."""
    settings = _settings()
    with transaction() as session:
        gone = jobs.purge_jobs(session, keep=timedelta(days=settings.keep_jobs_days))
        fairness.purge_turns(session, keep=timedelta(days=settings.keep_jobs_days))
    for job_id in gone:
        files.remove_files(settings.files_dir, job_id)
    with transaction() as session:
        orphans = files.purge_orphans(
            settings.files_dir, partial(jobs.existing, session)
        )
    with transaction() as session:
        events = archive.purge_events(
            session, keep=timedelta(days=settings.keep_events_days)
        )
    with transaction() as session:
        firings = schedules.purge_firings(
            session, keep=timedelta(days=settings.keep_jobs_days)
        )
    with transaction() as session:
        webhooks.purge_deliveries(
            session, keep=timedelta(days=settings.keep_deliveries_days)
        )
    # Batch by batch, until one finds nothing.
    audited = sum(iter(partial(_purge_audit, settings.audit_days), 0))
    log.info(
        "purged",
        jobs=len(gone),
        orphans=orphans,
        events=events,
        firings=firings,
        audited=audited,
    )


def _purge_audit(days: int) -> int:
    with transaction() as session:
        return audit.purge(session, days=days)
