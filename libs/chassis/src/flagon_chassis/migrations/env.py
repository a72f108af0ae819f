"""What Alembic runs for every owner; the revisions are in the service's own folder."""

import time

from alembic import context
from sqlalchemy import text

# Two `migrate` commands at once must take turns: without the lock one of them fails with
# a duplicate table. The number only has to be the same for all.
_LOCK = {"lock": 728_114_001}

attributes = context.config.attributes
with attributes["engine"].connect() as connection:
    # Of the session and not of a transaction: each revision has its own, so that one that
    # takes long can commit in between (`autocommit_block`). Closing the connection gives
    # the lock away, as its death does.
    # Asked for again and again, because `create index concurrently` waits for everybody
    # who has a snapshot: whoever waited for the lock would wait in a circle with it.
    while not connection.scalar(text("select pg_try_advisory_lock(:lock)"), _LOCK):
        connection.rollback()
        time.sleep(0.1)
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=attributes.get("metadata"),
        compare_type=True,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()
