"""Kinds of expected failure, free of HTTP and of Flask."""

import re
from inspect import getdoc

_MEMBERS = frozenset({"type", "title", "status", "detail", "instance"})
"""What RFC 9457 gives a meaning."""


class Failure(Exception):
    """An expected failure, told to the caller.

    Subclass one of the kinds below next to the function that raises; the first line of
    the subclass's docstring becomes the problem's title.

    :param detail: one sentence on this very case, for the caller to read.
    :param retry_after_seconds: when trying again may help; sent as `Retry-After`.
    :param extra: further members of the problem, JSON values.
    :raises TypeError: one has the name of a member that every problem has.
    """

    status = 500

    def __init__(
        self,
        detail: str = "",
        *,
        retry_after_seconds: int | None = None,
        **extra: object,
    ) -> None:
        super().__init__(detail)
        taken = _MEMBERS & extra.keys()
        if taken:
            raise TypeError(f"Every problem has {', '.join(sorted(taken))} already.")
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds
        self.extra = extra

    @classmethod
    def slug(cls) -> str:
        """Return the class name in kebab case, as used in the problem's type."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()

    @classmethod
    def title(cls) -> str:
        """Return the first line of the docstring, without its full stop."""
        return (getdoc(cls) or cls.slug()).splitlines()[0].rstrip(".")


class Invalid(Failure):
    """The request cannot be carried out as written."""

    status = 422


class Unauthenticated(Failure):
    """The request needs a valid access token."""

    status = 401
    challenge = 'Bearer realm="flagon-api"'
    """What to do about it, for programs: RFC 9110 section 11.6.1, RFC 6750 section 3."""


class Forbidden(Failure):
    """The caller may not do this."""

    status = 403


class NotFound(Failure):
    """There is no such thing."""

    status = 404


class Conflict(Failure):
    """The request clashes with the present state."""

    status = 409


class PreconditionFailed(Failure):
    """The resource has changed since the caller read it."""

    status = 412


class PreconditionRequired(Failure):
    """The request must say which version of the resource it changes."""

    status = 428


class Throttled(Failure):
    """The caller asks too often."""

    status = 429


class Unavailable(Failure):
    """Something that this needs does not answer at the moment."""

    status = 503
