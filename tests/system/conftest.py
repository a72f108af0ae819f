import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "deploy"), str(ROOT / "deploy/api")]
SERVICES = ("auth", "catalog", "realtime", "web", "worker")

# Enough to build each app; nothing is connected before the first request.
ENVIRONMENT = {
    "ENVIRONMENT": "testing",
    "SECRET_KEY": "k" * 32,
    "DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/none",
    "KEY_ENCRYPTION_KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "FILES_DIR": "/tmp/flagon-system-tests",
    "IMAGES_DIR": "/tmp/flagon-system-tests",
    "CLIENT_ID": "tests",
    "CLIENT_SECRET": "s" * 32,
}


@pytest.fixture(scope="session")
def apps():
    """Every service's app, by name."""
    with pytest.MonkeyPatch.context() as patch:
        for service in SERVICES:
            for name, value in ENVIRONMENT.items():
                patch.setenv(f"{service.upper()}_{name}", value)
        yield {
            service: import_module(f"flagon_{service}.app").create_app()
            for service in SERVICES
        }
