"""Where the generators are, and the words that rules of manifests already have."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
DEPLOY = TESTS.parent / "deploy"

sys.path[:0] = [str(DEPLOY / "places"), str(DEPLOY / "local"), str(TESTS)]
