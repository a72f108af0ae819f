"""Who did what with jobs, schedules, webhooks and profiles: a row beside each change.

What time does, or a worker on its own, leaves none; nor what customers watch for
themselves, which is gone when they ask for it. A test walks over every route that writes.
"""

from typing import Any
from urllib.parse import urlsplit

from sqlalchemy.orm import Session

from flagon_chassis.audit import add_rows, told
from flagon_worker.models import ImportProfile, Job, Schedule, WebhookEndpoint

Entity = Job | Schedule | WebhookEndpoint | ImportProfile

# Of each kind its name and the members that people decide about.
_MEMBERS: dict[type[Entity], tuple[str, tuple[str, ...]]] = {
    Job: ("job", ("kind", "owner", "params", "upload", "state", "dead")),
    Schedule: (
        "schedule",
        (
            *("name", "kind", "task", "params", "owner", "cron", "interval_seconds"),
            *("time_zone", "jitter_seconds", "catch_up", "enabled"),
        ),
    ),
    WebhookEndpoint: (
        "webhook",
        ("url", "event_types", "description", "enabled", "owner"),
    ),
    ImportProfile: (
        "import_profile",
        ("name", "mapping", "defaults", "encoding", "delimiter", "decimals"),
    ),
}
_SECRET = frozenset({"secret"})


def members(entity: Entity) -> dict[str, Any]:
    """Return what the audit tells of something; taken before it changes."""
    return {name: getattr(entity, name) for name in _MEMBERS[type(entity)][1]}


def record(
    session: Session,
    action: str,
    entity: Entity,
    *,
    before: dict[str, Any] | None = None,
    **more: object,
) -> None:
    """Add the row of something that was just done, in the present transaction.

    :param action: `created` and `deleted` tell all of it, others what changed.
    :param before: its `members` from before the change; None where it has none.
    :param more: what came of it and is no member, such as the number of a job.
    """
    after = members(entity)
    if action == "created":
        changes = told(None, after, after)
    elif action == "deleted":
        changes = told(after, None, after)
    else:
        was = before or after
        changed = [name for name in after if after[name] != was[name]]
        changes = told(was, after, changed)
    changes |= told(None, more, more, named_only=_SECRET)
    if "url" in changes:
        changes["url"] = _without_path(changes["url"])
    row = {
        "action": action,
        "id": entity.id,
        "version": entity.version,
        "changes": changes,
    }
    add_rows(session, _MEMBERS[type(entity)][0], [row])


def _without_path(change: dict[str, Any]) -> dict[str, Any]:
    """Return the change of an URL as who reads it may: paths are keys to many receivers."""
    origins: dict[str, Any] = {
        name: "://".join(urlsplit(change[name])[:2]) + "/"
        for name in ("from", "to")
        if name in change
    }
    return origins | {"cut": True}
