"""Markdown of strangers, made into HTML that is safe to show."""

import re

import nh3
from markdown_it import MarkdownIt

# Two fences: the parser passes no HTML on, and the sanitiser lets nothing else through.
# No images: whoever hosts one sees every reader. No headings: they are the page's own.
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).disable(
    ["html_block", "html_inline", "image", "heading", "lheading"]
)
_SAFE = nh3.Cleaner(
    tags={
        *("p", "br", "em", "strong", "a", "ul", "ol", "li"),
        *("blockquote", "pre", "code", "hr"),
    },
    # `*`: by default every element may have a title and a language.
    attributes={"a": {"href"}, "ol": {"start"}, "*": set()},
    url_schemes={"http", "https"},
    url_relative="deny",
    # Search engines are told that the link is not ours, and its target not where from.
    link_rel="nofollow ugc noopener noreferrer",
)

# Characters that turn the direction of what follows; Markdown can spell them as entities.
_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")


def html_of(markdown: str) -> str:
    """Return CommonMark text as HTML without scripts, styles, images and headings.

    Links lead to `http` and `https` alone.
    """
    return _TURNING.sub("", _SAFE.clean(_MARKDOWN.render(markdown)).strip())
