"""What the worker counts."""

from flagon_chassis import metrics

from .domain.runs import Outcome


def count_ended(kind: str, outcome: str) -> None:
    """Count a turn at a job (or a cancelled one that never had any) by how it ended."""
    metrics.counter(
        "flagon_jobs_total", "Turns at jobs by how they ended.", "kind", "outcome"
    ).labels(kind, outcome).inc()


def count_logout(outcome: str) -> None:
    """Count one attempt to tell a client of a logout."""
    metrics.counter(
        "flagon_logouts_total", "Attempts to tell clients of a logout.", "outcome"
    ).labels(outcome).inc()


def count_mail(outcome: str) -> None:
    """Count one attempt to send a mail by how it ended."""
    metrics.counter(
        "flagon_mails_total", "Attempts to send mails by how they ended.", "outcome"
    ).labels(outcome).inc()


def observe(outcome: Outcome) -> None:
    """Record one turn at a job."""
    count_ended(outcome.kind, outcome.name)
    metrics.histogram(
        "flagon_job_queue_seconds", "Time from readiness to the start.", "kind"
    ).labels(outcome.kind).observe(outcome.queued_seconds)
    if outcome.run_seconds is not None:
        metrics.histogram(
            "flagon_job_run_seconds", "Time from the first start to the end.", "kind"
        ).labels(outcome.kind).observe(outcome.run_seconds)
