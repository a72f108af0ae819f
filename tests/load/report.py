"""What is left of a run: one page, three pictures, all figures as JSON."""

import html
import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import matplotlib as mpl
from locust.html import get_html_report
from objectives import load, quantile
from profiles import BEYOND, RECOVER

mpl.use("Agg")
from matplotlib import pyplot as plt  # after the choice of what draws

_COLOURS = {BEYOND: "#f6d5d0", RECOVER: "#d8ecd6"}
_PICTURES = {
    "rate.png": "People who came and answers they got, a second",
    "reads.png": "Reads of the API, from when they were meant",
    "people.png": "People inside",
}


def figures(answers):
    """Return, by name of request, how many there were and how long they took."""
    by_name = defaultdict(list)
    for one in answers:
        by_name[one.name].append(one)
    return {
        name: {
            "requests": len(seen),
            "statuses": dict(sorted(_count(one.status for one in seen).items())),
            "milliseconds": {
                f"p{share * 100:g}": round(
                    quantile([one.seconds for one in seen], share) * 1000, 1
                )
                for share in (0.5, 0.95, 0.99)
            },
        }
        for name, seen in sorted(by_name.items())
    }


def _count(values):
    counted = defaultdict(int)
    for value in values:
        counted[value] += 1
    return counted


def write(folder: Path, about, crowd, profile, came, people, verdicts, environment):
    """Write the report and return the path of its page.

    :param about: what was run: profile, host, people and so on.
    :param came: when people came, in seconds.
    :param people: pairs of (second, people inside).
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        **about,
        "verdicts": [asdict(one) for one in verdicts],
        "requests": figures(crowd.answers),
    }
    (folder / "report.json").write_text(json.dumps(content, indent=2) + "\n")
    (folder / "locust.html").write_text(get_html_report(environment))
    _pictures(folder, crowd, profile, came, people)
    page = folder / "report.html"
    page.write_text(_page(about, verdicts, content["requests"]))
    return page


def _pictures(folder, crowd, profile, came, people):
    limit = load()["read-latency"].seconds
    width = max(1.0, profile.seconds / 120)
    answers = [one for one in crowd.answers if one.at >= 0]
    with _picture(folder / "rate.png", profile, "a second") as axes:
        _line(axes, came, width, "people came", "#888888")
        good = [one.at for one in answers if one.expected]
        refused = [one.at for one in answers if not one.expected and one.retry_after]
        wrong = [one.at for one in answers if not one.expected and not one.retry_after]
        _line(axes, good, width, "answers", "#1f6f3f")
        _line(axes, refused, width, "told to come later", "#b8860b")
        _line(axes, wrong, width, "errors", "#b22222")
    with _picture(folder / "reads.png", profile, "milliseconds") as axes:
        slots = defaultdict(list)
        for one in answers:
            if one.read and one.expected:
                slots[int(one.at / width)].append(one.seconds * 1000)
        times = [slot * width for slot in sorted(slots)]
        for share, colour in ((0.5, "#1f6f3f"), (0.95, "#b8860b"), (0.99, "#b22222")):
            values = [quantile(slots[slot], share) for slot in sorted(slots)]
            axes.plot(times, values, label=f"p{share * 100:g}", color=colour)
        axes.axhline(limit * 1000, color="#555555", lw=0.8, ls="--", label="objective")
        axes.set_yscale("log")
    with _picture(folder / "people.png", profile, "people") as axes:
        axes.plot(*zip(*people, strict=True), label="inside", color="#1f6f3f")


def _line(axes, moments, width, label, colour):
    counted = _count(int(at / width) for at in moments)
    if counted:
        slots = range(max(counted) + 1)
        values = [counted[slot] / width for slot in slots]
        axes.plot([slot * width for slot in slots], values, label=label, color=colour)


class _picture:  # noqa: N801 (used as a function)
    def __init__(self, path, profile, unit):
        self.path, self.profile, self.unit = path, profile, unit

    def __enter__(self):
        self.figure, self.axes = plt.subplots(figsize=(9, 3.2), dpi=110)
        begun = 0.0
        for stage in self.profile.stages:
            if stage.phase in _COLOURS:
                end = begun + stage.seconds
                self.axes.axvspan(begun, end, color=_COLOURS[stage.phase], lw=0)
            begun += stage.seconds
        return self.axes

    def __exit__(self, *_):
        self.axes.set_title(_PICTURES[self.path.name], fontsize=10)
        self.axes.set_xlabel("seconds")
        self.axes.set_ylabel(self.unit)
        if self.axes.lines:
            self.axes.legend(fontsize=8, loc="upper left")
        self.figure.tight_layout()
        self.figure.savefig(self.path)
        plt.close(self.figure)


def _page(about, verdicts, requests):
    words = {True: "ok", False: "WRONG", None: "–"}
    judged = "".join(
        f"<tr><td>{words[one.ok]}<td>{html.escape(one.name)}<td>{html.escape(one.said)}"
        for one in verdicts
    )
    rows = "".join(
        f"<tr><td>{html.escape(name)}<td>{one['requests']}"
        + "".join(f"<td>{value}" for value in one["milliseconds"].values())
        + f"<td>{html.escape(json.dumps(one['statuses']))}"
        for name, one in requests.items()
    )
    facts = "".join(
        f"<tr><td>{html.escape(name)}<td>{html.escape(str(value))}"
        for name, value in about.items()
    )
    pictures = "".join(
        f'<p><img src="{name}" alt="{html.escape(title)}">'
        for name, title in _PICTURES.items()
    )
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<title>Load: {html.escape(str(about["profile"]))}</title>
<style>body{{font:15px/1.5 system-ui;margin:2rem auto;max-width:62rem;padding:0 1rem}}
td,th{{padding:.15rem .8rem .15rem 0;text-align:left;vertical-align:top}}
img{{max-width:100%}}</style>
<h1>Load: {html.escape(str(about["profile"]))}</h1><table>{facts}</table>
<h2>Judged</h2><table>{judged}</table>{pictures}
<p>Red: more than was asked to be borne; green: afterwards.
<h2>Requests</h2><table><tr><th>request<th>number<th>p50 ms<th>p95<th>p99<th>statuses
{rows}</table>
<p>Times count from when a request was meant to be sent.
<a href="locust.html">Locust's own report</a>, <a href="report.json">all as JSON</a>.
"""
