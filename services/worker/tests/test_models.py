"""The tables are those of the models."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from flagon_worker.models import Base


class TestMigrations:
    def test_add_up_to_the_models(self, database_url):
        engine = create_engine(database_url, poolclass=NullPool)
        with engine.connect() as connection:
            context = MigrationContext.configure(
                connection,
                opts={
                    "compare_type": True,
                    "compare_server_default": True,
                    "include_name": lambda name, kind, _parents: (
                        kind != "table" or name in Base.metadata.tables
                    ),
                },
            )

            assert compare_metadata(context, Base.metadata) == []
