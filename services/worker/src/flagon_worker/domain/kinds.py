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


KINDS = {
    kind.name: kind
    for kind in (
        Kind("import", "bulk", "jobs:write", takes_file=True),
        # Drafts are in it, too: who hands it in could read them.
        Kind("export", "bulk", "catalog:write", takes_file=False),
        Kind("probe", "interactive", "jobs:manage", takes_file=False),
    )
}


def find_kind(name: str) -> Kind:
    """Return the kind of this name.

    :raises KindUnknown: there is none.
    """
    if name not in KINDS:
        raise KindUnknown(f"Submit one of: {', '.join(KINDS)}.", kinds=list(KINDS))
    return KINDS[name]
