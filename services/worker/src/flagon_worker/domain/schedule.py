"""What the platform does again and again: its own schedules, until an operator edits them."""

_PURGE_SECONDS = 3600.0
_WEBHOOKS_SECONDS = 5.0


def entries(reap_seconds: float) -> dict[str, dict[str, object]]:
    """Return the platform's tasks and when; every task bears a second tick.

    :param reap_seconds: how often lost jobs are looked for.
    """
    return {
        "reap": _every(reap_seconds, "worker.reap_jobs"),
        "purge": _every(_PURGE_SECONDS, "worker.purge"),
        "webhooks": _every(_WEBHOOKS_SECONDS, "worker.sweep_webhooks"),
    }


def _every(seconds: float, task: str) -> dict[str, object]:
    return {
        "task": task,
        "schedule": seconds,
        "options": {
            "queue": "maintenance",
            # Ticks that nobody took must not pile up while no worker runs.
            "expires": max(seconds * 2, 10.0),
        },
    }
