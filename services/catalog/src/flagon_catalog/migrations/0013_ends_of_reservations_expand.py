"""Expand: how and when a reservation ended get columns of their own, beside `state`.

The first of three releases (docs/patterns/expand-contract.md). Code from before goes on
with `state`; the trigger writes the other side, whichever side is written.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# A table that cannot be had at once is left alone: who waits for it makes all others wait.
PATIENCE = "set local lock_timeout = '3s'"

IN_STEP = """
create function reservation_in_step() returns trigger language plpgsql as $$
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
    -- What code from before writes with the end.
    new.ended_at := new.updated_at;
  end if;
  return new;
end $$;
create trigger reservation_in_step before insert or update on reservation
for each row execute function reservation_in_step();
"""
OUT_OF_STEP = """
drop trigger reservation_in_step on reservation;
drop function reservation_in_step();
"""


def upgrade() -> None:
    """Apply the change."""
    op.execute(PATIENCE)
    # Without values: no row is written anew.
    op.add_column("reservation", sa.Column("outcome", sa.Text(), nullable=True))
    op.add_column(
        "reservation", sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True)
    )
    op.execute(IN_STEP)


def downgrade() -> None:
    """Take the change back: `state` and `updated_at` say all that there was."""
    op.execute(PATIENCE)
    op.execute(OUT_OF_STEP)
    op.drop_column("reservation", "ended_at")
    op.drop_column("reservation", "outcome")
