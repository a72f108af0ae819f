"""Load the platform by a profile, judge it by its objectives, write a report.

    make load PROFILE=smoke|average|stress|spike|soak|breakpoint
              [USERS=… SECONDS=… LIVE=8089 SEED=… HOST=https://… ACCOUNTS=file]

Ends with 1 when an objective or a promise was broken.
"""

# First: it makes sockets and sleeps cooperative before anybody has taken them.
import locust  # isort: skip (it has to be first)

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import gevent
import requests
from addresses import NotAllowed, target
from crowd import Crowd, Shop
from gevent.pool import Pool
from journeys import MEAN_SECONDS, choose
from locust.env import Environment
from locust.stats import stats_history
from objectives import Verdict, graceful, judge, load, quantile
from profiles import PROFILES, SEARCH, arrivals

ROOT = Path(__file__).resolve().parents[2]
ROLES = ("customer", "merchandiser", "operator")
PRODUCTS = 40
"""That the run makes, changes, watches and reviews."""
_RENEW_SECONDS = 200
"""Access tokens live for 300."""
_DRAIN_SECONDS = 120
"""How long those who are inside at the end may stay."""
_SETTLE_SECONDS = 120
"""How long accepted jobs may take after the end."""
_BROKEN_SECONDS = 15
_TOKEN = """
import json, sys
from flagonctl import signin
asked = json.load(sys.stdin)
print(json.dumps(signin.token(**asked)))
"""
_SCOPE = "openid reviews:write jobs:read catalog:write jobs:write ops:read jobs:manage"


class Arrivals(locust.User):
    """Whom Locust starts: the one that lets all others in."""

    fixed_count = 1

    @locust.task
    def come(self):
        """Let people in at their times, then wait for the end."""
        run = self.environment.flagon
        for second in run.schedule:
            if (ahead := second - run.crowd.now()) > 0:
                gevent.sleep(ahead)
            if run.broken:
                break
            run.crowd.let_in(choose(run.crowd.chance, len(run.came)), second)
            run.came.append(second)
        run.over = True
        gevent.sleep(24 * 3600)


class Run:
    """One run from the first account to the last line of its report."""

    def __init__(self, asked):
        self.asked = asked
        self.url, self.local = target(asked.host, asked.port_base)
        self.profile = PROFILES[asked.profile].within(asked.seconds)
        self.users = asked.users or self.profile.users
        self.rate = self.users / (MEAN_SECONDS * self.profile.hesitation)
        self.schedule = arrivals(self.profile, self.rate, asked.seed)
        self.environment = Environment(user_classes=[Arrivals], host=self.url)
        self.environment.flagon = self
        self.objectives = load()
        word = f"load-{datetime.now(UTC):%m%d%H%M%S}-{os.getpid() % 1000}"
        self.crowd = Crowd(
            Shop(self.url, word),
            self.environment,
            asked.seed,
            self.profile.hesitation,
        )
        self.session = requests.Session()
        self.session.trust_env = False
        self.came, self.people = [], []
        self.over = False
        self.broken = None
        """When and at which rate objectives broke, where that is looked for."""

    # -- before ---------------------------------------------------------------------------

    def prepare(self):
        """Sign people in and make what they will work on.

        :raises SystemExit: there is nothing to load.
        """
        accounts = Path(self.asked.accounts or self._own_accounts())
        if not accounts.exists():
            sys.exit(f"{accounts} is not there.\n  Next: make up, or ACCOUNTS=file")
        for account in json.loads(accounts.read_text()):
            self.crowd.shop.accounts[account["roles"][0]] = account
        self.renew()
        # Whoever checks tokens knows the keys from here on.
        for role in ROLES:
            self.ask("GET", "/api/v1/jobs?limit=1", role=role)
        Pool(4).map(self._make, range(PRODUCTS))
        page = self.ask("GET", "/api/v1/products?limit=100&sort=-created_at").json()
        shop = self.crowd.shop
        shop.shown = [item["id"] for item in page["items"]]
        words = {word for item in page["items"] for word in item["name"].split()}
        shop.words = sorted(word.lower() for word in words if word.isalpha()) or ["a"]

    def _own_accounts(self):
        return next(
            (
                path
                for mode in ("local", "docker")
                if (
                    path := ROOT
                    / f".run/{mode}-{self.asked.port_base}/secrets/auth_accounts.json"
                ).exists()
            ),
            ROOT / f".run/local-{self.asked.port_base}/secrets/auth_accounts.json",
        )

    def renew(self):
        """Get each role an access token, by the real flow."""
        Pool(len(ROLES)).map(self._renew, ROLES)

    def _renew(self, role):
        account = self.crowd.shop.accounts[role]
        asked = {"base_url": self.url, "scope": _SCOPE}
        asked |= {name: account[name] for name in ("email", "password")}
        done = gevent.subprocess.run(
            [str(ROOT / ".venv/bin/python"), "-c", _TOKEN],
            input=json.dumps(asked).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT / "deploy/local")},
            check=False,
        )
        if done.returncode == 0:
            self.crowd.shop.tokens[role] = json.loads(done.stdout)["access_token"]
        elif role not in self.crowd.shop.tokens:
            said = done.stderr.decode().strip().splitlines()[-2:]
            sys.exit(f"{account['email']} could not sign in: {' '.join(said)}")

    def _make(self, number):
        word = self.crowd.shop.run
        price = 100 + number
        sku = f"{word}-{number}"
        answer = self.ask(
            "POST",
            "/api/v1/products",
            role="merchandiser",
            json={"sku": sku, "name": f"Thing of {word}", "price_minor": price},
            headers={"Idempotency-Key": sku},
        )
        id_ = answer.json()["id"]
        self.crowd.shop.products.append(id_)
        self.crowd.ledger.wrote(f"/api/v1/products/{id_}", 1, price)

    def ask(self, method, path, *, role=None, headers=None, **options):
        """Send a request of the run's own, which no figure counts; patient."""
        headers = dict(headers or {})
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            if role:
                headers["Authorization"] = f"Bearer {self.crowd.shop.tokens[role]}"
            try:
                answer = self.session.request(
                    method, self.url + path, headers=headers, timeout=30, **options
                )
            except requests.ConnectionError as error:
                said = f"{self.url} does not answer ({type(error).__name__})."
            else:
                if answer.ok or answer.status_code == 404:
                    return answer
                said = f"{method} {path}: {answer.status_code} {answer.text[:300]}"
                if answer.status_code == 401 and role:
                    self.renew()
                elif answer.status_code < 500 and answer.status_code != 429:
                    sys.exit(said)
            if time.monotonic() > deadline:
                sys.exit(f"{said}\n  Next: make status")
            gevent.sleep(0.5)

    # -- the run --------------------------------------------------------------------------

    def go(self):
        """Let people in until the profile is over and they have left."""
        runner = self.environment.create_local_runner()
        page = None
        if self.asked.live:
            page = self.environment.create_web_ui("127.0.0.1", self.asked.live)
            print(f"load: live at http://localhost:{self.asked.live}")
        helpers = [gevent.spawn(stats_history, runner), gevent.spawn(self._keep)]
        self.crowd.started = time.perf_counter()
        runner.start(1, spawn_rate=1)
        helpers.append(gevent.spawn(self._look))
        while not self.over:
            gevent.sleep(0.2)
        end = time.monotonic() + _DRAIN_SECONDS
        while self.crowd.inside and time.monotonic() < end:
            gevent.sleep(0.1)
        gevent.killall(helpers)
        runner.quit()
        if page:
            page.stop()

    def _keep(self):
        while True:
            gevent.sleep(_RENEW_SECONDS)
            self.renew()

    def _look(self):
        while True:
            now = self.crowd.now()
            self.people.append((now, self.crowd.inside))
            if self.profile.at(now)[1] == SEARCH and not self.broken:
                self._search(now)
            if len(self.people) % 10 == 1 and sys.stdout.isatty():
                print(f"load: {now:5.0f} s  {self.crowd.inside} inside", flush=True)
            gevent.sleep(1)

    def _search(self, now):
        lately = [
            one
            for one in reversed(self.crowd.answers[-20_000:])
            if one.at > now - _BROKEN_SECONDS
        ]
        about_answers = ("availability", "read-latency")
        found = judge(
            {name: self.objectives[name] for name in about_answers}, lately, {}
        )
        if any(one.ok is False for one in found):
            rate = self.rate * self.profile.at(now)[0]
            said = "; ".join(one.said for one in found if one.ok is False)
            self.broken = (now, rate, said)

    # -- after ----------------------------------------------------------------------------

    def verdicts(self):
        """Judge what was seen, and look whether what was acknowledged is there."""
        crowd, profile = self.crowd, self.profile
        found = [graceful(crowd.answers)]
        if crowd.turned_off:
            said = f"{crowd.turned_off} people found no place in this program"
            found.append(Verdict("people", False, said))
        if any(one.phase == SEARCH for one in profile.stages):
            found.append(self._limit())
        elif profile.timed:
            counted = [one for one in crowd.answers if profile.judged(one.at)]
            found += judge(self.objectives, counted, crowd.delays(profile.judged))
            found += self._recovery()
        found.append(self._ledger())
        if self.local:
            found.append(self._invariants())
        late = quantile(crowd.late, 0.99)
        said = f"it was late by {late * 1000:.0f} ms (p99) with what it had to send"
        # No promise of the platform; but above this its own figures mean little.
        ok = late < 0.1 if profile.timed else None
        found.append(Verdict("this program", ok or None, said))
        return found

    def _limit(self):
        if not self.broken:
            said = "no objective broke: USERS=… for more people"
            return Verdict("limit", None, said)
        second, rate, what = self.broken
        said = f"broke at {rate:.1f} people a second after {second:.0f} s: {what}"
        return Verdict("limit", None, said)

    def _recovery(self):
        end = self.profile.overload_end
        if not end:
            return []
        after = [
            one
            for one in self.crowd.answers
            if self.profile.judged(one.at) and one.at > end
        ]
        objectives = {
            name: self.objectives[name] for name in ("availability", "read-latency")
        }
        return [
            Verdict(f"recovery: {one.name}", one.ok, one.said)
            for one in judge(objectives, after, {})
        ]

    def _ledger(self):
        ledger = self.crowd.ledger
        found = {}
        fresh = {"Cache-Control": "no-cache"}
        for path in ledger.entities:
            answer = self.ask("GET", path, role="customer", headers=fresh)
            if answer.ok:
                body = answer.json()
                value = body["title"] if "rating" in body and "title" in body else None
                found[path] = (body["version"], value or body.get("price_minor"))
        states = {path: self._ended(path) for path in ledger.jobs}
        lost = ledger.lost(found, states, self._made())
        said = (
            "; ".join(lost[:5])
            or f"{ledger.acknowledged} acknowledged writes are there"
        )
        return Verdict("ledger", not lost, said)

    def _ended(self, path):
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            state = self.ask("GET", path, role="operator").json().get("state", "gone")
            if state not in {"queued", "running"} or time.monotonic() > deadline:
                return state
            gevent.sleep(0.5)

    def _made(self):
        skus, cursor = set(), ""
        while cursor is not None:
            path = f"/api/v1/products?category={self.crowd.shop.run}&limit=100{cursor}"
            page = self.ask("GET", path, headers={"Cache-Control": "no-cache"}).json()
            skus |= {item["sku"] for item in page.get("items", ())}
            following = page.get("next_cursor")
            cursor = f"&cursor={following}" if following else None
        return skus

    def _invariants(self):
        base = f"PORT_BASE={self.asked.port_base}"
        mode = "docker" if "docker-" in str(self._own_accounts()) else "local"
        done = gevent.subprocess.run(
            ["make", "-s", "invariants", base, f"MODE={mode}", "FORMAT=json"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
        )
        try:
            broken = [one for one in json.loads(done.stdout) if one["broken"]]
        except ValueError:
            return Verdict("invariants", False, done.stderr.decode().strip())
        said = "; ".join(f"{one['service']}: {one['promise']}" for one in broken)
        return Verdict("invariants", not broken, said or "hold in each database")


def main():
    """Run what was asked for and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", choices=sorted(PROFILES), default="smoke")
    parser.add_argument("--users", type=float)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--live", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--host", default="")
    parser.add_argument("--accounts", default="")
    parser.add_argument("--port-base", type=int, default=8080)
    asked = parser.parse_args([word for word in sys.argv[1:] if not word.endswith("=")])
    # Locust's page would read them as its own.
    del sys.argv[1:]
    try:
        run = Run(asked)
    except NotAllowed as error:
        sys.exit(str(error))
    if not run.local and not asked.accounts:
        sys.exit(f"Who signs in at {run.url}?\n  Next: make load HOST=… ACCOUNTS=file")
    print(
        f"load: {asked.profile}, {run.users:g} people at once ({run.rate:.2f} a second),"
        f" {run.profile.seconds:g} s, {run.url}",
        flush=True,
    )
    run.prepare()
    run.go()
    from report import write  # here: what draws is loaded when it is needed

    verdicts = run.verdicts()
    about = {
        "profile": asked.profile,
        "host": run.url,
        "people at once": run.users,
        "people a second": round(run.rate, 3),
        "seconds": run.profile.seconds,
        "people who came": len(run.came),
        "most at once": run.crowd.most_inside,
        "requests sent": len(run.crowd.answers),
        "acknowledged writes": run.crowd.ledger.acknowledged,
        "seed": asked.seed,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "processors": os.cpu_count(),
    }
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{asked.profile}"
    page = write(
        ROOT / ".run" / "reports" / name,
        about,
        run.crowd,
        run.profile,
        run.came,
        run.people or [(0, 0)],
        verdicts,
        run.environment,
    )
    for one in verdicts:
        word = {True: "ok   ", False: "WRONG", None: "  -  "}[one.ok]
        print(f"{word}  {one.name}: {one.said}")
    print(f"load: {len(run.came)} people, {len(run.crowd.answers)} requests")
    print(f"load: {page.relative_to(ROOT)}")
    return 1 if any(one.ok is False for one in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
