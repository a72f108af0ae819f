"""What must be true of the rows at every moment, whatever was killed or restored."""

from dataclasses import dataclass

from . import databases
from .processes import OWNERS
from .stack import Stack


@dataclass(frozen=True)
class Finding:
    """How many rows break one promise."""

    service: str
    promise: str
    broken: int


_OUTBOX = {
    "messages in the outbox are events or tasks, and none was sent before it was made": (
        "select count(*) from outbox"
        " where channel not in ('event', 'task') or sent_at < created_at"
    )
}

PROMISES: dict[str, dict[str, str]] = {
    "auth": {
        "one key of each algorithm signs": (
            "select count(*) from (select alg from signing_key group by alg"
            " having count(*) filter (where state = 'active') <> 1) as wrong"
        ),
        "a grant has at most one refresh token that can be used": (
            "select count(*) from (select from refresh_token where used_at is null"
            " group by token_grant_id having count(*) > 1) as wrong"
        ),
        **_OUTBOX,
    },
    "catalog": {
        "no more is put aside of a product than there is": (
            "select count(*) from (select product_id, sum(quantity) as held"
            " from reservation where ended_at is null and expires_at > now()"
            " group by product_id) as open"
            " left join product on product.id = open.product_id"
            " where product.id is null or held > stock"
        ),
        "the rating of a product is that of its published reviews": (
            "select count(*) from product left join (select product_id,"
            " count(*) as number, sum(rating) as total from review"
            " where state = 'published' group by product_id) as told"
            " on told.product_id = product.id"
            " where (rating_count, rating_sum)"
            " <> (coalesce(number, 0), coalesce(total, 0))"
        ),
        "the price of a product is the last of its prices": (
            "select count(*) from product join (select distinct on (product_id)"
            " product_id, price_minor, currency from price"
            " order by product_id, version desc) as last"
            " on last.product_id = product.id"
            " where (product.price_minor, product.currency)"
            " <> (last.price_minor, last.currency)"
        ),
        "the path of a category goes through its parents": (
            "select count(*) from category as child"
            " join category as parent on parent.id = child.parent_id"
            " where child.path <> parent.path || child.slug"
        ),
        "events of a product are sent in their order": (
            "select count(*) from (select"
            " min(sequence) filter (where sent_at is null) as waiting,"
            " max(sequence) filter (where sent_at is not null) as sent"
            " from outbox where name = 'market.flagon.product.changed.v1'"
            " group by subject) as told where waiting < sent"
        ),
        **_OUTBOX,
    },
    "worker": {
        "a job is in one state: finished with a time, or waiting, or in one hand": (
            "select count(*) from job where"
            " (state in ('succeeded', 'failed', 'cancelled'))"
            " <> (finished_at is not null)"
            " or lease_token is not null and state <> 'running'"
        ),
        "no job succeeded twice, and none that is finished is being tried": (
            "select count(*) from (select job_id from job_attempt"
            " join job on job.id = job_id group by job_id having"
            " count(*) filter (where outcome = 'succeeded') > 1 or count(*) filter"
            " (where ended_at is null and finished_at is not null) > 0) as wrong"
        ),
        "a delivery that ended is waited for no more": (
            "select count(*) from webhook_delivery"
            " where (state = 'waiting') = (ended_at is not null)"
        ),
        **_OUTBOX,
    },
}
"""For each owner of tables: what is promised, and the query that counts what breaks it."""


def check(stack: Stack) -> list[Finding]:
    """Ask each database, reading only, and return what each promise found.

    :raises flagonctl.problem.Problem: Postgres does not answer.
    """
    found = []
    for service in OWNERS:
        promises = PROMISES[service] | {
            "migrations are at head": _at_head(stack, service)
        }
        query = " union all ".join(
            f"select {number}, ({query})"
            for number, query in enumerate(promises.values())
        )
        names = list(promises)
        rows = databases.ask(stack, f"{service}_owner", service, query)
        found += [
            Finding(service, names[int(number)], int(broken)) for number, broken in rows
        ]
    return found


def _at_head(stack: Stack, service: str) -> str:
    folder = stack.root / "services" / service / "src" / f"flagon_{service}"
    newest = max(path.name for path in (folder / "migrations").glob("[0-9]*.py"))
    head = newest.partition("_")[0]
    query = "select 1 - count(*) from alembic_version where version_num = '{}'"
    return query.format(head)


def table(found: list[Finding]) -> str:
    """Return findings for people, a line each."""
    return "\n".join(
        f"{'ok   ' if one.broken == 0 else 'WRONG'}  {one.service:<8}  {one.promise}"
        + (f" ({one.broken} rows break it)" if one.broken else "")
        for one in found
    )
