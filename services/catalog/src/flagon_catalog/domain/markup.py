"""Markdown of strangers, made into HTML that is safe to show."""

import re
from html import escape

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

# A description of a product is the shop's own: with headings, below those of the page, and
# each line is one, as descriptions were shown before they were Markdown.
_ARTICLE = MarkdownIt("commonmark", {"html": False, "breaks": True}).disable(
    ["html_block", "html_inline", "image"]
)
_LEVELS_DOWN, _LEVEL_MAX = 2, 6
_SAFE_ARTICLE = nh3.Cleaner(
    tags={
        *("p", "br", "em", "strong", "a", "ul", "ol", "li", "h3", "h4", "h5", "h6"),
        *("blockquote", "pre", "code", "hr"),
    },
    attributes={"a": {"href"}, "ol": {"start"}, "*": set()},
    url_schemes={"http", "https", "mailto"},
    url_relative="deny",
    link_rel="nofollow noopener",
)
# One line without a sign that Markdown or HTML would read; most descriptions of an import,
# and it takes a hundredth of the time.
_PLAIN = re.compile(r"[^\W\d_](?:[^\W_]|[,.;:!?'\"/%()-]| (?=\S))*")
_SIGNS_MAX = 1000
"""Most signs whose partners the parser looks for, which takes time by their square."""

# Characters that turn the direction of what follows; Markdown can spell them as entities.
_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")


def html_of(markdown: str) -> str:
    """Return CommonMark text as HTML without scripts, styles, images and headings.

    Links lead to `http` and `https` alone.
    """
    return _TURNING.sub("", _SAFE.clean(_MARKDOWN.render(markdown)).strip())


def article_of(markdown: str) -> str:
    """Return a product's description, CommonMark, as HTML that is safe to show.

    Headings are two levels lower than they were written: above them are the page's own.
    Links lead to `http`, `https` and `mailto` alone. What has more signs than anybody
    writes is shown as the text that it is.
    """
    if not markdown.strip():
        return ""
    if _PLAIN.fullmatch(markdown):
        return f"<p>{markdown}</p>"
    if sum(markdown.count(sign) for sign in "[*_`<&") > _SIGNS_MAX:
        return _TURNING.sub("", f"<p>{escape(markdown, quote=False)}</p>")
    tokens = _ARTICLE.parse(markdown)
    for token in tokens:
        if token.type in {"heading_open", "heading_close"}:
            token.tag = f"h{min(int(token.tag[1]) + _LEVELS_DOWN, _LEVEL_MAX)}"
    html = _ARTICLE.renderer.render(tokens, _ARTICLE.options, {})
    return _TURNING.sub("", _SAFE_ARTICLE.clean(html).strip())
