"""The import profiles API as the pages use it."""

from collections.abc import Sequence
from typing import Any

from flagon_web.domain.imports import Profile, ProfileList, ProfilePage

from .resources import Resources

_MOST = 100
"""No account may have more."""


class Profiles(Resources[Profile, ProfilePage]):
    """Mappings of columns that a person keeps under a name."""

    path = "/api/v1/import-profiles"
    one = Profile
    page = ProfilePage

    def find_all(self, *, token: str) -> list[Profile]:
        """Return all that the person has, by name."""
        return self.find_page(limit=_MOST, token=token).items

    def find_fitting(self, columns: Sequence[str], *, token: str) -> list[Profile]:
        """Return those whose columns a file has all; first what uses most of them."""
        answer = self._http.post(
            self._of("suggest"),
            json={"columns": list(columns)},
            token=token,
            # It changes nothing.
            idempotent=True,
        )
        return ProfileList.model_validate(answer.json()).items

    def keep(self, fields: dict[str, Any], *, key: str, token: str) -> None:
        """Keep a mapping under its name, in place of the one that had that name.

        :param key: the same for every attempt to send the same form.
        """
        named = (
            one for one in self.find_all(token=token) if one.name == fields["name"]
        )
        before = next(named, None)
        if before is None:
            self.create(fields, key=key, token=token)
            return
        seen = {"If-Match": self.find(before.id, token=token).etag}
        self._http.put(self._of(before.id), json=fields, headers=seen, token=token)

    def forget(self, id_: str, *, token: str) -> None:
        """Forget one, as it is now."""
        self.delete(id_, etag=self.find(id_, token=token).etag, token=token)
