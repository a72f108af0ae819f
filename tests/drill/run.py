"""Go to the next release and back under traffic, and write a report.

    make drill-upgrade [MODE=docker RATE=10 SEEN=60 FROM=<tag or commit> PORT_BASE=…]

Starts a stack of its own and forgets it. Ends with 1 when a promise was broken.
"""

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

sys.path.extend(
    str(Path(__file__).resolve().parents[1] / name) for name in ("e2e", "bench")
)

from drill_report import page, picture
from harness import engine
from harness.engine import ROOT
from harness.people import Person
from harness.stack import Stack
from harness.traffic import Traffic
from harness.upgrade import Drill, released, start

SERVICES = ("auth", "catalog", "worker", "realtime", "web")
"""Those that are called before those that call them."""


def main():
    """Run the drill and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", default="local")
    parser.add_argument("--port-base", type=int, required=True)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--seen", type=int, default=60)
    parser.add_argument("--from", dest="earlier", default="")
    asked = parser.parse_args([word for word in sys.argv[1:] if not word.endswith("=")])
    # Which of them this machine can do is not asked: they are two drills.
    mode = "docker" if asked.mode == "docker" else "local"
    if mode == "docker" and not engine.find():
        sys.exit("No container engine answers.\n  Next: make drill-upgrade MODE=local")
    stack = Stack(mode, asked.port_base)
    if stack.state.exists():
        sys.exit(
            f"{stack.state} is somebody's.\n  Next: make drill-upgrade PORT_BASE=…"
        )
    try:
        return drill(stack, asked)
    finally:
        stack.reset()


def drill(stack, asked):
    """Run it on a stack that is not there yet and write the report."""
    began = datetime.now(UTC)
    tree = released(stack, asked.earlier) if asked.earlier else None
    start(stack, tree)
    accounts = stack.accounts()
    run = Drill(stack, SERVICES, seen=asked.seen, earlier=tree)
    with (
        Person(stack, accounts["merchandiser"]) as person,
        Person(stack, accounts["operator"]) as operator,
        Traffic(stack, person, operator, "drill", rate=asked.rate) as traffic,
    ):
        try:
            run.run(traffic)
        finally:
            traffic.stop()
        seconds = traffic.now()
        traffic.settle()
        verdicts = traffic.verdicts()
    about = {
        "N": asked.earlier or "the checkout",
        "N+1": "the checkout" if tree else "the checkout with `deploy/drill/next`",
        "mode": "containers (Compose)"
        if stack.mode == "docker"
        else "processes (local)",
        "services": ", ".join(SERVICES),
        "began": began.isoformat(timespec="seconds"),
        "took": f"{seconds:.0f} s under traffic",
        "traffic": f"{asked.rate:g} requests a second at random moments, each asked once;"
        f" {traffic.turned_off} turned off by the program; {len(traffic.watchers)}"
        " clients of the event stream",
        "machine": f"{os.cpu_count()} processors; load average {os.getloadavg()[0]:.0f}"
        " at the end, with whatever else ran there",
    }
    folder = ROOT / ".run" / "reports" / f"drill-{began:%Y%m%dT%H%M%S}"
    folder.mkdir(parents=True)
    svg = picture(traffic.answers, traffic.marks, seconds)
    (folder / "upgrade.svg").write_text(svg)
    (folder / "upgrade.md").write_text(page(about, traffic, verdicts, "upgrade.svg"))
    for name, (held, said) in verdicts.items():
        print(f"{'ok   ' if held else 'WRONG'}  {name}: {said}")
    print(f"drill: {(folder / 'upgrade.md').relative_to(ROOT)}")
    return 0 if all(held for held, _ in verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
