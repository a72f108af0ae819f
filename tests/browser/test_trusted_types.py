"""No script of a page makes elements of text but by the one way that pages have for it."""

import pytest

HOME = "/"  # where `pageOf` is loaded
SINKS = {
    "innerHTML": "document.body.innerHTML = '<img src=x>'",
    "parser": "new DOMParser().parseFromString('<p>', 'text/html')",
    "script": "document.createElement('script').src = '/static/x.js'",
    "another policy": "trustedTypes.createPolicy('mine', {createHTML: (t) => t})",
    "the same policy again": "trustedTypes.createPolicy('flagon', {createHTML: (t) => t})",
}
ATTEMPT = (
    """() => { try { %s; return "done"; } catch (error) { return error.name; } }"""
)


class TestTrustedTypes:
    @pytest.mark.parametrize("sink", SINKS)
    def test_stand_in_the_way_of_all_others(self, merchandiser, sink):
        page = merchandiser.page
        page.goto(HOME)

        assert page.evaluate(ATTEMPT % SINKS[sink]) == "TypeError"
        merchandiser.complaints.clear()
        merchandiser.refused = list
