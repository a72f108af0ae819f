"""Enumeration: whether time tells which addresses have an account.

    python tests/bench/bench_enumeration.py [--samples 200] [--only login]

Asks in turns for an address that has an account and for one that has none, in random
order, and compares the two by their ranks (Mann and Whitney, two-sided). A part misses
its goal when p is at most 0.01 in two runs one after the other: once is chance in one of
a hundred honest runs. `larger` is how often the known address took longer; 0.50 is never
more often than the other.

Exits with 1 when a goal is missed.
"""

import argparse
import math
import os
import random
import sys
import time
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from identity.servers import EMAIL, ground
from identity.visitor import hidden_fields

P_MIN = 0.01
WRONG = "not-the-password-of-anybody-5"
NEW = "walnut-ferry-58-lantern"


def main():
    """Run the parts and print a table."""
    options = _options()
    with ground() as base:
        os.environ.update(base.environment | {"AUTH_REGISTER_LIMIT": "1000000"})
        app = _app()
        missed = 0
        print(f"\n{'what':<28}{'known ms':>10}{'unknown ms':>12}{'larger':>9}{'p':>8}")
        for name, ask in {
            "login": login,
            "forgot": forgot,
            "register": register,
        }.items():
            if options.only not in {None, name}:
                continue
            for _ in range(2):
                known, unknown = _in_turns(app, ask, options.samples)
                larger, p = ranks(known, unknown)
                print(
                    f"{name:<28}{_middle(known):>10.2f}{_middle(unknown):>12.2f}"
                    f"{larger:>9.3f}{p:>8.3f}"
                )
                if p > P_MIN:
                    break
            else:
                missed += 1
                print(f"{name}: MISSED, time tells who has an account")
        app.extensions["flagon.sessions"].kw["bind"].dispose()
    return 1 if missed else 0


def _options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--only", choices=["login", "forgot", "register"])
    return parser.parse_args()


def _app():
    from flagon_auth.app import create_app
    from flagon_auth.clients.guesses import Allowance, Rule

    app = create_app()
    # Here the time of an answer is of interest, not when it is refused.
    rules = app.extensions["flagon.auth"].guesses._rules
    rules["mail"] = Rule(account=Allowance(10**6, 60), place=Allowance(10**6, 60))
    return app


def login(client, email):
    """Send a wrong password."""
    return _send(client, "/login", email=email, password=WRONG)


def forgot(client, email):
    """Ask for a link to choose a new password."""
    return _send(client, "/password/forgot", email=email)


def register(client, email):
    """Register, which a known address must not be told from a new one by."""
    return _send(client, "/register", email=email, password=NEW, name="Bench")


def _send(client, path, **fields):
    hidden = hidden_fields(client.get(path).get_data(as_text=True))
    started = time.perf_counter()
    answer = client.post(path, data={**hidden, **fields})
    seconds = time.perf_counter() - started
    assert answer.status_code in {303, 422}, answer.get_data(as_text=True)
    return seconds


_numbers = count()


def _in_turns(app, ask, samples):
    """Return the seconds of both kinds, after a few that do not count."""
    known, unknown = [], []
    client = app.test_client()
    for number in range(samples + 10):
        turns = [
            (known, EMAIL),
            # As long as the other: its length is not what is compared.
            (unknown, f"b{next(_numbers):04}@flagon.test"),
        ]
        random.shuffle(turns)
        for found, email in turns:
            seconds = ask(client, email)
            if number >= 10:
                found.append(seconds)
    return known, unknown


def ranks(one, other):
    """Return how often one is larger than the other, and how likely chance is (p)."""
    both = sorted([(value, 1) for value in one] + [(value, 0) for value in other])
    sum_of_ranks = sum(rank for rank, (_, mine) in enumerate(both, 1) if mine)
    pairs = len(one) * len(other)
    larger = (sum_of_ranks - len(one) * (len(one) + 1) / 2) / pairs
    spread = math.sqrt(pairs * (len(both) + 1) / 12) / pairs
    return larger, math.erfc(abs(larger - 0.5) / spread / math.sqrt(2))


def _middle(seconds):
    return sorted(seconds)[len(seconds) // 2] * 1000


if __name__ == "__main__":
    sys.exit(main())
