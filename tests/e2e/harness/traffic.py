"""Traffic of people who do not wait for each other, and a ledger of what they were told.

They come at an open rate, ask once and never again: whatever is not answered well counts.
Before containers they send again what met a closing connection, and say how often.
"""

import queue
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from uuid import uuid4

import httpx2

from flagon_chassis import sse
from harness import imports
from harness.engine import ROOT
from harness.events import ENTRIES
from harness.waiting import until

sys.path.append(str(ROOT / "tests" / "load"))

from ledger import Ledger
from profiles import Profile, Stage, arrivals

PRODUCTS = 24
"""That are made before, watched and changed."""
INSIDE_MAX = 64
"""Requests at once: a bound for this machine. Who comes beyond it is turned off by this
program, which is counted apart: the platform has not been asked."""
_PATIENCE_SECONDS = 60.0
_LONGEST_SECONDS = 3600.0
_KINDS = {
    "read a product": 32,
    "list products": 12,
    "search the shop": 6,
    "look at jobs": 8,
    "create a product": 10,
    "change a price": 20,
    "hand in a file": 6,
    "ask the queue": 6,
}
"""What people do, and how often out of a hundred times."""


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    at: float
    """When it was meant to be sent, in seconds from the start."""
    seconds: float
    """From then until the answer was whole."""
    phase: str
    """During which step it was meant to be sent."""
    kind: str
    status: int
    """0 when there was no answer."""
    wrong: str
    """What was wrong with it; empty when nothing was."""
    told: frozenset
    """Names of the members of the product that it showed."""


class Watcher:
    """A client of the event stream, as programs use it: it resumes by itself."""

    def __init__(self, stack, topics, since):
        self.topics = topics
        self.ids, self.words, self.gaps = [], [], 0
        self._stream = sse.Stream(
            stack.url, topics, last_id=since, told=self.words.append
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            for found in self._stream:
                if isinstance(found, sse.Gap):
                    self.gaps += 1
                elif isinstance(found, sse.Event):
                    self.ids.append(found.id)
        except (httpx2.TransportError, httpx2.StreamError, RuntimeError) as error:
            # Closed from the other thread in the middle of a read, or lost.
            self.words.append(f"end: {type(error).__name__}")

    def close(self):
        """End it, by the next heartbeat at the latest; nothing waits for that."""
        self._stream.close()


class AsBrowsers(httpx2.HTTPTransport):
    """Sends a request again whose kept connection was closed before a byte of an answer.

    RFC 9112, 9.3.1: a server may close a connection that waits, at any time. nginx does it
    when it reads its configuration again, as it has to where containers come and go.

    :param again: called for each of them.
    """

    def __init__(self, again):
        super().__init__()
        self._again = again

    def handle_request(self, request):
        steps = []
        request.extensions["trace"] = lambda step, _about: steps.append(step)
        try:
            return super().handle_request(request)
        except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
            fresh = any(step.startswith("connection.connect_tcp") for step in steps)
            if fresh or "http11.receive_response_headers.complete" in steps:
                raise
            self._again()
            return super().handle_request(request)


class Traffic:
    """Everybody of one run.

    :param person: who may change products and hand in files.
    :param operator: who may ask the queue whether it is served.
    :param word: in the SKU of all that is written, and its category.
    :param rate: requests a second.
    """

    def __init__(self, stack, person, operator, word, *, rate, seed=1, watchers=3):
        self.stack, self.person, self.word = stack, person, word
        self.operator = operator
        self.rate, self.seed, self._watchers = rate, seed, watchers
        self.answers, self.marks = [], []
        self.ledger = Ledger()
        self.watchers = []
        self.phase = "before"
        self.began_at = 0.0
        self.since = ""
        self._numbers = count()
        self._products = []
        self._free = queue.Queue()
        self._tags = {}
        self._inside = 0
        self.turned_off = 0
        self.again, self._counting = 0, threading.Lock()
        self._over = threading.Event()
        self._local = threading.local()
        self._clients = []
        self._pool = ThreadPoolExecutor(max_workers=INSIDE_MAX)
        self._source = threading.Thread(target=self._come, daemon=True)

    # -- the run --------------------------------------------------------------------------

    def __enter__(self):
        self._renew()
        for _ in range(PRODUCTS):
            body = self._create(self._client())
            self._products.append(body["id"])
            self._free.put(body["id"])
        # All that has been written has been told, so watchers begin after that.
        ids = set(self._products)
        until(
            lambda: ids <= {subject for _, _, subject, _, _ in self.log()},
            what="the events of the first products",
        )
        self.since = self.log()[-1][0]
        topics = [["products"], [f"products/{self._products[0]}"], ["products/*"]]
        self.watchers = [
            Watcher(self.stack, topics[n % len(topics)], self.since)
            for n in range(self._watchers)
        ]
        until(
            lambda: all("open" in one.words for one in self.watchers),
            what="open streams",
        )
        self.began_at = time.monotonic()
        self._source.start()
        return self

    def __exit__(self, *_):
        self.stop()
        for one in self.watchers:
            one.close()
        for client in self._clients:
            client.close()

    def stop(self):
        """Let nobody come any more and wait for those who are inside."""
        self._over.set()
        if self._source.ident:
            self._source.join()
        self._pool.shutdown(wait=True)

    def now(self):
        """Seconds since people began to come."""
        return time.monotonic() - self.began_at

    def mark(self, phase):
        """Begin another step."""
        self.phase = phase
        self.marks.append((self.now(), phase))

    def more(self, number=30, matches=lambda answer: True):
        """Wait for some more answers to requests that are meant from now on."""
        begun = self.now()

        def enough():
            late = [one for one in self.answers if one.at >= begun and matches(one)]
            return len(late) >= number

        until(enough, 240, what=f"{number} more answers during {self.phase}")

    def log(self):
        """Return the log of events since people began to come.

        Of each: its id in the log, type, subject, version or state, and topics.
        """
        return [tuple(one) for one in self.stack.inside("realtime", _LOG % self.since)]

    # -- people ---------------------------------------------------------------------------

    def _come(self):
        profile = Profile(1, (Stage(_LONGEST_SECONDS, 1, 1),))
        chance = random.Random(self.seed)
        weights = list(_KINDS.values())
        for due in arrivals(profile, self.rate, self.seed):
            if self._over.wait(max(0.0, due - self.now())):
                return
            # Signed in again in time, before anybody needs it.
            self._renew()
            [kind] = chance.choices(list(_KINDS), weights)
            if self._inside >= INSIDE_MAX:
                self.turned_off += 1
                continue
            self._inside += 1
            self._pool.submit(self._visit, due, self.phase, kind)

    def _renew(self):
        self._bearer, self._asking = self.person.bearer, self.operator.bearer

    def _visit(self, due, phase, kind):
        status, wrong, told = 0, "", frozenset()
        try:
            status, wrong, told = self._do(kind)
        except httpx2.TransportError as error:
            wrong = type(error).__name__
        finally:
            self._inside -= 1
            self._note(due, phase, kind, status, wrong, told)

    def _note(self, due, phase, kind, status, wrong, told=frozenset()):
        seconds = self.now() - due
        self.answers.append(Answer(due, seconds, phase, kind, status, wrong, told))

    def _client(self):
        client = getattr(self._local, "client", None)
        if client is None:
            # The token is in the notes of secrets already.
            browser = {}
            if self.stack.mode == "docker":
                browser["transport"] = AsBrowsers(self._closed)
            client = self.stack.client(event_hooks={}, **browser)
            self._local.client = client
            self._clients.append(client)
        return client

    def _closed(self):
        with self._counting:
            self.again += 1

    def _do(self, kind):
        client = self._client()
        fresh = {**self._bearer, "Cache-Control": "no-cache"}
        seen = random.choice(self._products)
        match kind:
            case "read a product":
                return _judged(client.get(f"/api/v1/products/{seen}", headers=fresh))
            case "list products":
                return _judged(client.get("/api/v1/products?limit=20", headers=fresh))
            case "search the shop":
                return _judged(client.get("/", params={"q": self.word}))
            case "look at jobs":
                return _judged(client.get("/api/v1/jobs?limit=5", headers=fresh))
            case "create a product":
                return _judged(self._creation(client))
            case "change a price":
                return self._change(client)
            case "hand in a file":
                return self._hand_in(client)
            case _:
                parts = {"kind": (None, "probe"), "params": (None, '{"seconds": 0}')}
                return self._submit(client, [], self._asking, files=parts)

    def _creation(self, client):
        sku = f"{self.word}-{next(self._numbers):05}"
        body = {"sku": sku, "name": f"Thing {sku}", "price_minor": 100}
        answer = client.post(
            "/api/v1/products",
            json=body,
            headers={**self._bearer, "Idempotency-Key": uuid4().hex},
        )
        if answer.status_code == 201:
            path = f"/api/v1/products/{answer.json()['id']}"
            self._tags[path] = answer.headers["etag"]
            self.ledger.wrote(path, 1, 100)
        return answer

    def _create(self, client):
        answer = self._creation(client)
        assert answer.status_code == 201, (answer.status_code, answer.text)
        return answer.json()

    def _change(self, client):
        # Nobody else writes it meanwhile: a conflict would be another's fault.
        id_ = self._free.get(timeout=_PATIENCE_SECONDS)
        path = f"/api/v1/products/{id_}"
        price = 100 + next(self._numbers)
        try:
            answer = client.patch(
                path,
                json={"price_minor": price},
                headers={
                    **self._bearer,
                    "If-Match": self._tags[path],
                    "Idempotency-Key": uuid4().hex,
                },
            )
            if answer.status_code == 200:
                self._tags[path] = answer.headers["etag"]
                self.ledger.wrote(path, answer.json()["version"], price)
            else:
                self.ledger.unanswered(path)
            return _judged(answer)
        except httpx2.TransportError:
            self.ledger.unanswered(path)
            raise
        finally:
            self._free.put(id_)

    def _hand_in(self, client):
        prefix = f"{self.word}-f{next(self._numbers):05}"
        table = imports.rows(prefix, 2)
        fields, files = imports.form(imports.as_csv(table), imports.params(self.word))
        skus = [row[0] for row in table[1:]]
        return self._submit(client, skus, self._bearer, data=fields, files=files)

    def _submit(self, client, skus, bearer, **body):
        answer = client.post(
            "/api/v1/jobs",
            headers={**bearer, "Idempotency-Key": uuid4().hex},
            **body,
        )
        if answer.status_code == 202:
            location = answer.headers["location"]
            path = location[location.index("/api/v1/jobs/") :]
            self.ledger.accepted(path, skus)
        return _judged(answer)

    # -- afterwards -----------------------------------------------------------------------

    def settle(self):
        """Wait until each accepted job has ended and each event has been told."""
        for path in self.ledger.jobs:
            imports.ended(self.operator, path)
        wanted = {
            (path.rpartition("/")[2], entity.version)
            for path, entity in self.ledger.entities.items()
            if entity.version > 1
        } | {(path.rpartition("/")[2], "succeeded") for path in self.ledger.jobs}
        until(
            lambda: wanted <= {(one[2], one[3]) for one in self.log()},
            what="all that was acknowledged in the log",
        )
        log = self.log()
        for one in self.watchers:
            last = [entry[0] for entry in log if is_for(one.topics, entry[4])][-1:]
            until(
                lambda one=one, last=last: not last or one.ids[-1:] == last,
                what=f"the end of the log at {one.topics}",
            )

    def verdicts(self):
        """Return what was promised, by name: whether it held, and what was seen."""
        failed = [one for one in self.answers if one.wrong]
        log = self.log()
        lost = self.lost()
        ends = Counter(
            subject
            for _, type_, subject, state, _ in log
            if type_.endswith("job.changed.v1") and state in imports.ENDED
        )
        ids = {path.rpartition("/")[2] for path in self.ledger.jobs}
        twice = [id_ for id_ in ids if ends[id_] != 1]
        told = Counter(
            (subject, version)
            for _, type_, subject, version, _ in log
            if type_.endswith("product.changed.v1")
        )
        repeated = [one for one, number in told.items() if number > 1]
        apart = [problem for one in self.watchers for problem in _apart(one, log)]
        words = Counter(word for one in self.watchers for word in one.words)
        resumed = words["open"] - len(self.watchers)
        return {
            "failed requests": (
                not failed,
                f"{len(failed)} of {len(self.answers)}"
                + (
                    f"; {self.again} kept connections were closed" if self.again else ""
                ),
            ),
            "acknowledged writes": (
                not lost,
                "; ".join(lost[:5]) or f"{self.ledger.acknowledged} are there",
            ),
            "accepted jobs": (
                not twice,
                f"{len(ids) - len(twice)} of {len(ids)} ended once",
            ),
            "events": (not repeated, f"{len(repeated)} of {len(log)} were told twice"),
            "event streams": (
                not apart,
                "; ".join(apart[:3])
                or f"{sum(len(one.ids) for one in self.watchers)} events at"
                f" {len(self.watchers)} clients, as in the log;"
                f" resumed {resumed} times, told to come again"
                f" {words['503']} times",
            ),
        }

    def lost(self):
        """Return what is not as it was acknowledged, in words."""
        found = {}
        with self.operator.client() as client:
            for path in self.ledger.entities:
                answer = client.get(path)
                if answer.status_code == 200:
                    body = answer.json()
                    found[path] = (body["version"], body["price_minor"])
            states = {
                path: client.get(path).json()["state"] for path in self.ledger.jobs
            }
        made = {item["sku"] for item in imports.products(self.stack, self.word)}
        return self.ledger.lost(found, states, made)


# What every reader of the log sees, entry by entry.
_LOG = (
    ENTRIES
    + """
def number(place):
    return tuple(map(int, place.split("-")))
found, after = [], "%s"
for place, fields in entries():
    if after and number(place) <= number(after):
        continue
    event = json.loads(fields[b"event"])
    data = event.get("data", {})
    found.append([place, event["type"], event.get("subject"),
        data.get("state") or data.get("version"), event["topics"]])
print(json.dumps(found))
"""
)


def _judged(answer):
    """Return status, what is wrong, and the members of the product that was shown."""
    status = answer.status_code
    wrong = "" if status < 300 else f"{status} {answer.text[:120]}"
    told = frozenset()
    if not wrong and answer.headers["content-type"].startswith("application/json"):
        body = answer.json()
        told = frozenset(body if "sku" in body else ())
    return status, wrong, told


def is_for(topics, entry):
    """Say whether an event of the topics `entry` is for a stream of `topics`."""
    for topic in topics:
        below = topic.removesuffix("*")
        if topic in entry or (
            below != topic and any(one.startswith(below) for one in entry)
        ):
            return True
    return False


def _apart(watcher, log):
    """Return how a client's record differs from the log."""
    wanted = [entry[0] for entry in log if is_for(watcher.topics, entry[4])]
    if watcher.ids == wanted:
        return []
    missing = [one for one in wanted if one not in set(watcher.ids)]
    if missing and watcher.gaps:
        # It was told that something is missing.
        wanted = [one for one in wanted if one not in set(missing)]
        if watcher.ids == wanted:
            return []
    said = f"{watcher.topics}: {len(watcher.ids)} of {len(wanted)} events"
    return [f"{said}, {len(missing)} missing, {watcher.gaps} gaps, {watcher.words}"]
