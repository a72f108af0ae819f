"""Which topics there are, who may follow them, and what they are called inside."""

import re
from collections.abc import Sequence
from uuid import UUID, uuid5

from flagon_chassis.errors import Forbidden, Invalid

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
_KEY = re.compile(r"\A[\x21-\x7e]{1,200}\Z")
_EVENTS = UUID("0e8b0c5e-5d0e-5c39-9a53-0f3c1f3f6a01")
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


class LatestMalformed(Invalid):
    """The latest alone are asked for by `1`, and not by anything else."""


class ClientsOnly(Forbidden):
    """Only a client that acts for itself may publish events."""


class NamespaceForeign(Forbidden):
    """This type or topic is not one of the client's own."""


class EventIdReused(Invalid):
    """Another event was published under this id or Idempotency-Key."""


class PublishKeyMalformed(Invalid):
    """The Idempotency-Key of an event is not usable."""


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
            raise TypeMalformed(f"{name[:100]!r} is not a type.", given=name[:100])
    exact = frozenset(name.encode() for name in names if not name.endswith("*"))
    # Sorted: streams that ask for the same are served together.
    prefixes = sorted({name[:-1].encode() for name in names if name.endswith("*")})
    return exact, tuple(prefixes)


def wants_snapshot(text: str) -> bool:
    """Say whether a stream begins with the newest of what is kept.

    :raises SnapshotMalformed: the text is neither empty nor 0 or 1.
    """
    return _flag(text, SnapshotMalformed("Send `snapshot=1`, or nothing."))


def wants_latest(text: str) -> bool:
    """Say whether a stream that is behind is spared what a later event makes old.

    :raises LatestMalformed: the text is neither empty nor 0 or 1.
    """
    return _flag(text, LatestMalformed("Send `latest=1`, or nothing."))


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


def check_publisher(*, sub: str, client_id: str, session: str | None) -> None:
    """Make sure that a token speaks for a client, and for no person.

    :param session: the session or the grant that the token came from.
    :raises ClientsOnly: a person is behind it, whatever its scopes say.
    """
    if sub != client_id or session or not _IDENTITY.match(client_id):
        raise ClientsOnly("Use a token of the client credentials grant.")


def check_namespace(client_id: str, type_: str, topics: Sequence[str]) -> None:
    """Make sure that an event is the client's own to tell.

    Who follows `products` must be able to believe what it is told, and an account that
    what reaches `users/<sub>` came from the service that knows. So a client has types
    and topics below its own name, and nobody has to register or compare anything.

    :raises TopicUnknown: a topic is none that anybody could follow.
    :raises NamespaceForeign: the type or a topic is somebody else's.
    """
    if not type_.startswith(f"custom.{client_id}.") or type_.endswith("."):
        raise NamespaceForeign(
            f"Types begin with `custom.{client_id}.`.", given=type_[:100]
        )
    for topic in topics:
        if topic != f"custom/{client_id}" and not topic.startswith(
            f"custom/{client_id}/"
        ):
            raise NamespaceForeign(
                f"Topics are below `custom/{client_id}`.", topic=topic[:100]
            )
        if not _exists(topic) or topic.endswith("*"):
            raise TopicUnknown(f"{topic[:100]!r} is not a topic.", topic=topic[:100])


def event_id(client_id: str, given: str) -> UUID:
    """Return the id under which followers know a client's event.

    No two clients can make the same, and none can make one that a service has used or
    will use: consumers take an id that they know for an event that they know.
    """
    return uuid5(uuid5(_EVENTS, client_id), given)


def parse_key(text: str | None) -> str | None:
    """Return the Idempotency-Key of a request, None when it has none.

    :raises PublishKeyMalformed: it is not 1 to 200 visible ASCII characters.
    """
    if text is not None and not _KEY.match(text):
        raise PublishKeyMalformed("Use 1 to 200 visible ASCII characters.")
    return text


def _flag(text: str, otherwise: Invalid) -> bool:
    if text not in {"", "0", "1"}:
        raise otherwise
    return text == "1"


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
