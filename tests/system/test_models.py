"""What is true of the tables of every service."""

from importlib import import_module

import pytest
from sqlalchemy.orm import configure_mappers

# Loaded with the row, or never by themselves.
EAGER = {"joined", "selectin", "subquery", "raise", "raise_on_sql", "noload"}


@pytest.mark.parametrize("service", ["auth", "catalog", "worker"])
class TestEveryRelationship:
    def test_asks_for_nothing_when_it_is_looked_at(self, service):
        """A query that an attribute hides is one for each row of a list."""
        base = import_module(f"flagon_{service}.models").Base
        configure_mappers()
        mappers = list(base.registry.mappers)

        hidden = [
            f"{relationship} is loaded by {relationship.lazy}"
            for mapper in mappers
            for relationship in mapper.relationships
            if relationship.lazy not in EAGER
        ]

        assert mappers
        assert hidden == []
