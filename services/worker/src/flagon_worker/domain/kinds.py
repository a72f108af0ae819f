"""The kinds of jobs that can be submitted."""

from dataclasses import dataclass

from flagon_chassis.errors import Invalid


class KindUnknown(Invalid):
    """There is no such kind of job."""


@dataclass(frozen=True)
class Kind:
    """What holds for every job of one kind."""

    name: str
    queue: str
    scope: str
    """What a caller needs to submit one."""
    takes_file: bool
    title: str
    """What it does, for people."""
    once: str
    """Why it has its effect once, however often its worker dies, for people."""


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "import",
            "bulk",
            "jobs:write",
            takes_file=True,
            title="Create and change products, row by row of a file.",
            once="Each batch has a key: the catalog answers a repeat and does nothing.",
        ),
        Kind(
            "export",
            "bulk",
            # Drafts are in it, too: who hands it in could read them.
            "catalog:write",
            takes_file=False,
            title="Write products to a file, filtered as lists are.",
            once="It goes on where the last confirmed batch ended in the file.",
        ),
        Kind(
            "report",
            "bulk",
            # It counts drafts, and everybody's jobs.
            "jobs:manage",
            takes_file=False,
            title="Draw what is in the catalog and what changed lately, as PDF.",
            once="Its numbers are stored before it draws: the file is the same again.",
        ),
        Kind(
            "reindex",
            "bulk",
            "jobs:manage",
            takes_file=False,
            title="Make the words anew by which searches find what was meant.",
            once="A step that is done again finds nothing left to do.",
        ),
        Kind(
            "probe",
            "interactive",
            "jobs:manage",
            takes_file=False,
            title="Do nothing for a while, to see that the queue is served.",
            once="It has no effect.",
        ),
    )
}


def find_kind(name: str) -> Kind:
    """Return the kind of this name.

    :raises KindUnknown: there is none.
    """
    if name not in KINDS:
        raise KindUnknown(f"Submit one of: {', '.join(KINDS)}.", kinds=list(KINDS))
    return KINDS[name]
