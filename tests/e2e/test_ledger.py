"""Whatever is killed in the middle: what was answered is there, and told exactly once."""

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx2
from harness.events import ENTRIES
from harness.stack import BUS
from harness.waiting import until

VICTIMS = ("catalog", "catalog-relay", "postgres", BUS)
PAIRS = 125
"""Products that are created and then changed around each kill: 1,000 writes in all."""
WRITERS = 8

STREAM = (
    ENTRIES
    + """
subjects, found = set(json.loads(%r)), []
for _, fields in entries():
    event = json.loads(fields[b"event"])
    if event["subject"] in subjects:
        found.append([event["id"], event["subject"], event["data"]["version"]])
print(json.dumps(found))
"""
)


class Ledger:
    """Writes through the gateway and notes what was answered."""

    def __init__(self, client, person, word):
        self.client = client
        self.headers = person.bearer
        self.word = word
        self.versions = {}
        """The version that was acknowledged last, by id."""
        self.acknowledged = []
        self.unanswered = []

    def send(self, method, path, body, **headers):
        """Send until there is an answer that is no outage."""

        def answered():
            answer = self.client.request(
                method, path, json=body, headers={**self.headers, **headers}
            )
            # 409: the one before it, of which nobody has heard, is still at work.
            if answer.status_code >= 500 or answer.status_code in {409, 429}:
                self.unanswered.append(answer.status_code)
                return None
            return answer

        return until(
            answered,
            what=f"{method} {path}",
            ignore=(httpx2.TransportError,),
        )

    def write(self, number):
        """Create a product and change it: two writes, each acknowledged."""
        sku = f"{self.word}-{number:04}"
        body = {"sku": sku, "name": f"Thing {sku}", "price_minor": number}
        made = self.send(
            "POST",
            "/api/v1/products",
            body,
            **{"Idempotency-Key": uuid4().hex},
        )
        assert made.status_code == 201, made.text
        id_ = made.json()["id"]
        self.versions[id_] = 1
        self.acknowledged.append(made)
        changed = self.send(
            "PATCH",
            f"/api/v1/products/{id_}",
            {"stock": number + 1},
            **{"If-Match": made.headers["etag"]},
        )
        # 412: it was made, and its answer got lost.
        assert changed.status_code in {200, 412}, changed.text
        self.versions[id_] = 2
        self.acknowledged.append(changed)

    @property
    def writes(self):
        """How many writes were acknowledged."""
        return len(self.acknowledged)


class TestLedger:
    def test_keeps_each_of_a_thousand_writes_and_tells_it_once(
        self, stack, merchandiser, word
    ):
        with stack.client() as client, ThreadPoolExecutor(WRITERS) as pool:
            ledger = Ledger(client, merchandiser, word)
            for phase, name in enumerate(VICTIMS):
                victim = stack.pid(name)
                numbers = range(phase * PAIRS, (phase + 1) * PAIRS)
                before = ledger.writes
                pairs = [pool.submit(ledger.write, number) for number in numbers]
                until(lambda at=before: ledger.writes > at + 20, pause=0.005)
                stack.kill(name, pid=victim)
                killed_at = time.monotonic()
                at_the_kill = ledger.writes - before
                for pair in pairs:
                    pair.result(240)
                # Else it was too late to disturb any.
                assert at_the_kill < 2 * PAIRS
                written = time.monotonic() - killed_at
                stack.back(name, victim)
                back = time.monotonic() - killed_at
                print(f"{name}: all written {written:.1f} s after, ready {back:.1f} s")

        assert ledger.writes == 2 * PAIRS * len(VICTIMS) == 1000
        assert len(ledger.versions) == 500
        self.check_table(stack, word, ledger)
        self.check_stream(stack, ledger)
        self.check_archive(stack, word)
        print(f"1000 writes, without an answer at first: {Counter(ledger.unanswered)}")

    def check_table(self, stack, word, ledger):
        """Every product is there with its change, through the API."""
        found, query = {}, {"limit": 100, "sort": "-created_at"}
        with stack.client(headers=ledger.headers) as client:
            while len(found) < len(ledger.versions):
                page = client.get("/api/v1/products", params=query).json()
                found |= {
                    item["id"]: item
                    for item in page["items"]
                    if item["sku"].startswith(f"{word}-")
                }
                if not page["next_cursor"]:
                    break
                query["cursor"] = page["next_cursor"]
        assert {id_: item["version"] for id_, item in found.items()} == ledger.versions
        assert len({item["sku"] for item in found.values()}) == len(ledger.versions)
        assert all(item["stock"] == item["price_minor"] + 1 for item in found.values())

    def check_stream(self, stack, ledger):
        """Each version of each product has one event, whose id is only its own."""

        def told():
            found = stack.inside(
                "realtime", STREAM % json.dumps(sorted(ledger.versions))
            )
            events = {
                event_id: (subject, version) for event_id, subject, version in found
            }
            return (found, events) if len(events) >= 1000 else None

        found, events = until(told, what="every event on the stream")
        wanted = {
            (id_, version)
            for id_, last in ledger.versions.items()
            for version in range(1, last + 1)
        }
        assert set(events.values()) == wanted
        assert len(events) == len(wanted)
        # An entry that is there twice is the same event: readers know it by its id.
        assert {(e, s, v) for e, s, v in found} == {
            (event_id, *told) for event_id, told in events.items()
        }
        # And no later version was told before an earlier one for the first time.
        first = {}
        for event_id, subject, version in found:
            if event_id not in first:
                first[event_id] = (subject, version)
        seen = Counter()
        for subject, version in first.values():
            assert version == seen[subject] + 1
            seen[subject] += 1

    def check_archive(self, stack, word):
        """A consumer has handled each event once, however often it came."""
        count = (
            "select 'versions: ' || string_agg(version || ' times ' || number, ', '"
            " order by version) from (select event->'data'->>'version' as version,"
            " count(*) as number from event_archive"
            f" where event->'data'->>'sku' like '{word}-%' group by 1) as told"
        )
        until(
            lambda: (
                "1 times 500, 2 times 500" in stack.make("psql", S="worker", C=count)
            ),
            what="every event in the archive",
        )
