"""What is on which dashboard."""

from .panels import Board, Panel, graph, lines, number, text

_SERVICES = ("auth", "catalog", "realtime", "worker", "web")
_FRONT = "auth|catalog|realtime|worker|web"
_WITH_DATABASE = ("auth", "catalog", "worker")
_HTTP = "flask_http_request_duration_seconds"


def texts() -> dict[str, str]:
    """Return the JSON of every dashboard by its name."""
    return {board.name: text(board) for board in boards()}


def boards() -> list[Board]:
    """Return every dashboard."""
    return [
        _overview(),
        *(_service(name) for name in _SERVICES),
        _gateway(),
        _shop(),
        _jobs(),
        _events(),
        _streams(),
        _postgres(),
        _redis(),
        _identity(),
        _releases(),
        _capacity(),
        _telemetry(),
    ]


def _red(selector: str, by: str, on: str) -> list[Panel]:
    """Return rate, errors and duration of what a selector chooses."""
    rate = f"sum by ({by}) (rate({_HTTP}_count{{{selector}}}[5m]))"
    failed = f'sum by ({by}) (rate({_HTTP}_count{{{selector},status=~"5.."}}[5m]))'
    buckets = f"sum by ({by}, le) (rate({_HTTP}_bucket{{{selector}}}[5m]))"
    legend = f"{{{{{by}}}}}"
    return [
        graph(
            "Rate",
            "Requests a second. A sudden drop is as bad a sign as a sudden rise.",
            "reqps",
            (rate, legend),
            on=on,
        ),
        graph(
            "Errors",
            "Part of the requests answered with 500 or more. Zero is drawn, too.",
            "percentunit",
            (f"({failed} or 0 * {rate}) / ({rate} > 0)", legend),
            on=on,
            red=0.001,
        ),
        graph(
            "Duration, p95",
            "95 % of the requests took less, as the service measures it.",
            "s",
            (f"histogram_quantile(0.95, {buckets})", legend),
            on=on,
            red=0.1,
        ),
    ]


def _overview() -> Board:
    return Board(
        "overview",
        "Flagon",
        "Whether the promises are kept, and where to look when not.",
        {
            "Promises": [
                number(
                    "Budget left",
                    "Of what may go wrong in 30 days, the part that is left. Below zero the"
                    " promise is broken.",
                    "percentunit",
                    "slo:budget_remaining:ratio",
                    legend="{{slo}}",
                    on="telemetry",
                    span=12,
                    red=0.1,
                    better="high",
                ),
                number(
                    "Alerts that fire",
                    "By severity; the list is in Alertmanager.",
                    "short",
                    'count by (severity) (ALERTS{alertstate="firing"}) or vector(0)',
                    legend="{{severity}}",
                    on="telemetry",
                    red=1,
                ),
                number(
                    "Processes that answer",
                    "Of those that Prometheus asks.",
                    "percentunit",
                    'avg(up{job="flagon"})',
                    on="telemetry",
                    runbook="service-down",
                    red=1,
                    better="high",
                ),
                graph(
                    "How fast the budget is spent",
                    "1 spends it in just 30 days; 14.4 for an hour wakes somebody.",
                    "none",
                    (
                        "slo:errors:ratio_rate1h / on (slo) (1 - slo:objective:ratio)",
                        "{{slo}}",
                    ),
                    on="telemetry",
                    span=24,
                    red=14.4,
                ),
            ],
            "Services": _red(f'service=~"{_FRONT}"', "service", "capacity"),
            "Who asks whom": [
                lines(
                    "Topology",
                    "Calls, messages and pages a second between the parts of the platform."
                    " What reaches a service and no service has sent came by the gateway.",
                    "ops",
                    _edges(),
                    on="capacity",
                ),
            ],
            "What carries events and jobs": [
                graph(
                    "Age of what waits to be sent",
                    "The oldest row of each outbox.",
                    "s",
                    ("max by (service) (flagon_outbox_oldest_seconds)", "{{service}}"),
                    on="events",
                    runbook="outbox-old",
                    red=60,
                ),
                graph(
                    "Age of what waits to be worked on",
                    "The task that is next in each queue.",
                    "s",
                    ("max by (queue) (flagon_queue_oldest_seconds)", "{{queue}}"),
                    on="jobs",
                    runbook="queue-old",
                    red=60,
                ),
                graph(
                    "Open streams",
                    "Pages that are told of changes as they happen.",
                    "short",
                    ("sum(flagon_sse_connections)", "streams"),
                    on="streams",
                ),
            ],
        },
    )


def _edges() -> str:
    """Return the rate of each edge of the platform, by `source` and `target`.

    Edges come from what both ends count anyway: nothing is measured for them.
    """

    def edge(rate: str, source: str, target: str) -> str:
        """Return a rate by its two ends: a label in parentheses, or a name."""
        found = rate
        for end, name in (("source", source), ("target", target)):
            label = name.strip("()")
            told = ("$1", label, "(.+)") if name != label else (name, "", "")
            words = ", ".join(f'"{word}"' for word in (end, *told))
            found = f"label_replace({found}, {words})"
        return f"sum by (source, target) ({found})"

    def rate(metric: str, labels: str = "") -> str:
        return f"rate({metric}{labels}[5m])"

    # Worker asks the catalog as two clients, so that one may give up without the other.
    asked = rate("flagon_client_request_duration_seconds_count")
    asked = f'label_replace({asked}, "client", "catalog", "client", "products")'
    calls = edge(asked, "(service)", "(client)")
    taken = edge(rate(f"{_HTTP}_count", f'{{service=~"{_FRONT}"}}'), "", "(service)")
    inside = f"sum by (target) ({calls})"
    every = f"sum by (target) ({taken})"
    outside = f"clamp_min({every} - ({inside} or 0 * {every}), 0)"
    return " or ".join(
        [
            f'label_replace({outside}, "source", "gateway", "", "")',
            calls,
            edge(rate("flagon_events_published_total"), "(service)", "events"),
            edge(rate("flagon_events_consumed_total"), "events", "(service)"),
            edge(rate("flagon_tasks_published_total"), "(service)", "queues"),
            edge(rate("flagon_task_run_seconds_count"), "queues", "(service)"),
            edge(rate("flagon_sse_delivered_total"), "(service)", "pages"),
        ]
    )


def _service(name: str) -> Board:
    own = f'service="{name}"'
    return Board(
        name,
        f"Service: {name}",
        f"Rate, errors and duration of {name}, by route, and whom it asks.",
        {
            "Routes": _red(own, "url_rule", f"traces:{name}"),
            "Requests": [
                graph(
                    "Answers by status",
                    "4xx are refusals that were expected; 5xx are faults.",
                    "reqps",
                    (
                        f"sum by (status) (rate({_HTTP}_count{{{own}}}[5m]))",
                        "{{status}}",
                    ),
                    on=f"traces:{name}",
                ),
                graph(
                    "Time taken in all",
                    "Seconds of requests in each second: the number of requests that are in"
                    " work at once, on average.",
                    "none",
                    (
                        f"sum by (method) (rate({_HTTP}_sum{{{own}}}[5m]))",
                        "{{method}}",
                    ),
                    on="capacity",
                ),
                graph(
                    "Processes that answer",
                    "1 is up, 0 is down: the service and what runs beside it.",
                    "none",
                    (f'up{{job="flagon",{own}}}', "{{instance}}"),
                    on="telemetry",
                    runbook="service-down",
                ),
            ],
            **_extras(name),
            **(_pool(name) if name in _WITH_DATABASE else {}),
        },
    )


def _pool(name: str) -> dict[str, list[Panel]]:
    """Return the row about the database connections of one service."""
    own = f'service="{name}"'
    waits = f"rate(flagon_db_pool_wait_seconds_bucket{{{own}}}[5m])"
    return {
        "Database connections": [
            graph(
                "In use",
                "Connections that requests and tasks have at this moment, and how many"
                " they may have in all processes together.",
                "short",
                (f"sum(flagon_db_pool_in_use{{{own}}})", "in use"),
                (f"sum(flagon_db_pool_size{{{own}}})", "most"),
                on="postgres",
            ),
            graph(
                "Wait for a connection, p95",
                "Also the time to make a new one. It rises when the pool is too small, or"
                " when transactions take too long.",
                "s",
                (f"histogram_quantile(0.95, sum by (le) ({waits}))", "p95"),
                on=f"traces:{name}",
                red=0.1,
            ),
            graph(
                "No connection in time",
                "Requests and tasks that gave up waiting; a caller gets a 503.",
                "ops",
                (f"sum(rate(flagon_db_pool_timeouts_total{{{own}}}[5m]))", "given up"),
                on=f"traces:{name}",
                red=0.01,
            ),
        ]
    }


def _extras(name: str) -> dict[str, list[Panel]]:
    """Return the rows that one service has and the others have not."""
    calls = graph(
        "Calls to others, p95",
        "All attempts of one call together, by who was asked and how it ended.",
        "s",
        (
            (
                "histogram_quantile(0.95, sum by (client, outcome, le) (rate("
                f'flagon_client_request_duration_seconds_bucket{{service="{name}"}}[5m])))'
            ),
            "{{client}} {{outcome}}",
        ),
        on=f"traces:{name}",
        span=12,
    )
    circuits = graph(
        "Circuit breakers",
        "0 closed, 1 lets one call try, 2 open.",
        "none",
        (
            f'max by (client) (flagon_circuit_state{{service="{name}"}})',
            "{{client}}",
        ),
        on=f"traces:{name}",
        runbook="circuit-open",
        span=12,
        red=2,
    )
    if name == "web":
        return {"Whom it asks": [calls, circuits]}
    if name == "catalog":
        asked = 'flagon_cache_requests_total{service="catalog"}'
        return {
            "Answer cache": [
                graph(
                    "Answers that needed no database",
                    "By what became of the question to the cache.",
                    "ops",
                    (f"sum by (outcome) (rate({asked}[5m]))", "{{outcome}}"),
                    on="redis",
                    span=12,
                ),
                graph(
                    "Transactions that were tried again",
                    "By why: deadlocks and serialization failures are the database's"
                    " arbitration and not faults.",
                    "ops",
                    (
                        (
                            "sum by (reason) (rate(flagon_transaction_retries_total[5m]))"
                            " or vector(0)"
                        ),
                        "{{reason}}",
                    ),
                    on="postgres",
                    span=12,
                ),
            ],
            "GraphQL and what is retired": [
                graph(
                    "GraphQL requests",
                    "By how they ended, with the names of the operations that are kept.",
                    "reqps",
                    (
                        (
                            "sum by (outcome, operation)"
                            " (rate(flagon_catalog_graphql_total[5m])) or vector(0)"
                        ),
                        "{{outcome}} {{operation}}",
                    ),
                    on="traces:catalog",
                ),
                graph(
                    "Cost of a query, p95",
                    "As it is weighed before it runs; what costs too much is refused.",
                    "none",
                    (
                        (
                            "histogram_quantile(0.95, sum by (le)"
                            " (rate(flagon_catalog_graphql_cost_bucket[5m])))"
                        ),
                        "p95",
                    ),
                    on="traces:catalog",
                ),
                graph(
                    "Requests that use what is retired",
                    "It can go when nobody asks for it any more.",
                    "reqps",
                    (
                        (
                            "sum by (name) (rate(flagon_retired_requests_total[5m]))"
                            " or vector(0)"
                        ),
                        "{{name}}",
                    ),
                    on="traces:catalog",
                ),
            ],
        }
    return {}


def _gateway() -> Board:
    return Board(
        "gateway",
        "Gateway",
        "The one way in: connections, and how it looks from outside.",
        {
            "From outside": [
                number(
                    "Answers over TLS",
                    "1: a client from outside got a page.",
                    "none",
                    'min(probe_success{instance="gateway"})',
                    on="overview",
                    runbook="gateway-down",
                    red=1,
                    better="high",
                ),
                number(
                    "Certificate is good for",
                    "It is renewed long before its end; two weeks are too few.",
                    "dtdurations",
                    'min(probe_ssl_earliest_cert_expiry{instance="gateway"}) - time()',
                    on="overview",
                    runbook="certificate-expires",
                    red=14 * 86_400,
                    better="high",
                ),
                graph(
                    "Time to a page, by phase",
                    "Of one request every five seconds.",
                    "s",
                    (
                        (
                            "sum by (phase) (probe_http_duration_seconds"
                            '{instance="gateway"})'
                        ),
                        "{{phase}}",
                    ),
                    on="overview",
                    span=12,
                ),
            ],
            "nginx": [
                graph(
                    "Requests",
                    "All of them, also those that reach no service.",
                    "reqps",
                    ("sum(rate(nginx_http_requests_total[5m]))", "requests"),
                    on="overview",
                ),
                graph(
                    "Connections",
                    "Waiting ones are kept open for a next request; writing ones hold"
                    " streams, too.",
                    "short",
                    ("sum(nginx_connections_reading)", "reading"),
                    ("sum(nginx_connections_writing)", "writing"),
                    ("sum(nginx_connections_waiting)", "waiting"),
                    on="streams",
                ),
                graph(
                    "Connections refused",
                    "Accepted and not handled: nginx has too few places.",
                    "cps",
                    (
                        (
                            "sum(rate(nginx_connections_accepted[5m]))"
                            " - sum(rate(nginx_connections_handled[5m]))"
                        ),
                        "refused",
                    ),
                    on="capacity",
                    red=1,
                ),
            ],
        },
    )


def _shop() -> Board:
    published = "flagon_events_published_total"
    return Board(
        "shop",
        "Shop",
        "What people do with it: whether it is used as on any other day.",
        {
            "Products": [
                graph(
                    "Changes of products",
                    "By what happened, as the catalog told it.",
                    "ops",
                    (
                        f'sum by (type) (rate({published}{{type=~".*product.*"}}[5m]))',
                        "{{type}}",
                    ),
                    on="events",
                    span=12,
                ),
                graph(
                    "Imports",
                    "Turns at imports by how they ended.",
                    "ops",
                    (
                        (
                            "sum by (outcome)"
                            ' (rate(flagon_jobs_total{kind="import"}[5m]))'
                        ),
                        "{{outcome}}",
                    ),
                    on="jobs",
                    span=12,
                ),
            ],
            "People": [
                graph(
                    "Reviews",
                    "By what was done: written by customers, published and rejected by"
                    " moderators.",
                    "ops",
                    (
                        "sum by (outcome) (rate(flagon_reviews_total[5m]))",
                        "{{outcome}}",
                    ),
                    on="catalog",
                ),
                graph(
                    "Prices that are watched",
                    "Watches that people hold.",
                    "short",
                    ("max(flagon_watches_held)", "watches"),
                    on="worker",
                ),
                graph(
                    "Watches of prices",
                    "Begun and ended by people; `ordered` is a mail about a lower price.",
                    "ops",
                    (
                        "sum by (outcome) (rate(flagon_watches_total[5m]))",
                        "{{outcome}}",
                    ),
                    on="worker",
                ),
            ],
        },
    )


def _jobs() -> Board:
    return Board(
        "jobs",
        "Jobs and tasks",
        "What people started, and the queues it waits in.",
        {
            "Queues": [
                graph(
                    "Depth",
                    "Tasks that wait.",
                    "short",
                    ("max by (queue) (flagon_queue_depth)", "{{queue}}"),
                    on="redis",
                    span=6,
                ),
                graph(
                    "In flight",
                    "Tasks that Celery's workers have in hand; mails are not among them"
                    " where RQ has them.",
                    "short",
                    ("sum by (queue) (flagon_queue_in_flight)", "{{queue}}"),
                    on="traces:worker",
                    span=6,
                ),
                graph(
                    "Age of the next",
                    "How long the task that is next has waited.",
                    "s",
                    ("max by (queue) (flagon_queue_oldest_seconds)", "{{queue}}"),
                    on="capacity",
                    runbook="queue-old",
                    span=6,
                    red=60,
                ),
                graph(
                    "Wait before the start, p95",
                    "From the wish to the start, outbox and relay included.",
                    "s",
                    (
                        (
                            "histogram_quantile(0.95, sum by (queue, le)"
                            " (rate(flagon_task_wait_seconds_bucket[5m])))"
                        ),
                        "{{queue}}",
                    ),
                    on="events",
                    span=6,
                    red=2,
                ),
            ],
            "Tasks": [
                graph(
                    "Attempts by how they ended",
                    "`retried` come again; `failed` and `rejected` do not.",
                    "ops",
                    (
                        "sum by (outcome) (rate(flagon_task_run_seconds_count[5m]))",
                        "{{outcome}}",
                    ),
                    on="traces:worker",
                    runbook="tasks-given-up",
                    span=12,
                ),
                graph(
                    "Duration of one attempt, p95",
                    "By task.",
                    "s",
                    (
                        (
                            "histogram_quantile(0.95, sum by (task, le)"
                            " (rate(flagon_task_run_seconds_bucket[5m])))"
                        ),
                        "{{task}}",
                    ),
                    on="traces:worker",
                    span=12,
                ),
            ],
            "Jobs": [
                graph(
                    "Turns by how they ended",
                    "A job has several turns when it is long or its worker dies.",
                    "ops",
                    (
                        "sum by (kind, outcome) (rate(flagon_jobs_total[5m]))",
                        "{{kind}} {{outcome}}",
                    ),
                    on="worker",
                    runbook="jobs-crash",
                ),
                graph(
                    "From ready to start, p95",
                    "By kind.",
                    "s",
                    (
                        (
                            "histogram_quantile(0.95, sum by (kind, le)"
                            " (rate(flagon_job_queue_seconds_bucket[5m])))"
                        ),
                        "{{kind}}",
                    ),
                    on="worker",
                ),
                graph(
                    "From start to end, p95",
                    "By kind; pauses count.",
                    "s",
                    (
                        (
                            "histogram_quantile(0.95, sum by (kind, le)"
                            " (rate(flagon_job_run_seconds_bucket[5m])))"
                        ),
                        "{{kind}}",
                    ),
                    on="worker",
                ),
            ],
            "Mails and webhooks": [
                graph(
                    "Attempts to send mail",
                    "By how they ended.",
                    "ops",
                    (
                        "sum by (outcome) (rate(flagon_mails_total[5m])) or vector(0)",
                        "{{outcome}}",
                    ),
                    on="identity",
                    runbook="mails-postponed",
                ),
                graph(
                    "Attempts to deliver webhooks",
                    "By how they ended; what was not taken is tried again for hours.",
                    "ops",
                    (
                        (
                            "sum by (outcome) (rate(flagon_webhooks_total[5m]))"
                            " or vector(0)"
                        ),
                        "{{outcome}}",
                    ),
                    on="worker",
                ),
                graph(
                    "Messages that nobody can read",
                    "Thrown away by the worker of the mails, where RQ has them.",
                    "ops",
                    (
                        (
                            "sum(rate(flagon_messages_unreadable_total[5m]))"
                            " or vector(0)"
                        ),
                        "thrown away",
                    ),
                    on="redis",
                    red=0.001,
                ),
            ],
        },
    )


def _events() -> Board:
    return Board(
        "events",
        "Events and outbox",
        "From the row that is committed with a change to its effect elsewhere.",
        {
            "Outbox": [
                graph(
                    "Messages that wait",
                    "Rows that no relay has sent yet.",
                    "short",
                    ("sum by (service) (flagon_outbox_pending)", "{{service}}"),
                    on="postgres",
                ),
                graph(
                    "Age of the oldest",
                    "Over a minute is an alert.",
                    "s",
                    ("max by (service) (flagon_outbox_oldest_seconds)", "{{service}}"),
                    on="postgres",
                    runbook="outbox-old",
                    red=60,
                ),
                graph(
                    "Events handed to the stream",
                    "By type.",
                    "ops",
                    (
                        "sum by (type) (rate(flagon_events_published_total[5m]))",
                        "{{type}}",
                    ),
                    on="streams",
                ),
            ],
            "Consumers": [
                graph(
                    "Events by what became of them",
                    "`repeated` came twice and did nothing the second time; `dead` were"
                    " given up.",
                    "ops",
                    (
                        (
                            "sum by (consumer, outcome)"
                            " (rate(flagon_events_consumed_total[5m]))"
                        ),
                        "{{consumer}} {{outcome}}",
                    ),
                    on="traces:worker",
                    runbook="dead-events",
                ),
                graph(
                    "From happening to effect, p95",
                    "By consumer; what a consumer does after an outage counts in full.",
                    "s",
                    (
                        (
                            "histogram_quantile(0.95, sum by (consumer, le)"
                            " (rate(flagon_event_consume_seconds_bucket[5m])))"
                        ),
                        "{{consumer}}",
                    ),
                    on="redis",
                    runbook="events-late",
                    red=30,
                ),
                graph(
                    "Tasks handed to the queues",
                    "By task, sent by the relays.",
                    "ops",
                    (
                        "sum by (task) (rate(flagon_tasks_published_total[5m]))",
                        "{{task}}",
                    ),
                    on="jobs",
                ),
            ],
            "Errands": [
                graph(
                    "Oldest that is not known to be done",
                    "A mail or another task that must not be lost with the store.",
                    "s",
                    ("max by (task) (flagon_errand_oldest_seconds)", "{{task}}"),
                    on="jobs",
                    runbook="mails-unsent",
                    span=12,
                ),
                graph(
                    "Asked for again, or given up",
                    "A few after an outage; many say that somebody does not answer.",
                    "ops",
                    (
                        (
                            "sum by (task, outcome) (rate(flagon_errands_total[5m]))"
                            " or vector(0)"
                        ),
                        "{{task}} {{outcome}}",
                    ),
                    on="jobs",
                    span=12,
                ),
            ],
        },
    )


def _streams() -> Board:
    return Board(
        "streams",
        "Realtime",
        "Pages that are told of changes as they happen.",
        {
            "Delivery": [
                graph(
                    "Open streams",
                    "Server-sent events that are open now.",
                    "short",
                    ("sum(flagon_sse_connections)", "streams"),
                    on="gateway",
                ),
                graph(
                    "Events written",
                    "Once for each client.",
                    "ops",
                    ("sum(rate(flagon_sse_delivered_total[5m]))", "events"),
                    on="events",
                ),
                graph(
                    "From stream to screen",
                    "From the entry in Redis to the last write; 95 % within 500 ms is"
                    " promised.",
                    "s",
                    (
                        (
                            "histogram_quantile(0.5, sum by (le)"
                            " (rate(flagon_sse_delivery_seconds_bucket[5m])))"
                        ),
                        "p50",
                    ),
                    (
                        (
                            "histogram_quantile(0.95, sum by (le)"
                            " (rate(flagon_sse_delivery_seconds_bucket[5m])))"
                        ),
                        "p95",
                    ),
                    on="traces:realtime",
                    red=0.5,
                ),
                graph(
                    "From change to screen",
                    "From the time that an event says of itself to the last write: with"
                    " the wait in the outbox and the relay's way to Redis.",
                    "s",
                    (
                        (
                            "histogram_quantile(0.95, sum by (le)"
                            " (rate(flagon_sse_event_age_seconds_bucket[5m])))"
                        ),
                        "p95",
                    ),
                    on="traces:realtime",
                ),
            ],
            "Trouble": [
                graph(
                    "Lag of the reader",
                    "Age of the newest event when it was read.",
                    "s",
                    ("max(flagon_sse_reader_lag_seconds)", "lag"),
                    on="redis",
                    runbook="screens-late",
                    span=12,
                    red=10,
                ),
                graph(
                    "Streams ended or refused by us",
                    "By reason: slow readers are ended so that they hold up nobody.",
                    "ops",
                    (
                        (
                            "sum by (reason) (rate(flagon_sse_dropped_total[5m]))"
                            " or vector(0)"
                        ),
                        "ended {{reason}}",
                    ),
                    (
                        (
                            "sum by (reason) (rate(flagon_sse_refused_total[5m]))"
                            " or vector(0)"
                        ),
                        "refused {{reason}}",
                    ),
                    on="realtime",
                    span=12,
                ),
                graph(
                    "Events that are missing",
                    "Times a client was told to load anew, and entries that nobody could"
                    " read.",
                    "ops",
                    ("sum(rate(flagon_sse_gaps_total[5m]))", "gaps"),
                    ("sum(rate(flagon_sse_malformed_total[5m]))", "malformed"),
                    on="events",
                    span=12,
                    red=0.01,
                ),
                graph(
                    "Streams that went on where they were",
                    "Clients that came back with their last event's id. Many at once: a"
                    " process of realtime or the gateway was gone.",
                    "ops",
                    (
                        (
                            "sum by (source) (rate(flagon_sse_resumed_total[5m]))"
                            " or vector(0)"
                        ),
                        "{{source}}",
                    ),
                    on="gateway",
                    span=12,
                ),
            ],
            "WebSockets": [
                graph(
                    "Open WebSockets",
                    "And the rooms that somebody is in, once for each process.",
                    "short",
                    ("sum(flagon_websocket_connections)", "WebSockets"),
                    ("sum(flagon_websocket_rooms)", "rooms"),
                    on="gateway",
                ),
                graph(
                    "Messages of clients",
                    "By kind: who joins and leaves, what they do, which locks they take.",
                    "ops",
                    (
                        (
                            "sum by (message) (rate(flagon_websocket_messages_total[5m]))"
                            " or vector(0)"
                        ),
                        "{{message}}",
                    ),
                    on="realtime",
                ),
                graph(
                    "WebSockets ended or refused by us, messages refused",
                    "By reason; refused messages by the type of their problem.",
                    "ops",
                    (
                        (
                            "sum by (reason) (rate(flagon_websocket_dropped_total[5m]))"
                            " or vector(0)"
                        ),
                        "ended {{reason}}",
                    ),
                    (
                        (
                            "sum by (reason) (rate(flagon_websocket_refused_total[5m]))"
                            " or vector(0)"
                        ),
                        "refused {{reason}}",
                    ),
                    (
                        (
                            "sum by (problem)"
                            " (rate(flagon_websocket_messages_refused_total[5m]))"
                            " or vector(0)"
                        ),
                        "message: {{problem}}",
                    ),
                    on="realtime",
                ),
            ],
        },
    )


def _postgres() -> Board:
    ours = 'datname=~"auth|catalog|worker"'
    return Board(
        "postgres",
        "Postgres",
        "Use, saturation and errors of the server that all databases share.",
        {
            "Use": [
                graph(
                    "Connections",
                    "By database; the server has a fixed number of them.",
                    "short",
                    (
                        f"sum by (datname) (pg_stat_activity_count{{{ours}}})",
                        "{{datname}}",
                    ),
                    ("max(pg_settings_max_connections)", "most"),
                    on="capacity",
                    runbook="postgres-connections",
                ),
                graph(
                    "Transactions",
                    "Commits a second, by database.",
                    "ops",
                    (
                        (
                            "sum by (datname)"
                            f" (rate(pg_stat_database_xact_commit{{{ours}}}[5m]))"
                        ),
                        "{{datname}}",
                    ),
                    on="overview",
                ),
                graph(
                    "Size",
                    "On disk, with indexes.",
                    "bytes",
                    (
                        f"max by (datname) (pg_database_size_bytes{{{ours}}})",
                        "{{datname}}",
                    ),
                    on="capacity",
                ),
            ],
            "Saturation and errors": [
                graph(
                    "Found in memory",
                    "Part of the pages that were not read from the disk.",
                    "percentunit",
                    (
                        (
                            "sum by (datname)"
                            f" (rate(pg_stat_database_blks_hit{{{ours}}}[5m])) /"
                            " (sum by (datname)"
                            f" (rate(pg_stat_database_blks_hit{{{ours}}}[5m])"
                            f" + rate(pg_stat_database_blks_read{{{ours}}}[5m])) > 0)"
                        ),
                        "{{datname}}",
                    ),
                    on="capacity",
                    span=6,
                ),
                graph(
                    "Longest transaction",
                    "Until it ends no dead row is cleaned up.",
                    "s",
                    (
                        (
                            "max by (datname)"
                            f" (pg_stat_activity_max_tx_duration{{{ours}}})"
                        ),
                        "{{datname}}",
                    ),
                    on="telemetry",
                    runbook="postgres-transaction",
                    span=6,
                    red=900,
                ),
                graph(
                    "Rollbacks and deadlocks",
                    "A deadlock ends one of two transactions, which is tried again.",
                    "ops",
                    (
                        (
                            "sum by (datname)"
                            f" (rate(pg_stat_database_xact_rollback{{{ours}}}[5m]))"
                        ),
                        "{{datname}} rolled back",
                    ),
                    (
                        (
                            "sum by (datname)"
                            f" (rate(pg_stat_database_deadlocks{{{ours}}}[5m]))"
                        ),
                        "{{datname}} deadlocks",
                    ),
                    on="catalog",
                    span=6,
                ),
                graph(
                    "Locks",
                    "Held or waited for, by mode.",
                    "short",
                    (
                        f"sum by (mode) (pg_locks_count{{{ours}}}) > 0 or vector(0)",
                        "{{mode}}",
                    ),
                    on="catalog",
                    span=6,
                ),
            ],
        },
    )


def _redis() -> Board:
    return Board(
        "redis",
        "Redis",
        "The store (events, queues, sessions: never forgets) and the cache (may).",
        {
            "Use": [
                graph(
                    "Commands",
                    "A second, by server.",
                    "ops",
                    (
                        "sum by (instance) (rate(redis_commands_processed_total[5m]))",
                        "{{instance}}",
                    ),
                    on="overview",
                ),
                graph(
                    "Memory",
                    "The store refuses to write at its limit, the cache forgets.",
                    "bytes",
                    ("max by (instance) (redis_memory_used_bytes)", "{{instance}}"),
                    ("max by (instance) (redis_memory_max_bytes)", "{{instance}} most"),
                    on="capacity",
                    runbook="redis-memory",
                ),
                graph(
                    "Clients",
                    "Connections, and those that wait for something to come.",
                    "short",
                    ("max by (instance) (redis_connected_clients)", "{{instance}}"),
                    (
                        "max by (instance) (redis_blocked_clients)",
                        "{{instance}} waiting",
                    ),
                    on="capacity",
                ),
            ],
            "Saturation and errors": [
                graph(
                    "Hits",
                    "Part of the reads that found a key.",
                    "percentunit",
                    (
                        (
                            "sum by (instance) (rate(redis_keyspace_hits_total[5m]))"
                            " / (sum by (instance) (rate(redis_keyspace_hits_total[5m])"
                            " + rate(redis_keyspace_misses_total[5m])) > 0)"
                        ),
                        "{{instance}}",
                    ),
                    on="catalog",
                ),
                graph(
                    "Keys forgotten for room",
                    "Of the store this must stay zero.",
                    "ops",
                    (
                        "sum by (instance) (rate(redis_evicted_keys_total[5m]))",
                        "{{instance}}",
                    ),
                    on="capacity",
                ),
                graph(
                    "Writing to the disk",
                    "1 works, 0 does not.",
                    "none",
                    (
                        "min by (instance) (redis_aof_last_write_status)",
                        "{{instance}} log",
                    ),
                    (
                        "min by (instance) (redis_rdb_last_bgsave_status)",
                        "{{instance}} snapshot",
                    ),
                    on="telemetry",
                    runbook="redis-not-saving",
                ),
            ],
        },
    )


def _identity() -> Board:
    return Board(
        "identity",
        "Identity and abuse",
        "Who signs in, who is made to wait, and the keys that sign.",
        {
            "Signing in": [
                graph(
                    "Sign-ins by outcome",
                    "`refused` and `throttled` together rise when somebody guesses.",
                    "ops",
                    (
                        "sum by (outcome) (rate(flagon_logins_total[5m]))",
                        "{{outcome}}",
                    ),
                    on="auth",
                    runbook="guessing-passwords",
                ),
                graph(
                    "Attempts that had to wait",
                    "By what was tried.",
                    "ops",
                    (
                        (
                            "sum by (what) (rate(flagon_attempts_refused_total[5m]))"
                            " or vector(0)"
                        ),
                        "{{what}}",
                    ),
                    on="auth",
                ),
                graph(
                    "Requests refused",
                    "By service: 401 no token or a bad one, 403 not allowed, 429 too many.",
                    "reqps",
                    (
                        (
                            "sum by (service, status) (rate("
                            f'{_HTTP}_count{{status=~"401|403|429"}}[5m]))'
                        ),
                        "{{service}} {{status}}",
                    ),
                    on="overview",
                ),
            ],
            "Limits": [
                graph(
                    "Requests refused by limits",
                    "By service and limit: `all` is the one that every route has, the"
                    " others are those of a route or of several together.",
                    "reqps",
                    (
                        (
                            "sum by (service, limit)"
                            " (rate(flagon_limits_refused_total[5m]))"
                        ),
                        "{{service}} {{limit}}",
                    ),
                    on="gateway",
                    span=12,
                ),
                graph(
                    "Requests that each process counts for itself",
                    "The Redis of the limits is away: each process lets as many through as"
                    " all together should.",
                    "reqps",
                    (
                        (
                            "sum by (service)"
                            " (rate(flagon_limits_counted_alone_total[5m]))"
                        ),
                        "{{service}}",
                    ),
                    on="redis",
                    span=12,
                    red=0.1,
                ),
            ],
            "Keys and tokens": [
                number(
                    "Age of the signing keys",
                    "They change every 30 days by themselves.",
                    "dtdurations",
                    "time() - max by (alg) (flagon_signing_key_since_timestamp_seconds)",
                    legend="{{alg}}",
                    on="auth",
                    runbook="signing-key-old",
                    span=8,
                    red=45 * 86_400,
                ),
                graph(
                    "Token requests",
                    "By status.",
                    "reqps",
                    (
                        (
                            "sum by (status) (rate("
                            f'{_HTTP}_count{{url_rule="/oauth/token"}}[5m]))'
                        ),
                        "{{status}}",
                    ),
                    on="traces:auth",
                ),
                graph(
                    "Clients told of a logout",
                    "Attempts by how they ended; a client that does not answer keeps its"
                    " session until that ends by itself.",
                    "ops",
                    (
                        (
                            "sum by (outcome) (rate(flagon_logouts_total[5m]))"
                            " or vector(0)"
                        ),
                        "{{outcome}}",
                    ),
                    on="jobs",
                ),
            ],
        },
    )


def _releases() -> Board:
    def each(rate: str, *further: str) -> str:
        """Return the sum of a rate for each release of each service."""
        labels = ", ".join(("service", "release", *further))
        return (
            f"sum by ({labels}) ({rate}"
            " * on (instance, job) group_left (release) flagon_build_info)"
        )

    front = f'service=~"{_FRONT}"'
    requests = each(f"rate({_HTTP}_count{{{front}}}[5m])")
    failed = each(f'rate({_HTTP}_count{{{front},status=~"5.."}}[5m])')
    taken = each(f"rate({_HTTP}_bucket{{{front}}}[5m])", "le")
    tasks = each("rate(flagon_task_run_seconds_count[5m])")
    bad = each('rate(flagon_task_run_seconds_count{outcome!="succeeded"}[5m])')
    legend = "{{service}} {{release}}"
    return Board(
        "releases",
        "Release compare",
        "Whether the release that comes does as well as the one that goes.",
        {
            "What runs": [
                graph(
                    "Processes by release",
                    "Two releases of a service stand here while one takes the place of the"
                    " other.",
                    "short",
                    ("count by (service, release) (flagon_build_info)", legend),
                    on="overview",
                    span=24,
                ),
            ],
            "Requests": [
                graph(
                    "Rate",
                    "Requests a second that each release takes.",
                    "reqps",
                    (requests, legend),
                    on="gateway",
                ),
                graph(
                    "Errors",
                    "Part of the requests answered with 500 or more.",
                    "percentunit",
                    (f"({failed} or 0 * {requests}) / ({requests} > 0)", legend),
                    on="overview",
                    red=0.001,
                ),
                graph(
                    "Duration, p95",
                    "95 % of the requests took less, as the service measures it.",
                    "s",
                    (f"histogram_quantile(0.95, {taken})", legend),
                    on="overview",
                    red=0.1,
                ),
            ],
            "Tasks": [
                graph(
                    "Rate of attempts",
                    "Attempts at tasks a second that each release makes.",
                    "ops",
                    (tasks, legend),
                    on="jobs",
                    span=12,
                ),
                graph(
                    "Attempts that did not do it",
                    "Part of the attempts that failed or must be repeated.",
                    "percentunit",
                    (f"({bad} or 0 * {tasks}) / ({tasks} > 0)", legend),
                    on="jobs",
                    span=12,
                    red=0.1,
                ),
            ],
        },
    )


def _capacity() -> Board:
    front = f'service=~"{_FRONT}"'
    return Board(
        "capacity",
        "Capacity",
        "How much is left of what is limited, and what one request costs.",
        {
            "The machine": [
                graph(
                    "Processors in use",
                    "Part of all of them.",
                    "percentunit",
                    (
                        '1 - avg(rate(node_cpu_seconds_total{mode="idle"}[5m]))',
                        "in use",
                    ),
                    on="overview",
                    red=0.8,
                ),
                graph(
                    "Memory that is free",
                    "What a program could still get.",
                    "bytes",
                    ("sum(node_memory_MemAvailable_bytes)", "available"),
                    on="overview",
                ),
                graph(
                    "Disk that is free",
                    "Part of each file system.",
                    "percentunit",
                    (
                        (
                            "min by (mountpoint) (node_filesystem_avail_bytes"
                            '{fstype!~"tmpfs|squashfs|ramfs"} / node_filesystem_size_bytes)'
                        ),
                        "{{mountpoint}}",
                    ),
                    on="postgres",
                    runbook="disk",
                ),
            ],
            "The platform": [
                graph(
                    "Processor time for one request",
                    "Of the whole machine, databases and all, divided by what the gateway"
                    " took in. Says something under load alone.",
                    "s",
                    (
                        (
                            'sum(rate(node_cpu_seconds_total{mode!~"idle|iowait"}[5m]))'
                            " / (sum(rate(nginx_http_requests_total[5m])) > 0)"
                        ),
                        "a request",
                    ),
                    on="gateway",
                ),
                graph(
                    "Requests in work at once",
                    "Seconds of requests in each second. Near the number of threads,"
                    " requests wait.",
                    "none",
                    (
                        f"sum by (service) (rate({_HTTP}_sum{{{front}}}[5m]))",
                        "{{service}}",
                    ),
                    on="overview",
                ),
                graph(
                    "Connections of Postgres in use",
                    "Part of those that the server allows.",
                    "percentunit",
                    (
                        "sum(pg_stat_activity_count) / max(pg_settings_max_connections)",
                        "in use",
                    ),
                    on="postgres",
                    runbook="postgres-connections",
                    red=0.9,
                ),
            ],
        },
    )


def _telemetry() -> Board:
    return Board(
        "telemetry",
        "Telemetry",
        "Whether what you see is true: who watches the watchers.",
        {
            "Prometheus": [
                number(
                    "Targets that answer",
                    "Of processes, exporters and probes.",
                    "percentunit",
                    "avg by (job) (up)",
                    legend="{{job}}",
                    on="overview",
                    runbook="exporter-down",
                    red=1,
                    better="high",
                ),
                number(
                    "Series",
                    "A label with values from outside makes this grow without end.",
                    "short",
                    "max(prometheus_tsdb_head_series)",
                    on="capacity",
                    runbook="too-many-series",
                    red=200_000,
                ),
                number(
                    "Rules that fail",
                    "In the last ten minutes; their alerts are silent.",
                    "short",
                    "sum(increase(prometheus_rule_evaluation_failures_total[10m]))",
                    on="overview",
                    runbook="rules-fail",
                    red=1,
                ),
                number(
                    "Alerts that did not arrive",
                    "In the last ten minutes, at Alertmanager or beyond.",
                    "short",
                    "sum(increase(prometheus_notifications_dropped_total[10m]))"
                    " + (sum(increase(alertmanager_notifications_failed_total[10m]))"
                    " or vector(0))",
                    on="overview",
                    runbook="alerts-not-delivered",
                    red=1,
                ),
            ],
            "Traces": [
                graph(
                    "Spans by what became of them",
                    "In the sink; over the limit: of traces with too many spans.",
                    "ops",
                    (
                        "sum by (outcome) (rate(flagon_trace_spans_total[5m]))",
                        "{{outcome}}",
                    ),
                    on="overview",
                    span=24,
                ),
            ],
            "Cost": [
                graph(
                    "Longest scrapes",
                    "The time that a process takes to say how it is.",
                    "s",
                    ("topk(5, scrape_duration_seconds)", "{{job}} {{instance}}"),
                    on="capacity",
                ),
                graph(
                    "Most samples",
                    "Series by who sends them.",
                    "short",
                    (
                        "topk(5, scrape_samples_post_metric_relabeling)",
                        "{{job}} {{instance}}",
                    ),
                    on="capacity",
                ),
                graph(
                    "Evaluating the rules",
                    "Seconds for each group.",
                    "s",
                    (
                        (
                            "max by (rule_group)"
                            " (prometheus_rule_group_last_duration_seconds)"
                        ),
                        "{{rule_group}}",
                    ),
                    on="capacity",
                ),
            ],
        },
    )
