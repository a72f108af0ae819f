import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagon_realtime import domain

OPEN = [
    "products",
    "products/0197-abc",
    "categories",
    "categories/garden.tools",
    "tags",
]
OWN = ["jobs", "jobs/7", "me"]


class TestCheckTopics:
    @pytest.mark.parametrize("name", [*OPEN, *OWN])
    def test_accepts_each_topic_that_exists(self, name):
        domain.check_topics([name], limit=1)

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "product",
            "products/",
            "products/a/b",
            "products/a b",
            "products/ä",
            "products/1\n",
            "me/1",
            "users/ada",
            "events",
            "*",
            "products/" + "a" * 65,
        ],
    )
    def test_refuses_what_is_no_topic(self, name):
        with pytest.raises(domain.TopicUnknown) as caught:
            domain.check_topics(["products", name], limit=5)

        assert caught.value.extra == {"topic": name}

    def test_repeats_no_page_full_of_topic(self):
        with pytest.raises(domain.TopicUnknown) as caught:
            domain.check_topics(["x" * 10_000], limit=5)

        assert len(caught.value.extra["topic"]) == 100

    def test_refuses_more_than_the_limit(self):
        with pytest.raises(domain.TooManyTopics):
            domain.check_topics(["products"] * 3, limit=2)

    def test_refuses_none(self):
        with pytest.raises(domain.TopicMissing):
            domain.check_topics([], limit=2)


class TestNeedsAccount:
    @pytest.mark.parametrize("name", OPEN)
    def test_is_false_for_open_topics(self, name):
        assert not domain.needs_account([name])

    @pytest.mark.parametrize("name", OWN)
    def test_is_true_for_an_accounts_own_topics(self, name):
        assert domain.needs_account(["products", name])


class TestInternalTopics:
    def test_leaves_open_topics_as_they_are(self):
        assert domain.internal_topics(OPEN) == {name.encode() for name in OPEN}

    def test_narrows_jobs_to_the_account(self):
        assert domain.internal_topics(OWN, sub="ada") == {
            b"users/ada/jobs",
            b"users/ada/jobs/7",
            b"users/ada",
        }

    def test_leaves_jobs_whole_for_who_sees_all(self):
        assert domain.internal_topics(OWN, sub="op", sees_all_jobs=True) == {
            b"jobs",
            b"jobs/7",
            b"users/op",
        }


class TestParsePosition:
    def test_reads_a_stream_id(self):
        assert domain.parse_position("1700000000000-12") == (1700000000000, 12)

    def test_takes_a_missing_number_for_zero(self):
        assert domain.parse_position("17") == (17, 0)

    def test_takes_nothing_for_the_present(self):
        assert domain.parse_position("") is None

    @pytest.mark.parametrize("text", ["a", "1-", "-1", "1-2-3", "9" * 30, "1-2\n", "٣"])
    def test_refuses_what_is_no_stream_id(self, text):
        with pytest.raises(domain.PositionMalformed):
            domain.parse_position(text)

    @given(st.text(max_size=50))
    def test_either_reads_or_refuses(self, text):
        try:
            position = domain.parse_position(text)
        except domain.PositionMalformed:
            return
        assert position is None or all(part >= 0 for part in position)
