"""Rules, routes and dashboards, judged by the programs that read them."""

import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "deploy" / "observability"
for folder in ("deploy/observability", "deploy/local", "tests/e2e", "tests/drill"):
    sys.path.insert(0, str(ROOT / folder))


def all_rules():
    """Yield every rule of every file, with the name of the file."""
    for path in sorted((HOME / "rules").glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                yield path.name, rule


@pytest.fixture(scope="session")
def alerts():
    """Every alert by its name."""
    return {rule["alert"]: rule for _file, rule in all_rules() if "alert" in rule}
