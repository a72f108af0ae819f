"""Pictures of what was measured: SVG that is light or dark as its reader's page is."""

from html import escape

_STYLE = """
text { font-family: system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.small { fill: #59636e }
.page { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .small { fill: #9198a1 }
  .page { fill: #0d1117 }
}
"""


def document(width, height, told, style, lines):
    """Return a whole picture.

    :param told: what it shows, for those who do not see it.
    :param style: rules beside those of `text`, `title`, `small` and `page`.
    :param lines: elements, drawn one over the other.
    """
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" role="img" aria-labelledby="told">'
        f'<title id="told">{escape(told)}</title><style>{_STYLE}{style}</style>'
        f'<rect class="page" width="{width}" height="{height}" rx="8"/>'
    )
    return "\n".join([head, *lines, "</svg>\n"])


def text(x, y, words, kind=""):
    """Return words at a place; `kind` is their class."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'
