"""What pages take of web, counted as in the catalog's `test_cost.py`.

What threads do that ask others is not among it; waiting takes no calls.
"""

import pytest

LIMITS = {"/": 10.0, "/search?q=book": 11.7, "/products/{}": 14.8, "/jobs": 7.2}
"""Times the emptiest answer; about 8 % above what they are."""


class TestCost:
    @pytest.mark.parametrize("path", LIMITS)
    def test_is_not_above_its_limit(
        self, signed_in, platform, product_with, calls, path
    ):
        books = [platform.add(product_with(f"Book {n}")) for n in range(30)]
        page = path.format(books[0]["slug"])
        empty = calls(lambda: signed_in.get("/livez"))

        taken = calls(lambda: signed_in.get(page))

        assert signed_in.get(page).status_code == 200
        assert taken / empty <= LIMITS[path]
