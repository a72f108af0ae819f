"""Manifests of overlays and combinations, built once for all tests."""

import shutil
import tempfile
from itertools import combinations
from pathlib import Path

import pytest

from .manifests import COMPONENTS, ROOT

COMBINATIONS = [
    (),
    *((one,) for one in COMPONENTS),
    *combinations(COMPONENTS, 2),
    tuple(COMPONENTS),
]
"""The base alone, with each component, with each pair, and with all of them."""


@pytest.fixture
def folder():
    """An empty folder below the checkout, which kustomizations can name others from."""
    (ROOT / "dist").mkdir(exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix="k8s.", dir=ROOT / "dist"))
    yield path
    shutil.rmtree(path)
