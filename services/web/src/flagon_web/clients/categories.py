"""The catalog's categories as the back office uses them."""

from typing import Any

from flagon_web.domain.products import Category, CategoryPage

from .resources import Resources

_PAGE_SIZE = 100
_PAGES_MAX = 20


class Categories(Resources[Category, CategoryPage]):
    """The shelves of the shop; pages of them are by name."""

    path = "/api/v1/categories"
    one = Category
    page = CategoryPage

    def replace(
        self, id_: str, fields: dict[str, Any], *, etag: str, token: str
    ) -> None:
        """Write one whole, if it is still the one that the person saw.

        No patch, because one cannot set a member of a schema to null.
        """
        seen = {"If-Match": etag}
        self._http.put(self._of(id_), json=fields, headers=seen, token=token)

    def list_all(self, *, token: str) -> list[Category]:
        """Return the categories in the order of the tree, the first 2,000 by name."""
        found: list[Category] = []
        cursor: str | None = ""
        for _ in range(_PAGES_MAX):
            page = self.find_page(token=token, limit=_PAGE_SIZE, cursor=cursor or "")
            found += page.items
            cursor = page.next_cursor
            if not cursor:
                break
        return in_tree(found)


def in_tree(categories: list[Category]) -> list[Category]:
    """Return categories with each behind the one that it is in, else by name."""
    names = {one.slug: one.name.lower() for one in categories}
    return sorted(
        categories,
        # The slug tells two of one name apart, or what is in them would be mixed.
        key=lambda one: [(names.get(slug, slug), slug) for slug in one.path],
    )
