"""The worker's tasks: each is a name and one call."""

from datetime import timedelta
from functools import partial
from typing import cast
from uuid import UUID

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery, shared_task
from flask import current_app
from structlog.contextvars import bound_contextvars

from flagon_chassis import health
from flagon_chassis.db import transaction

from . import clients, telemetry
from .domain import archive, files, imports, jobs, leases, probes, rescue, runs
from .settings import Settings

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


@shared_task(name=jobs.TASK)
def run_job(*, job_id: str, **_newer: object) -> None:
    """Take up one job and work on it, for a turn or to its end.

    Safe to run twice, also at once: the job's row says who has it.

    :param job_id: UUID of the job, as text.
    """
    settings = _settings()
    found = UUID(job_id)
    with bound_contextvars(job_id=job_id):
        outcome = runs.run_job(
            # Not `transaction`: the heartbeat's thread has no app context.
            current_app.extensions["flagon.sessions"].begin,
            found,
            kinds={
                "import": partial(
                    imports.run_import,
                    folder=files.folder_of(settings.files_dir, found),
                    catalog=current_app.extensions["flagon.catalog"],
                    batch_rows=settings.import_batch_rows,
                ),
                "probe": probes.run_probe,
            },
            patience=_patience(settings),
            slice_seconds=settings.slice_seconds,
            stopping=health.draining,
            too_long=SoftTimeLimitExceeded,
        )
        if outcome is None:
            log.info("job_not_ready")
            return
        telemetry.observe(outcome)
        log.info("job_turn", kind=outcome.kind, outcome=outcome.name)
        if outcome.failure is not None:
            # Already written down; raised so that it is reported.
            raise outcome.failure


@shared_task(name="worker.reap_jobs")
def reap_jobs(**_newer: object) -> None:
    """Rescue jobs whose worker or message was lost; sent every few seconds."""
    celery = cast("Celery", current_app.extensions["celery"])
    depths = clients.queue_depths(celery, ("interactive", "bulk", "mail"))
    with transaction() as session:
        reaped = rescue.reap(session, depths=depths, patience=_patience(_settings()))
    for kind in reaped.poisoned:
        telemetry.count_ended(kind, "failed")
    if reaped.crashed or reaped.woken:
        log.warning(
            "jobs_rescued",
            crashed=reaped.crashed,
            poisoned=len(reaped.poisoned),
            woken=reaped.woken,
        )


@shared_task(name="worker.purge")
def purge(**_newer: object) -> None:
    """Forget what is too old: jobs and their files, events, idempotency keys."""
    from flagon_chassis import idempotency  # noqa: PLC0415 (brings the tokens' library)

    settings = _settings()
    with transaction() as session:
        gone = jobs.purge_jobs(session, keep=timedelta(days=settings.keep_jobs_days))
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
        keys = idempotency.purge(session)
    log.info("purged", jobs=len(gone), orphans=orphans, events=events, keys=keys)
