"""Twenty people at an address, one each 50 ms, and one who should have come 5 s ago.

    .venv/load/bin/python tests/load/queue_at.py http://127.0.0.1:8000

Prints, for each answer, when its request was meant, how long it took and its status.
"""

import locust  # isort: skip (first, as in run.py)

import json
import sys

import gevent
from crowd import Crowd, Shop


def main():
    """Let them in and print what they saw."""
    environment = locust.env.Environment()
    crowd = Crowd(Shop(sys.argv[1], "queue"), environment, seed=1)
    for due in (-5.0, *(number * 0.05 for number in range(20))):
        crowd.let_in(lambda visitor: visitor.get("/", "door"), due)
    while crowd.inside or len(crowd.answers) < 21:
        gevent.sleep(0.05)
    seen = [[one.at, one.seconds, one.status] for one in crowd.answers]
    print(json.dumps(sorted(seen)))


if __name__ == "__main__":
    main()
