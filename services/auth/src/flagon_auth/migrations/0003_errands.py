"""What is asked for until it is done; what is on its way begins with it."""

from alembic import op

from flagon_chassis import tables

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ADD = """
insert into errand (name, subject, id, body, headers, ask_at, until)
select '{task}', id::text, gen_random_uuid(),
    json_build_object('queue', 'mail', 'kwargs', json_build_object('{key}', id)),
    '{{}}', now() + interval '5 minutes', {until}
from {table} where {waiting}
"""


def upgrade() -> None:
    """Apply the change."""
    tables.create(op.get_bind(), "errand")
    op.execute(
        _ADD.format(
            task="worker.send_mail",
            key="mail_id",
            table="mail",
            until="expires_at",
            waiting="sent_at is null and expires_at > now()",
        )
    )
    op.execute(
        _ADD.format(
            task="worker.deliver_logout",
            key="notice_id",
            table="logout_notice",
            until="created_at + interval '7 days'",
            waiting="delivered_at is null and given_up_at is null"
            " and created_at > now() - interval '7 days'",
        )
    )


def downgrade() -> None:
    """Take the change back."""
    tables.drop(op.get_bind(), "errand")
