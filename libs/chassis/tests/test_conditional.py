import pytest
from flask import Flask, Response

from flagon_chassis import conditional

app = Flask("things")


def asked(**headers):
    return app.test_request_context(
        headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


class TestRequireMatch:
    @pytest.mark.parametrize("tag", ['"v3"', '"v2", "v3"', "*"])
    def test_lets_a_change_of_this_version_pass(self, tag):
        with asked(If_Match=tag):
            conditional.require_match(3)

    @pytest.mark.parametrize("tag", ['"v2"', 'W/"v3"', '"v3-csv"'])
    def test_refuses_other_versions(self, tag):
        with asked(If_Match=tag), pytest.raises(conditional.VersionStale) as caught:
            conditional.require_match(3)
        assert caught.value.extra == {"current": "v3"}

    @pytest.mark.parametrize("tag", ['"v3-a1"', '"v3-b2"', '"v3"', '"v2", "v3-x"', "*"])
    def test_lets_a_change_pass_that_has_not_seen_the_extras(self, tag):
        with asked(If_Match=tag):
            conditional.require_match(3, extras=["a1"])

    @pytest.mark.parametrize("tag", ['"v2-a1"', 'W/"v3-a1"', '"v31-a1"', '"a1"', '"v"'])
    def test_refuses_other_versions_with_the_same_extras(self, tag):
        with asked(If_Match=tag), pytest.raises(conditional.VersionStale) as caught:
            conditional.require_match(3, extras=["a1"])
        assert caught.value.extra == {"current": "v3-a1"}

    @pytest.mark.parametrize("tag", ['""', '"v2", ""', 'W/"", ""', '"', ",", "W/"])
    def test_survives_tags_that_say_nothing(self, tag):
        with asked(If_Match=tag), pytest.raises(conditional.VersionStale):
            conditional.require_match(3, extras=["a1"])

    def test_refuses_a_change_of_whatever_there_is(self):
        with asked(), pytest.raises(conditional.VersionRequired):
            conditional.require_match(3)


class TestTagged:
    def test_tells_the_version(self):
        with asked():
            response = conditional.tagged(Response("a"), 3, "csv")

        assert response.headers["ETag"] == '"v3-csv"'
        assert response.status_code == 200

    def test_sends_nothing_to_those_who_have_it(self):
        with asked(If_None_Match='"v3"'):
            response = conditional.tagged(Response("a"), 3)

        assert response.status_code == 304
