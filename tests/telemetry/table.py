"""What a click path must leave behind: by step, the spans with their parents, the log
events and the metrics.

Statements and commands count once for each parent, as `sql` and `redis`: how many there
are is the code's business. An id in a path is `<id>`.
"""

from dataclasses import dataclass, field

Step = tuple[str, str]
"""A service and what it did."""


@dataclass(frozen=True)
class Expected:
    """What one step leaves behind, no more and no less."""

    spans: dict[Step, set[Step | None]]
    """By span, its parents in the step's trace; None at the root."""
    logs: set[Step]
    metrics: dict[str, float]
    """By expression of Prometheus, by how much it grows."""
    perhaps: dict[Step, set[Step | None]] = field(default_factory=dict)
    """Spans that are there at times: a service token is good for minutes, and known
    tokens need no look at the denylist."""
    perhaps_logs: set[Step] = field(default_factory=set)
    """Log events of those."""


TOKEN = ("auth", "POST /oauth/token")
CHANGE = ("catalog", "PATCH /api/v1/products/<uuid:product_id>")
CHANGED = "market.flagon.product.changed.v1"
PUBLISHED, CONSUMED = (
    ("catalog", f"publish {CHANGED}"),
    ("worker", f"consume {CHANGED}"),
)
SUBMIT, JOB = ("worker", "POST /api/v1/jobs"), ("worker", "job import")
SEND, RUN = ("worker", "send worker.run_job"), ("worker", "run worker.run_job")
CALL, BULK = ("worker", "POST catalog"), ("catalog", "POST /api/v1/products/bulk")
ASK = ("worker", "POST auth")
DROPPED = "market.flagon.price.dropped.v1"
CLICK = ("web", "POST /products/<ref:ref>/price")
BOOK = ("catalog", "GET /api/v1/products/by-slug/<slug>")
NOTED, SEEN = ("worker", f"publish {DROPPED}"), ("worker", f"consume {DROPPED}")
TELL, TOLD = ("worker", "send worker.tell_price"), ("worker", "run worker.tell_price")
ORDER = ("auth", "PUT /internal/mails/<uuid:mail_id>")
POST, POSTMAN = ("auth", "send worker.send_mail"), ("worker", "run worker.send_mail")
LETTER = ("auth", "POST /internal/mails/<uuid:mail_id>")
RECEIPT = (
    "auth",
    "POST /internal/mails/<uuid:mail_id>/<any(sent, returned, refused):outcome>",
)
JOB_CHANGED = "market.flagon.job.changed.v1"
JOB_PROGRESSED = "market.flagon.job.progressed.v1"


def requests(service: str, method: str, rule: str) -> str:
    """Return the expression for the number of requests that a route has answered."""
    labels = f'service="{service}",method="{method}",url_rule="{rule}"'
    return f"sum(flask_http_request_duration_seconds_count{{{labels}}})"


def published(type_: str) -> str:
    """Return the expression for the number of events of a type in the stream."""
    return f'sum(flagon_events_published_total{{type="{type_}"}})'


def consumed(type_: str) -> str:
    """Return the expression for the number of events that had their effect."""
    labels = f'type="{type_}",outcome="handled"'
    return f"sum(flagon_events_consumed_total{{{labels}}})"


SIGN_IN = Expected(
    spans={
        ("gateway", "POST /oauth/token"): {None},
        TOKEN: {("gateway", "POST /oauth/token")},
        ("auth", "sql"): {TOKEN},
    },
    logs={("gateway", "request"), ("auth", "request")},
    metrics={requests("auth", "POST", "/oauth/token"): 1},
)

CHANGE_PRODUCT = Expected(
    spans={
        ("gateway", "PATCH /api/v1/products/<id>"): {None},
        CHANGE: {("gateway", "PATCH /api/v1/products/<id>")},
        ("catalog", "sql"): {CHANGE},
        ("catalog", "redis"): {CHANGE, PUBLISHED},
        PUBLISHED: {CHANGE},
        CONSUMED: {CHANGE},
        ("worker", "sql"): {CONSUMED},
        ("realtime", "deliver"): {CHANGE},
    },
    logs={("gateway", "request"), ("catalog", "request")},
    metrics={
        requests("catalog", "PATCH", "/api/v1/products/<uuid:product_id>"): 1,
        published(CHANGED): 1,
        consumed(CHANGED): 1,
        "sum(flagon_sse_delivered_total)": 1,
        "sum(flagon_sse_delivery_seconds_count)": 1,
    },
)

ROWS = 5
"""Of the file that is imported."""

IMPORT = Expected(
    spans={
        ("gateway", "POST /api/v1/jobs"): {None},
        SUBMIT: {("gateway", "POST /api/v1/jobs")},
        SEND: {SUBMIT},
        RUN: {SEND},
        JOB: {SUBMIT},
        CALL: {JOB},
        BULK: {CALL},
        PUBLISHED: {BULK},
        CONSUMED: {BULK},
        ("realtime", "deliver"): {BULK},
        ("worker", f"publish {JOB_CHANGED}"): {SUBMIT, JOB},
        ("worker", f"consume {JOB_CHANGED}"): {SUBMIT, JOB},
        ("worker", f"publish {JOB_PROGRESSED}"): {JOB},
        ("worker", f"consume {JOB_PROGRESSED}"): {JOB},
        ("catalog", "sql"): {BULK},
        ("catalog", "redis"): {BULK, PUBLISHED},
        ("worker", "sql"): {
            SUBMIT,
            RUN,
            JOB,
            CONSUMED,
            ("worker", f"consume {JOB_CHANGED}"),
        },
        ("worker", "redis"): {SEND, ("worker", f"publish {JOB_CHANGED}")},
    },
    logs={
        ("gateway", "request"),
        ("worker", "request"),
        ("worker", "task"),
        ("worker", "job_turn"),
        ("catalog", "request"),
    },
    metrics={
        requests("worker", "POST", "/api/v1/jobs"): 1,
        requests("catalog", "POST", "/api/v1/products/bulk"): 1,
        published(CHANGED): ROWS,
        consumed(CHANGED): ROWS,
        'sum(flagon_tasks_published_total{task="worker.run_job"})': 1,
        'sum(flagon_task_run_seconds_count{task="worker.run_job"})': 1,
        'sum(flagon_jobs_total{kind="import",outcome="succeeded"})': 1,
    },
    perhaps={
        ASK: {CALL},
        TOKEN: {ASK},
        ("auth", "sql"): {TOKEN},
        ("auth", "redis"): {TOKEN},
        # Tokens that are known need no look at the denylist, and what is sent or handled
        # together with something earlier shows there.
        ("worker", "redis"): {SUBMIT, ("worker", f"publish {JOB_PROGRESSED}")},
        ("worker", "sql"): {("worker", f"consume {JOB_PROGRESSED}")},
    },
    perhaps_logs={("auth", "request")},
)

LOWER_PRICE = Expected(
    spans={
        ("gateway", "POST /products/cup-<word>/price"): {None},
        CLICK: {("gateway", "POST /products/cup-<word>/price")},
        ("web", "redis"): {CLICK},
        ("web", "GET catalog"): {CLICK},
        BOOK: {("web", "GET catalog")},
        ("web", "PATCH catalog"): {CLICK},
        CHANGE: {("web", "PATCH catalog")},
        ("catalog", "sql"): {CHANGE},
        ("catalog", "redis"): {CHANGE, PUBLISHED},
        PUBLISHED: {CHANGE},
        CONSUMED: {CHANGE},
        ("realtime", "deliver"): {CHANGE},
        NOTED: {CONSUMED},
        SEEN: {CONSUMED},
        TELL: {CONSUMED},
        TOLD: {TELL},
        ("worker", "PUT auth"): {TOLD},
        ORDER: {("worker", "PUT auth")},
        POST: {ORDER},
        POSTMAN: {POST},
        ("worker", "POST auth"): {POSTMAN},
        LETTER: {("worker", "POST auth")},
        RECEIPT: {("worker", "POST auth")},
        ("worker", "sql"): {CONSUMED, SEEN, TOLD},
        ("auth", "sql"): {ORDER, LETTER, RECEIPT},
        ("auth", "redis"): {POST},
    },
    logs={
        ("gateway", "request"),
        ("web", "request"),
        ("catalog", "request"),
        ("auth", "request"),
        ("worker", "task"),
        ("worker", "price_told"),
        ("worker", "mail"),
    },
    metrics={
        requests("web", "POST", "/products/<ref:ref>/price"): 1,
        requests("catalog", "PATCH", "/api/v1/products/<uuid:product_id>"): 1,
        published(CHANGED): 1,
        consumed(CHANGED): 1,
        published(DROPPED): 1,
        "sum(flagon_sse_delivered_total)": 1,
        'sum(flagon_tasks_published_total{task="worker.tell_price"})': 1,
        'sum(flagon_task_run_seconds_count{task="worker.tell_price"})': 1,
        'sum(flagon_task_run_seconds_count{task="worker.send_mail"})': 1,
    },
    perhaps={
        # Whichever call finds the worker's own token too old asks for another.
        ("worker", "POST auth"): {("worker", "PUT auth"), ("worker", "POST auth")},
        TOKEN: {("worker", "POST auth")},
        # Kept answers need no statement, and known tokens no look at the denylist.
        ("catalog", "sql"): {BOOK},
        ("catalog", "redis"): {BOOK},
        ("auth", "sql"): {TOKEN},
        ("auth", "redis"): {TOKEN, ORDER, LETTER, RECEIPT},
        # What is sent together with something earlier shows there.
        ("worker", "redis"): {NOTED, TELL},
    },
)
"""Somebody lowers a price on a page, and somebody else gets a mail."""
