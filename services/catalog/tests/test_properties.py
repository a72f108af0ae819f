"""What holds for every input, not only for the examples that came to mind."""

import json
import re
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flagon_catalog.domain import bulk, slugs
from flagon_catalog.domain.patches import merged
from flagon_catalog.schemas import SLUG, NewProduct, sift

SLUG_PATTERN = re.compile(SLUG)
SKUS = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=10,
)
objects = st.dictionaries(st.sampled_from("abc"), values, max_size=3)


class TestSlugs:
    @given(st.text(max_size=300), SKUS, st.uuids())
    def test_are_always_slugs(self, name, sku, id_):
        for slug in slugs.choices(name, sku, id_):
            assert SLUG_PATTERN.fullmatch(slug), slug
            assert len(slug) <= slugs.LONGEST

    @given(st.text(max_size=300), SKUS)
    def test_end_with_one_that_nobody_else_has(self, name, sku):
        first, second = (slugs.choices(name, sku, UUID(int=n))[-1] for n in (1, 2))

        assert first != second


class TestMerged:
    @given(objects, objects)
    def test_is_idempotent(self, target, patch):
        once = merged(target, patch)

        assert repr(merged(once, patch)) == repr(once)

    @given(objects)
    def test_leaves_the_target_alone(self, target):
        before = repr(target)

        assert merged(target, {}) == target or repr(target) == before
        assert merged(target, dict.fromkeys(target)) == {}

    def test_follows_the_examples_of_the_rfc(self):
        # RFC 7396 appendix A.
        for target, patch, result in (
            ({"a": "b"}, {"a": "c"}, {"a": "c"}),
            ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
            ({"a": "b"}, {"a": None}, {}),
            ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
            ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
            ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
            (
                {"a": {"b": "c"}},
                {"a": {"b": "d", "c": None}},
                {"a": {"b": "d"}},
            ),
            ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
            (["a", "b"], ["c", "d"], ["c", "d"]),
            ({"a": "b"}, ["c"], ["c"]),
            ({"a": "foo"}, None, None),
            ({"a": "foo"}, "bar", "bar"),
            ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
            ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
            ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ):
            assert merged(target, patch) == result


class TestBodies:
    @given(st.dictionaries(st.sampled_from([*NewProduct.model_fields, "x"]), values))
    def test_are_taken_or_refused_but_never_break(self, body):
        try:
            product = NewProduct.model_validate(body)
        except ValidationError:
            return
        # What is taken can be stored: as JSON without NaN, as UTF-8 without NUL.
        stored = json.dumps(product.model_dump(), allow_nan=False, ensure_ascii=False)
        assert "\\u0000" not in stored
        stored.encode()

    @given(st.lists(values | st.builds(lambda sku: {"sku": sku}, SKUS), max_size=5))
    def test_of_bulk_are_sorted_into_usable_and_wrong(self, items):
        usable, wrong = sift(items)

        assert usable.keys() | wrong.keys() == set(range(len(items)))
        assert not usable.keys() & wrong.keys()


class TestTurns:
    @given(st.lists(st.sampled_from("abcd"), max_size=30))
    def test_hold_each_sku_once_and_keep_its_order(self, skus):
        turns = bulk._turns([{"sku": sku} for sku in skus])

        for turn in turns:
            found = [item["sku"] for _, item in turn]
            assert len(found) == len(set(found))
        for sku in set(skus):
            places = [place for turn in turns for place, i in turn if i["sku"] == sku]
            assert places == [n for n, found in enumerate(skus) if found == sku]
