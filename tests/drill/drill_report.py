"""What is left of a drill: a page in Markdown and a picture of it over time."""

from collections import defaultdict

import svg

WIDTH, LEFT, RIGHT = 980, 62, 968
PANEL, GAP, TOP = 120, 34, 92
SLOT_SECONDS = 1.0

STYLE = """
text { font-size: 12px }
.title { font-size: 13px }
.small { font-size: 11px }
.right { text-anchor: end }
.axis { stroke: #d0d7de }
.mark { stroke: #8c959f; stroke-dasharray: 2 3 }
.both { fill: #ddf4ff }
.good { fill: none; stroke: #1f6feb; stroke-width: 1.6 }
.slow { fill: none; stroke: #bc4c00; stroke-width: 1.6 }
.bad { fill: none; stroke: #cf222e; stroke-width: 1.6 }
@media (prefers-color-scheme: dark) {
  .axis { stroke: #3d444d }
  .both { fill: #121d2f }
  .good { stroke: #4493f8 }
  .slow { stroke: #f0883e }
  .bad { stroke: #f85149 }
}
"""


def quantile(values, share):
    """Return the value that this share of them does not exceed; None of none."""
    ordered = sorted(values)
    return (
        ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
    )


def picture(answers, marks, seconds):
    """Return an SVG of requests, errors and times, with the steps.

    :param marks: pairs of (second, name of the step that begins).
    :param seconds: how long the whole took.
    """
    slots = defaultdict(list)
    for one in answers:
        slots[int(one.at / SLOT_SECONDS)].append(one)
    times = range(int(seconds / SLOT_SECONDS) + 1)
    asked = [len(slots[n]) / SLOT_SECONDS for n in times]
    failed = [sum(bool(one.wrong) for one in slots[n]) / SLOT_SECONDS for n in times]
    spans = {
        share: [
            None
            if (found := quantile([a.seconds for a in slots[n]], share)) is None
            else found * 1000
            for n in times
        ]
        for share in (0.5, 0.95)
    }
    panels = [
        ("Requests a second", [("good", asked)]),
        ("Failed requests a second", [("bad", failed)]),
        (
            "Milliseconds from when they were meant: p50 and p95",
            [("good", spans[0.5]), ("slow", spans[0.95])],
        ),
    ]
    lines = []
    bottom = TOP + len(panels) * (PANEL + GAP)
    ends = [second for second, _ in marks[1:]] + [seconds]
    for number, ((second, name), end) in enumerate(zip(marks, ends, strict=True), 1):
        x, until = _x(second, seconds), _x(end, seconds)
        if name.endswith(": both"):
            lines.append(
                f'<rect class="both" x="{x:.1f}" y="{TOP}" width="{until - x:.1f}"'
                f' height="{bottom - TOP - GAP}"/>'
            )
        lines.append(
            f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}"'
            f' y2="{bottom - GAP}"/>'
        )
        # Neighbours stand in two rows, or they would cover each other.
        lines.append(
            svg.text(x + 1, TOP - 10 - 13 * (number % 3), str(number), "small")
        )
    for place, (title, series) in enumerate(panels):
        lines += _panel(TOP + place * (PANEL + GAP), title, series, seconds)
    told = f"{len(answers)} requests, {sum(bool(a.wrong) for a in answers)} failed"
    lines.append(svg.text(LEFT, 22, f"Upgrade and rollback: {told}", "title"))
    lines.append(
        svg.text(
            LEFT,
            40,
            "Shaded: both releases of a service serve. Numbers: the steps of"
            " the table.",
            "small",
        )
    )
    lines.append(svg.text(RIGHT, bottom - GAP + 26, f"{seconds:.0f} s", "small right"))
    return svg.document(WIDTH, bottom, told, STYLE, lines)


def _x(second, seconds):
    return LEFT + (RIGHT - LEFT) * second / max(seconds, 1e-9)


def _panel(top, title, series, seconds):
    most = max((v for _, line in series for v in line if v is not None), default=0) or 1
    floor = top + PANEL
    lines = [
        f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{floor}" y2="{floor}"/>',
        svg.text(LEFT, floor + 14, title, "small"),
        svg.text(LEFT - 6, top + 18, f"{most:.0f}", "small right"),
        svg.text(LEFT - 6, floor, "0", "small right"),
    ]
    for kind, values in series:
        points = [
            f"{_x(n * SLOT_SECONDS, seconds):.1f},"
            f"{floor - (PANEL - 14) * value / most:.1f}"
            for n, value in enumerate(values)
            if value is not None
        ]
        lines.append(f'<polyline class="{kind}" points="{" ".join(points)}"/>')
    return lines


def table(names, rows):
    """Return the lines of a table in Markdown."""
    return [
        f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *rows)
    ]


def head(title, target, how, about, verdicts):
    """Return how each report of a drill begins.

    :param target: of the Makefile.
    :param about: what was run, by name.
    :param verdicts: what was promised, by name: whether it held, and what was seen.
    """
    held = "Held" if all(ok for ok, _ in verdicts.values()) else "BROKEN"
    return [
        f"# {title}",
        "",
        f"**{held}.** Written by `make {target}`; {how}.",
        "",
        *table(("", ""), about.items()),
        "",
        *table(
            ("promise", "", "seen"),
            [
                (name, "ok" if ok else "BROKEN", said)
                for name, (ok, said) in verdicts.items()
            ],
        ),
    ]


def page(about, traffic, verdicts, picture_name):
    """Return the report as Markdown.

    :param about: what was run, by name.
    :param verdicts: as `Traffic.verdicts` gives them.
    """
    how = "[how it is done](../patterns/rolling-upgrade.md)"
    title = "Upgrade and rollback under traffic"
    lines = [
        *head(title, "drill-upgrade", how, about, verdicts),
        "",
        f"![Requests, errors and times, step by step]({picture_name})",
        "",
        "| | step | began at | requests | failed | p50 ms | p95 ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, (second, name) in enumerate(traffic.marks, 1):
        ends = [at for at, _ in traffic.marks[number:]][:1] or [float("inf")]
        seen = [one for one in traffic.answers if second <= one.at < ends[0]]
        times = [
            f"{found * 1000:.0f}" if found is not None else "–"
            for found in (
                quantile([one.seconds for one in seen], share) for share in (0.5, 0.95)
            )
        ]
        failed = sum(bool(one.wrong) for one in seen)
        lines.append(
            f"| {number} | {name} | {second:.1f} s | {len(seen)} | {failed} |"
            f" {times[0]} | {times[1]} |"
        )
    kinds = defaultdict(list)
    for one in traffic.answers:
        kinds[one.kind].append(one)
    lines += ["", "| request | number | failed |", "|---|---|---|"]
    lines += [
        f"| {kind} | {len(found)} | {sum(bool(one.wrong) for one in found)} |"
        for kind, found in sorted(kinds.items())
    ]
    wrong = [one for one in traffic.answers if one.wrong]
    if wrong:
        lines += ["", "What failed:", ""]
        lines += [
            f"- {one.at:.1f} s, {one.phase}, {one.kind}: {one.wrong}"
            for one in wrong[:50]
        ]
    return "\n".join([*lines, ""])
