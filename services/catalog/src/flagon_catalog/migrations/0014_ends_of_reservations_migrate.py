"""Migrate: reservations from before get their outcome and its time, a batch at a time.

The second of three releases: its code reads and writes the new columns alone. It may begin
when this is through, and it may be killed at any point: what is done stays done.
"""

from uuid import UUID

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

BATCH = 1000
"""Rows of one transaction: who ends one of them waits for milliseconds."""
FILL = """
with batch as (
  select id from reservation
  where id > :after and state <> 'held' and outcome is null
  order by id limit :batch for update
), filled as (
  update reservation set outcome = state from batch where reservation.id = batch.id
)
select id from batch order by id desc limit 1
"""
CHECKS = {
    "ck_reservation_outcome": "outcome in ('committed', 'released', 'expired')",
    "ck_reservation_ended": "(outcome is null) = (ended_at is null)",
}
INDEXES = {
    "ix_reservation_open": "(product_id, expires_at) include (quantity)",
    "ix_reservation_open_due": "(expires_at)",
}


def upgrade() -> None:
    """Apply the change; safe to begin anew."""
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        after: UUID | None = UUID(int=0)
        while after is not None:
            after = connection.scalar(sa.text(FILL), {"after": after, "batch": BATCH})
        for name, rule in CHECKS.items():
            op.execute(f"alter table reservation drop constraint if exists {name}")
            # Two steps, because looking at all rows in the first would lock them all.
            op.execute(
                f"alter table reservation add constraint {name} check ({rule}) not valid"
            )
            op.execute(f"alter table reservation validate constraint {name}")
        for name, columns in INDEXES.items():
            # One that was left half made is there and of no use.
            op.execute(f"drop index concurrently if exists {name}")
            op.execute(
                f"create index concurrently {name} on reservation {columns}"
                " where ended_at is null"
            )


def downgrade() -> None:
    """Take the change back: the values may stay, the trigger keeps them right."""
    for name in INDEXES:
        op.execute(f"drop index {name}")
    for name in CHECKS:
        op.drop_constraint(name, "reservation")
