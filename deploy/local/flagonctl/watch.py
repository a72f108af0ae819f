"""`make watch`: the platform's events in a terminal, one line each."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TextIO

from flagon_chassis import sse

from .problem import Problem

_DIM, _BOLD, _PLAIN = "2", "1", "0"
_COLOURS = {"products": "36", "jobs": "33", "categories": "35", "tags": "35"}
_OTHER_COLOUR = "32"
_BAD_COLOUR = "31"
_NARROWEST = 40


def watch(
    base_url: str,
    topics: Sequence[str],
    *,
    types: Sequence[str] = (),
    snapshot: bool = False,
    last_id: str = "",
    token: Callable[[], str] | None = None,
    as_json: bool = False,
    count: int | None = None,
) -> None:
    """Print events until Ctrl-C, or until so many.

    What is no event goes to standard error, so that a pipe gets events alone.

    :param base_url: of the gateway.
    :param token: asked before each connection; None for topics that are open to all.
    :param as_json: print the whole envelope of each event.
    :raises Problem: the topics may not be followed.
    """
    paint, say = _paint(sys.stdout), _paint(sys.stderr)

    def told(word: str) -> None:
        colour = _DIM if word == "open" else _BAD_COLOUR
        print(say(f"-- {_WORDS.get(word, word)}", colour), file=sys.stderr, flush=True)

    stream = sse.Stream(
        base_url,
        topics,
        types=types,
        snapshot=snapshot,
        last_id=last_id,
        token=token,
        told=told,
    )
    seen = 0
    try:
        with stream:
            for found in stream:
                if isinstance(found, sse.Gap):
                    told("gap")
                elif isinstance(found, sse.Snapshot):
                    told("snapshot")
                elif isinstance(found, sse.Event):
                    print(found.raw if as_json else line(found, paint), flush=True)
                    seen += 1
                if seen == count:
                    return
    except KeyboardInterrupt:
        print(file=sys.stderr)
    except BrokenPipeError:
        # Nobody reads any more, as with `| head`. Python would say so once again when
        # it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except sse.Refused as refused:
        raise Problem(
            f"The stream was refused: {refused}.",
            "make watch TOPIC=products, or ROLE=operator for what needs an account",
        ) from refused


_WORDS = {
    "open": "connected",
    "gap": "events are missing here: the log no longer reaches back that far",
    "snapshot": "what was kept ends here; now what happens",
    "unreachable": "nobody answers; trying again",
    "silent": "the connection went silent; trying again",
}


def line(event: sse.Event, paint: Callable[[str, str], str]) -> str:
    """Return one line about an event, as wide as the terminal where it is one.

    :param paint: gives a text a colour, or leaves it.
    """
    try:
        envelope = event.envelope
    except ValueError:
        return _clean(event.raw)
    kind = event.type.removeprefix("market.flagon.")
    data = envelope.get("data")
    changed = data.get("changed") if isinstance(data, dict) else None
    words = [
        f"{name}={_short(data[name])}"
        for name in (changed or data or ())
        if isinstance(data, dict) and name in data
    ]
    moment = _clean(_moment(str(envelope.get("time", ""))))
    about = _clean(str(envelope.get("subject", "")))
    rest = _clean(" ".join(words))
    width = shutil.get_terminal_size((160, 24)).columns
    room = max(_NARROWEST, width - len(moment) - len(kind) - len(about) - 6)
    if len(rest) > room:
        rest = rest[: room - 1] + "…"
    first = next(iter(envelope.get("topics") or [""]))
    colour = _COLOURS.get(str(first).partition("/")[0], _OTHER_COLOUR)
    parts = [
        paint(moment, _DIM),
        paint(_clean(kind), colour),
        paint(about, _BOLD),
        rest,
    ]
    return "  ".join(part for part in parts if part)


def _short(value: object) -> str:
    if isinstance(value, dict | list):
        return "{…}" if isinstance(value, dict) else f"[{len(value)}]"
    return repr(value) if isinstance(value, str) else str(value)


def _moment(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text).astimezone()
    except ValueError:
        return text
    return moment.strftime("%H:%M:%S.") + f"{moment.microsecond // 1000:03}"


def _clean(text: str) -> str:
    """Return a text that cannot steer a terminal: others wrote it."""
    return "".join(c if c.isprintable() else "·" for c in text)


def _paint(where: TextIO) -> Callable[[str, str], str]:
    """Return what gives a text a colour on a terminal whose owner wants some."""
    # https://no-color.org
    if not where.isatty() or os.environ.get("NO_COLOR"):
        return lambda text, _colour: text
    return lambda text, colour: f"\033[{colour}m{text}\033[{_PLAIN}m" if text else ""
