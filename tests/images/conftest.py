"""Images that are built from the checkout for these tests alone."""

import uuid

import pytest

from .engine import docker, required

# Whatever is in these folders on Debian, shells among it, but not Python.
_BARE = """
FROM {image}
USER 0
RUN ["python", "-c", "from pathlib import Path; \\
    [tool.unlink() for folder in ('bin', 'sbin') for tool in Path('/usr', folder).iterdir() \\
    if not tool.name.startswith('python')]"]
USER 10001:10001
"""


@pytest.fixture(scope="session")
def image():
    """The image of web."""
    required()
    name = f"flagon-web:test-{uuid.uuid4().hex}"
    docker("build", "--build-arg", "SERVICE=web", "--tag", name, ".")
    yield name
    docker("rmi", "--force", name)


@pytest.fixture(scope="session")
def bare(image):
    """The same without a shell and without any tool but Python."""
    name = f"{image}-bare"
    docker("build", "--tag", name, "-", given=_BARE.format(image=image))
    yield name
    docker("rmi", "--force", name)
