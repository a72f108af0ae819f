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
