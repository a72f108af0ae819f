"""People who come when they come, and what each of them sends."""

import json
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

import gevent
from ledger import Ledger
from locust.contrib.fasthttp import FastHttpSession
from objectives import REFUSALS, Answer

PEOPLE_MAX = 5000
"""Most people inside at once: a bound for this machine, and counted as no answer."""
_PATIENCE_SECONDS = 60.0
_TRIES = 3
"""How often somebody comes back who is told to."""
_LONGEST_SECONDS = 10.0


class Left(Exception):
    """This person goes away: was turned away, or got something that is of no use."""


@dataclass
class Shop:
    """What the run knows of the platform it visits."""

    url: str
    run: str
    """A word that is in all that the run writes."""
    tokens: dict[str, str] = field(default_factory=dict)
    """Access tokens by role, kept fresh by somebody else."""
    accounts: dict[str, dict] = field(default_factory=dict)
    products: list[str] = field(default_factory=list)
    """Ids of the products that the run changes."""
    shown: list[str] = field(default_factory=list)
    """Ids of those that people look at."""
    words: list[str] = field(default_factory=list)


class Crowd:
    """Everybody of one run, and what they saw."""

    def __init__(self, shop, environment, seed, hesitation=1.0):
        self.shop = shop
        self.hesitation = hesitation
        self.environment = environment
        self.chance = random.Random(seed)
        self.ledger = Ledger()
        self.answers = []
        self.watched = []
        """Of each watcher: product, from when to when, and when which version came."""
        self.written = {}
        """When a version of a product was acknowledged."""
        self.job_starts = []
        """Pairs of (second, seconds from request to start)."""
        self.inside = 0
        self.most_inside = 0
        self.turned_off = 0
        self.late = []
        """Seconds by which this program was late with what it had to send."""
        self.busy = set()
        self.reviews = {}
        self.imports = 0
        self.started = time.perf_counter()

    def now(self):
        """Seconds since the run began."""
        return time.perf_counter() - self.started

    def let_in(self, journey, due):
        """Send one person on a journey, whatever became of the others."""
        if self.inside >= PEOPLE_MAX:
            self.turned_off += 1
            return
        gevent.spawn(self._visit, journey, due)

    def _visit(self, journey, due):
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        visitor = Visitor(self, due)
        try:
            # Who left early was counted at the request that drove them away.
            with suppress(Left):
                journey(visitor)
        finally:
            self.inside -= 1
            visitor.session.client.clientpool.close()

    def delays(self, judged):
        """Return, by objective, the seconds that count; `judged` says which moments do."""
        late = []
        for product, opened, closed, came in self.watched:
            for (id_, version), at in self.written.items():
                # What was written just before somebody left may still have been on its way.
                if id_ == product and opened < at < closed - 2 and judged(at):
                    seen = came.get(version)
                    late.append(max(0.0, seen - at) if seen else _PATIENCE_SECONDS)
        starts = [seconds for at, seconds in self.job_starts if judged(at)]
        return {"event-to-screen": late, "job-start": starts}


class Visitor:
    """One person; times count from when they meant to click, not from when we did."""

    def __init__(self, crowd, due):
        self.crowd = crowd
        self.shop = crowd.shop
        self.chance = random.Random(crowd.chance.random())
        self.due = due
        self.session = FastHttpSession(
            self.shop.url,
            self,
            None,
            # Once: a repeated write would be another one.
            max_retries=1,
            connection_timeout=_PATIENCE_SECONDS,
            network_timeout=_PATIENCE_SECONDS,
        )
        self._expected = ()
        self._read = False
        self._last = None
        self._wait()

    def think(self, mean):
        """Read, hesitate, type: some seconds, most often fewer than the mean."""
        mean *= self.crowd.hesitation
        self.due = self.crowd.now() + min(self.chance.expovariate(1 / mean), 2.5 * mean)
        self._wait()

    def _wait(self):
        if (ahead := self.due - self.crowd.now()) > 0:
            gevent.sleep(ahead)
        self.crowd.late.append(max(0.0, self.crowd.now() - self.due))

    def get(self, path, name, **options):
        """Look at something."""
        return self.send("GET", path, name, **options)

    def send(
        self, method, path, name, *, role=None, expected=(), headers=None, **options
    ):
        """Send a request and return its answer.

        :param name: of the request in all reports.
        :param role: whose token to bring.
        :param expected: statuses other than 2xx and 3xx with which the journey goes on.
        :raises Left: any other; it has been counted.
        """
        headers = dict(headers or {})
        if role:
            headers["Authorization"] = f"Bearer {self.shop.tokens[role]}"
        self._expected = expected
        self._read = method == "GET" and path.startswith("/api/")
        options.setdefault("allow_redirects", False)
        for _ in range(_TRIES):
            answer = self.session.request(
                method, path, name=f"{method} {name}", headers=headers, **options
            )
            # What follows at once is meant for now.
            self.due = self.crowd.now()
            if self._last.expected or not self._last.retry_after:
                break
            # Told when to come back, most people do, not all at the same moment.
            later = min(float(answer.headers["retry-after"]), _LONGEST_SECONDS)
            self.due += later * self.chance.uniform(1.0, 1.5)
            self._wait()
        if not self._last.expected:
            raise Left
        return answer

    def fire(self, *, response, response_time, name, exception=None, **named):
        """Take what Locust measured of a request, and count from when it was due."""
        del response_time
        seconds = self.crowd.now() - self.due
        status = getattr(response, "status_code", 0) or 0
        expected = 200 <= status < 400 or status in self._expected
        retry_after = bool(response.headers and response.headers.get("retry-after"))
        self._last = Answer(
            self.due, name, self._read, status, seconds, retry_after, expected
        )
        self.crowd.answers.append(self._last)
        refused = status in REFUSALS and retry_after
        self.crowd.environment.events.request.fire(
            response=response,
            response_time=seconds * 1000,
            name=f"{name} (told to come later)" if refused else name,
            exception=None if expected or refused else exception or f"status {status}",
            **named,
        )

    def follow(self, topic, seconds, seen):
        """Keep an event stream open for a while; `seen(event)` is called for each."""
        parts = urlsplit(self.shop.url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(parts.hostname, parts.port, timeout=_PATIENCE_SECONDS)
        begun = self.crowd.now()
        try:
            connection.request("GET", f"/api/v1/events?topic={topic}")
            answer = connection.getresponse()
            self._expected, self._read = (), False
            self.fire(
                response=_Bare(answer.status, answer.headers),
                response_time=0,
                response_length=0,
                request_type="GET",
                name="GET events",
                context={},
            )
            if answer.status != 200:
                raise Left
            with gevent.Timeout(seconds, exception=False):
                for line in answer:
                    if line.startswith(b"data:"):
                        seen(json.loads(line[5:]))
        except (OSError, HTTPException) as error:
            self.fire(
                response=_Bare(0, {}),
                response_time=0,
                response_length=0,
                request_type="GET",
                name="GET events",
                exception=error,
                context={},
            )
            raise Left from error
        finally:
            connection.close()
        return begun


@dataclass(frozen=True)
class _Bare:
    status_code: int
    headers: object
