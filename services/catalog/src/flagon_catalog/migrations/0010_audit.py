"""Who changed what; written once, and removed by age alone."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from flagon_chassis import tables

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# With the rights of the owner, because the service must not delete rows: whoever has taken
# it over could only hasten the end of what is 30 days old.
PURGE = """
create function audit_purge(days integer) returns integer
language plpgsql strict security definer set search_path = public, pg_temp as $$
declare gone integer;
begin
  if days < 30 then
    raise exception 'Rows are kept for 30 days at least.' using errcode = '22023';
  end if;
  delete from audit where sequence in (
    select sequence from audit where at < now() - make_interval(days => days)
    order by sequence limit 5000 for update skip locked
  );
  get diagnostics gone = row_count;
  return gone;
end $$
"""

# Who may write rows may have old ones removed: the service, and no reader.
ALLOW = """
do $$
declare name text;
begin
  revoke execute on function audit_purge(integer) from public;
  for name in
    select distinct grantee from information_schema.role_routine_grants
    where routine_name = 'audit_purge' and grantee not in (current_user, 'PUBLIC')
  loop
    execute format('revoke execute on function audit_purge(integer) from %I', name);
  end loop;
  for name in
    select distinct grantee from information_schema.role_table_grants
    where table_name = 'audit' and privilege_type = 'INSERT'
      and grantee not in (current_user, 'PUBLIC')
  loop
    execute format('grant execute on function audit_purge(integer) to %I', name);
  end loop;
end $$
"""


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "audit",
        sa.Column(
            "sequence", sa.BigInteger(), sa.Identity(always=True), nullable=False
        ),
        sa.Column(
            "at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("client", sa.Text(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("entity", sa.Text(), nullable=False),
        sa.Column("entity_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("changes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("trace_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_audit")),
    )
    op.create_index("ix_audit_entity_sequence", "audit", ["entity", "sequence"])
    op.create_index("ix_audit_entity_id_sequence", "audit", ["entity_id", "sequence"])
    op.create_index("ix_audit_actor_sequence", "audit", ["actor", "sequence"])
    op.create_index("ix_audit_at", "audit", ["at"], postgresql_using="brin")
    tables.append_only(op.get_bind(), "audit")
    op.execute(PURGE)
    op.execute(ALLOW)


def downgrade() -> None:
    """Take it back."""
    op.execute("drop function audit_purge(integer)")
    op.drop_table("audit")
