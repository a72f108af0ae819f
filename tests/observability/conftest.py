"""Rules, routes and dashboards, judged by the programs that read them."""

import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "deploy" / "observability"
for folder in ("deploy/observability", "deploy/local", "tests/e2e", "tests/drill"):
    sys.path.insert(0, str(ROOT / folder))

WORDS = {
    *("and", "or", "unless", "by", "on", "without", "ignoring", "bool", "offset"),
    *("group_left", "group_right", "inf", "nan"),
}


def all_rules():
    """Yield every rule of every file, with the name of the file."""
    for path in sorted((HOME / "rules").glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                yield path.name, rule


def metrics_in(expression):
    """Return the names of the metrics that an expression reads."""
    text = re.sub(r'"[^"]*"', '""', expression)
    named = set(re.findall(r'__name__=~?"([^"]+)"', expression))
    labels = r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)"
    text = re.sub(labels, "", text)
    text = re.sub(r"\{[^}]*\}", "", text)
    text = re.sub(r"\[[^\]]*\]|\boffset\s+\w+", "", text)
    found = re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?!\s*\()\b(?!\s*\()", text)
    return {one for one in found if one not in WORDS} | named


@pytest.fixture(scope="session")
def alerts():
    """Every alert by its name."""
    return {rule["alert"]: rule for _file, rule in all_rules() if "alert" in rule}
