"""What Alembic runs for every owner; the revisions are in the service's own folder."""

from alembic import context
from sqlalchemy import text

# Two `migrate` commands at once must take turns: without the lock one of them fails with
# a duplicate table. The number only has to be the same for all.
_LOCK = 728_114_001

attributes = context.config.attributes
with attributes["engine"].connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=attributes.get("metadata"),
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        context.run_migrations()
