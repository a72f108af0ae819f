"""`make slo` and `make dashboards`: write what is made of other files, or say it is old.

python -m flagonobs slo           rules/slo.yml and docs/slos.md, made of slos.yml, and
                                  what Kubernetes is given of the rules
python -m flagonobs dashboards    dashboards/*.json, made of flagonobs/dashboards
"""

import argparse
import sys
from pathlib import Path

from . import cluster, slo

ROOT = Path(__file__).parents[3]
HOME = ROOT / "deploy" / "observability"


def made(what: str) -> dict[Path, str]:
    """Return every file that is made, by its place."""
    if what == "slo":
        objectives = slo.load(HOME / "slos.yml")
        rules = slo.rules_text(objectives)
        red = (HOME / "rules" / "red.yml").read_text()
        alerts = (HOME / "rules" / "alerts.yml").read_text()
        components = ROOT / "deploy" / "k8s" / "components"
        return {
            HOME / "rules" / "slo.yml": rules,
            ROOT / "docs" / "slos.md": slo.page(objectives),
            components / "prometheus" / "rules.yaml": slo.objects(
                {"red": red, "slo": rules, "alerts": cluster.alerts(alerts)}
            ),
            components / "exporters" / "rules.yaml": slo.objects(
                {"stores": cluster.alerts(alerts, exporters=True)}
            ),
            components / "rollouts" / "analysis.yaml": slo.analysis(objectives),
        }
    # The library of the dashboards takes a second to load.
    from . import dashboards  # noqa: PLC0415

    return {
        HOME / "dashboards" / f"{name}.json": text
        for name, text in dashboards.texts().items()
    }


def main() -> int:
    """Write the files that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["slo", "dashboards"])
    files = made(parser.parse_args().what)
    for path, text in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
