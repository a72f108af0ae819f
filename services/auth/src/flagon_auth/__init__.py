"""Accounts and the OpenID Connect provider: the only service that signs tokens."""

from typing import Any


def __getattr__(name: str) -> Any:  # noqa: ANN401 (as the language has it)
    """Let `flask --app flagon_auth` find the factory; nothing is imported before that."""
    if name == "create_app":
        from .app import create_app  # noqa: PLC0415

        return create_app
    raise AttributeError(name)
