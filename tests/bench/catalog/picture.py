"""The figures of the catalog's benchmark as a picture, for docs/performance.md."""

import svg

WIDTH, LEFT, RIGHT = 420, 16, 404
BAR, ROW = 14, 44

STYLE = """
text { font-size: 15px }
.small { font-size: 13px }
.value { text-anchor: end; font-variant-numeric: tabular-nums }
.ours { fill: #1f6feb }
.other { fill: #8c959f }
.goal { stroke: #bc4c00; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  .ours { fill: #4493f8 }
  .other { fill: #6e7681 }
  .goal { stroke: #f0883e }
}
"""


def picture(bars, shares, products):
    """Return an SVG; the same figures make the same text.

    :param bars: name, requests a CPU second, milliseconds and whether it is the catalog,
        for each way to make a list of 50.
    :param shares: name, share of the limit and the goal, for each ratio to a limit.
    """
    lines, y = [], 30
    y = heading(lines, y, "A list of 50 products: requests a CPU second")
    most = max(rate for _, rate, *_ in bars)
    for name, rate, milliseconds, ours in bars:
        value = f"{rate:.0f} (one takes {milliseconds:.1f} ms)"
        bar(lines, y, name, value, rate / most, ours=ours)
        y += ROW
    y = heading(lines, y + 16, "Speed beside what it cannot do without")
    for name, share, goal in shares:
        bar(lines, y, name, f"{share:.2f} (goal {goal:.2f})", share, ours=True)
        at = LEFT + goal * (RIGHT - LEFT)
        lines.append(
            f'<line class="goal" x1="{at:.0f}" x2="{at:.0f}" y1="{y + 4}"'
            f' y2="{y + BAR + 8}"/>'
        )
        y += ROW
    measured = f"{products:,} products; CPU is the server's and Postgres'."
    lines.append(svg.text(LEFT, y, measured, "small"))
    height = y + 18
    told = "; ".join(
        [f"{name}: {rate:.0f} requests a CPU second" for name, rate, *_ in bars]
        + [f"{name}: {share:.2f} of its limit" for name, share, _ in shares]
    )
    return svg.document(WIDTH, height, told, STYLE, lines)


def heading(lines, y, text):
    """Add a heading; return where the next line goes."""
    lines.append(svg.text(LEFT, y, text, "title"))
    return y + 28


def bar(lines, y, name, value, share, *, ours):
    """Add a bar of so much of the width, below its name and its value."""
    lines.append(svg.text(LEFT, y, name, "small"))
    lines.append(svg.text(RIGHT, y, value, "small value"))
    kind = "ours" if ours else "other"
    width = max(2, share * (RIGHT - LEFT))
    lines.append(
        f'<rect class="{kind}" x="{LEFT}" y="{y + 6}" width="{width:.0f}"'
        f' height="{BAR}" rx="3"/>'
    )
