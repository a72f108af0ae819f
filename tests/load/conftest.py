"""The parts of the load program that need no platform and no Locust."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
