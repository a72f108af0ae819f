"""Which topics there are, who may follow them, and what they are called inside."""

import re
from collections.abc import Sequence

from flagon_chassis.errors import Invalid

OPEN = frozenset({"products", "categories", "tags"})
"""Families that anyone may follow, as a whole or one entity's."""
SHARED = frozenset({"custom"})
"""Families that every account may follow: what trusted clients publish, below
`custom/<client>`."""
OWN = frozenset({"jobs"})
"""Families of which an account sees its own part, and an operator everything."""
ACCOUNT = "me"
"""Everything that concerns the account that asks."""

PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""What stands between two slashes of a topic."""

_TYPE = re.compile(r"\A(?:[A-Za-z0-9][A-Za-z0-9._-]{0,127}\*?|\*)\Z")
_BELOW = 3
"""Most parts below `custom`."""
_IDENTITY = re.compile(rf"\A{PART}\Z")
_POSITION = re.compile(r"\A([0-9]{1,19})(?:-([0-9]{1,19}))?\Z")


class TopicUnknown(Invalid):
    """There is no such topic."""


class TopicMissing(Invalid):
    """The request names no topic."""


class TooManyTopics(Invalid):
    """The request names more topics than one stream may follow."""


class TypeMalformed(Invalid):
    """This is not a type of events, nor the beginning of one."""


class SnapshotMalformed(Invalid):
    """A snapshot is asked for by `1`, and not by anything else."""


class PositionMalformed(Invalid):
    """The last event id is not one of ours."""


def check_topics(names: Sequence[str], *, limit: int) -> None:
    """Make sure that every topic exists and that there are not too many.

    :param names: topics as the client wrote them.
    :param limit: most topics of one stream.
    :raises TopicMissing: there is none.
    :raises TooManyTopics: there are more than the limit.
    :raises TopicUnknown: one of them is not a topic; the problem names it.
    """
    if not names:
        raise TopicMissing("Name at least one topic: `?topic=products`.")
    if len(names) > limit:
        raise TooManyTopics(
            f"One stream follows at most {limit} topics.", limit=limit, given=len(names)
        )
    for name in names:
        if not _exists(name):
            # The name comes back to the caller, but never a page full of it.
            raise TopicUnknown(f"{name[:100]!r} is not a topic.", topic=name[:100])


def split_types(
    names: Sequence[str], *, limit: int
) -> tuple[frozenset[bytes], tuple[bytes, ...]]:
    """Return the types that are asked for, and the beginnings of types.

    :param names: as the client wrote them; those that end in `*` are beginnings.
    :param limit: most types of one stream.
    :raises TypeMalformed: one of them is no type, or there are too many.
    """
    if len(names) > limit:
        raise TypeMalformed(f"One stream asks for at most {limit} types.", limit=limit)
    for name in names:
        if not _TYPE.match(name):
            raise TypeMalformed(f"{name[:100]!r} is not a type.", type=name[:100])
    exact = frozenset(name.encode() for name in names if not name.endswith("*"))
    # Sorted: streams that ask for the same are served together.
    prefixes = sorted({name[:-1].encode() for name in names if name.endswith("*")})
    return exact, tuple(prefixes)


def wants_snapshot(text: str) -> bool:
    """Say whether a stream begins with the newest of what is kept.

    :raises SnapshotMalformed: the text is neither empty nor 0 or 1.
    """
    if text not in {"", "0", "1"}:
        raise SnapshotMalformed("Send `snapshot=1`, or nothing.")
    return text == "1"


def needs_account(names: Sequence[str]) -> bool:
    """Say whether one of these topics is told to signed-in callers alone."""
    return any(_family(name) not in OPEN for name in names)


def internal_topics(
    names: Sequence[str], *, sub: str | None = None, sees_all_jobs: bool = False
) -> frozenset[bytes]:
    """Return the topics of the event stream that stand for what a client asked for.

    :param names: topics that `check_topics` has let through.
    :param sub: the account that asks; needed where `needs_account` says so.
    :param sees_all_jobs: whether the account may follow other people's jobs.
    """
    return frozenset(
        _internal(name, sub=sub, sees_all_jobs=sees_all_jobs).encode() for name in names
    )


def parse_position(text: str) -> tuple[int, int] | None:
    """Return the stream id that a client saw last, None when it gave none.

    :raises PositionMalformed: the text is not a stream id (`<milliseconds>-<number>`).
    """
    if not text:
        return None
    found = _POSITION.match(text)
    if found is None:
        raise PositionMalformed(
            "Send the `id` of an event that this stream sent, or nothing."
        )
    return int(found[1]), int(found[2] or 0)


def _family(name: str) -> str:
    return name.partition("/")[0]


def _exists(name: str) -> bool:
    family, slash, identity = name.partition("/")
    if name == ACCOUNT:
        return True
    if family in SHARED:
        *parts, last = identity.split("/", _BELOW)
        return len(parts) < _BELOW and all(
            _IDENTITY.match(part) for part in (*parts, "a" if last == "*" else last)
        )
    if family not in OPEN | OWN:
        return False
    return not slash or identity == "*" or _IDENTITY.match(identity) is not None


def _internal(name: str, *, sub: str | None, sees_all_jobs: bool) -> str:
    if name == ACCOUNT:
        return f"users/{sub}"
    if _family(name) in OWN and not sees_all_jobs:
        return f"users/{sub}/{name}"
    return name
