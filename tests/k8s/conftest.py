"""Manifests of overlays and combinations, built once for all tests."""

import shutil
import tempfile
from itertools import combinations, islice
from pathlib import Path

import pytest

from .manifests import COMPONENTS, OVERLAYS, ROOT, contained

_MIXTURES = 8
# Four of the eight mixtures for each component, the first among them: of two such sets each
# has one that the other lacks, and together they leave one out.
_IN = {
    name: {0, *three}
    for name, three in zip(
        COMPONENTS,
        islice(combinations(range(1, _MIXTURES), 3), len(COMPONENTS)),
        strict=True,
    )
}
COMBINATIONS = [
    (),
    *((one,) for one in COMPONENTS),
    *(
        tuple(name for name in COMPONENTS if number in _IN[name])
        for number in range(_MIXTURES)
    ),
]
"""The base alone, with each component, with all of them, and seven mixtures: of any two
components there is one with both, with either alone, and with neither."""
FURTHER = [
    (overlay, component)
    for overlay in OVERLAYS
    for component in COMPONENTS
    if component not in contained(overlay)
]
"""Each overlay with each component that it does not have."""


@pytest.fixture
def folder():
    """An empty folder below the checkout, which kustomizations can name others from."""
    (ROOT / "dist").mkdir(exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix="k8s.", dir=ROOT / "dist"))
    yield path
    shutil.rmtree(path)
