import pytest

from flagon_chassis.errors import Conflict, Failure


class SkuTaken(Conflict):
    """Another product has this SKU.

    More about it.
    """


class Bare(Failure):
    __doc__ = None


class TestFailure:
    def test_is_named_by_its_class_and_docstring(self):
        assert SkuTaken.slug() == "sku-taken"
        assert SkuTaken.title() == "Another product has this SKU"

    def test_carries_what_the_caller_should_know(self):
        failure = SkuTaken("SKU 1 is in use.", retry_after_seconds=3, sku="1")

        assert (failure.status, failure.detail) == (409, "SKU 1 is in use.")
        assert (failure.retry_after_seconds, failure.extra) == (3, {"sku": "1"})

    def test_does_not_replace_what_every_problem_has(self):
        with pytest.raises(TypeError, match="type"):
            SkuTaken("SKU 1 is in use.", type="mine")
