"""What the clients of the jobs API have in common."""

from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel

from flagon_chassis.http import Client

T = TypeVar("T", bound=BaseModel)
P = TypeVar("P", bound=BaseModel)


class Resources(Generic[T, P]):
    """Things of one kind, which operators look at and change.

    Every method raises `Unreachable` when the API does not answer and `Refused` when it
    says no.
    """

    path: ClassVar[str]
    one: ClassVar[type[Any]]
    page: ClassVar[type[Any]]

    def __init__(self, http: Client) -> None:
        self._http = http

    def find_page(self, *, token: str, limit: int, **wanted: str) -> P:
        """Return a page of them.

        :param wanted: filters and the `cursor`; empty ones count for nothing.
        """
        given = {name: value for name, value in wanted.items() if value}
        params: dict[str, Any] = {**given, "limit": limit}
        answer = self._http.get(self.path, params=params, token=token)
        page: P = self.page.model_validate(answer.json())
        return page

    def find(self, id_: str, *, token: str) -> T:
        """Return one, with its entity tag."""
        return self._read(self._http.get(self._of(id_), token=token))

    def create(self, fields: dict[str, Any], *, key: str, token: str) -> T:
        """Make one.

        :param key: the same for every attempt to send the same form, which then makes
            one.
        """
        return self._read(
            self._http.post(self.path, json=fields, idempotency_key=key, token=token)
        )

    def change(
        self, id_: str, changes: dict[str, Any], *, etag: str, token: str
    ) -> None:
        """Change some fields, if it is still the one that the person saw.

        :param etag: entity tag of the version that the person saw.
        """
        seen = {"If-Match": etag}
        self._http.patch(self._of(id_), json=changes, headers=seen, token=token)

    def delete(self, id_: str, *, etag: str, token: str) -> None:
        """Forget one, if it is still the one that the person saw."""
        self._http.delete(self._of(id_), headers={"If-Match": etag}, token=token)

    def _of(self, id_: str, *steps: str) -> str:
        return "/".join([self.path, *(quote(one, safe="") for one in (id_, *steps))])

    def _read(self, answer: httpx2.Response) -> T:
        etag = answer.headers.get("ETag", "")
        one: T = self.one.model_validate({**answer.json(), "etag": etag})
        return one
