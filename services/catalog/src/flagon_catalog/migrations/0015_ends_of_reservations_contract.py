"""Contract: nobody reads or writes `state` of reservations any more, so it goes.

The last of three releases. With the column go its check and the indexes that name it.
"""

from uuid import UUID

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

PATIENCE = "set local lock_timeout = '3s'"
BATCH = 1000
FILL = """
with batch as (
  select id from reservation where id > :after and state is null
  order by id limit :batch for update
), filled as (
  update reservation set state = coalesce(outcome, 'held')
  from batch where reservation.id = batch.id
)
select id from batch order by id desc limit 1
"""
# As they are in 0013 and 0002: a revision stands alone.
IN_STEP = """
create or replace function reservation_in_step() returns trigger language plpgsql as $$
begin
  if new.state is null then
    new.state := coalesce(new.outcome, 'held');
  elsif tg_op = 'UPDATE' and new.outcome is distinct from old.outcome then
    new.state := coalesce(new.outcome, 'held');
  else
    new.outcome := nullif(new.state, 'held');
  end if;
  if new.outcome is null then
    new.ended_at := null;
  elsif new.ended_at is null then
    new.ended_at := new.updated_at;
  end if;
  return new;
end $$;
create or replace trigger reservation_in_step before insert or update on reservation
for each row execute function reservation_in_step();
"""
INDEXES = {
    "ix_reservation_held": "(product_id, expires_at) include (quantity)",
    "ix_reservation_due": "(expires_at)",
}
STATES = "state in ('held', 'committed', 'released', 'expired')"


def upgrade() -> None:
    """Apply the change."""
    op.execute(PATIENCE)
    op.execute("drop trigger reservation_in_step on reservation")
    op.execute("drop function reservation_in_step()")
    op.drop_column("reservation", "state")


def downgrade() -> None:
    """Take the change back; safe to begin anew."""
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        op.execute("alter table reservation add column if not exists state text")
        op.execute(IN_STEP)
        after: UUID | None = UUID(int=0)
        while after is not None:
            after = connection.scalar(sa.text(FILL), {"after": after, "batch": BATCH})
        # With a check that is known to hold, `set not null` need not look at the rows.
        for name, rule in {
            "ck_reservation_state": STATES,
            "filled": "state is not null",
        }.items():
            op.execute(f"alter table reservation drop constraint if exists {name}")
            op.execute(
                f"alter table reservation add constraint {name} check ({rule}) not valid"
            )
            op.execute(f"alter table reservation validate constraint {name}")
        op.execute("alter table reservation alter column state set not null")
        op.execute("alter table reservation drop constraint filled")
        for name, columns in INDEXES.items():
            op.execute(f"drop index concurrently if exists {name}")
            op.execute(
                f"create index concurrently {name} on reservation {columns}"
                " where state = 'held'"
            )
