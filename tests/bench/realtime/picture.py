"""The figures of realtime's benchmark as a picture, for docs/performance.md."""

import svg
from catalog.picture import LEFT, ROW, STYLE, WIDTH, bar, heading


def picture(parts, clients):
    """Return an SVG; the same figures make the same text.

    :param parts: by what is told, name, deliveries a CPU second and whether it is ours,
        for each way to send events.
    """
    lines, y, told = [], 30, []
    for title, bars in parts.items():
        y = heading(lines, y, f"{title}: deliveries a CPU second")
        most = max(rate for _, rate, _ in bars)
        for name, rate, ours in bars:
            bar(lines, y, name, f"{rate:,.0f}", rate / most, ours=ours)
            y += ROW
            told.append(f"{title}, {name}: {rate:,.0f} deliveries a CPU second")
        y += 16
    measured = f"{clients:,} clients; CPU of all that serves them, not of Redis."
    lines.append(svg.text(LEFT, y, measured, "small"))
    return svg.document(WIDTH, y + 18, "; ".join(told), STYLE, lines)
