"""The catalog at 200,000 products: its reads, its writes, its search, and two other stacks.

    python tests/bench/bench_catalog.py [--products 200000] [--rounds 15] [--only lists]
        [--picture docs/images/catalog-bench.svg]

`cached` is a product through the gateway beside the gateway giving the same bytes as a
file, by the CPU of nginx: that does not depend on what else the machine does, nor on the
client. `lists` is a list of 50 made anew each time, beside a bare WSGI function that sends
the same statement and answers the same bytes under the same gunicorn, and beside the same
list written with FastAPI and SQLModel and with Flask-RESTful and Flask-SQLAlchemy
(`peers/`), on the same database, with one worker each. `writes` is a product created with
token, event and `Idempotency-Key` beside a bare `INSERT` of the same row, and a bare WSGI
function that leaves the same rows beside it too; all wait for the disk. `search` is what
people look for. All variants of a part run in turns, and the medians of the rounds' ratios
count.

Exits with 1 when a goal is missed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from itertools import count
from pathlib import Path
from random import Random
from urllib.parse import quote_plus

import psutil
import psycopg
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "local"))

from catalog.picture import picture
from catalog.server import ground, served
from conftest import Upstream, start_gateway
from figures import table
from identity.measure import Wire, cpu_seconds, message

from flagon_catalog.domain.assortment import Assortment

HERE = Path(__file__).parent
PRODUCTS = "/api/v1/products"
LIST = f"{PRODUCTS}?limit=50"
THREADS = "4"
CONNECTIONS = 8
QUERIES = 300

CACHED, LISTED, WRITTEN = (
    "cached product, of the same file",
    "list of 50, of a bare function",
    "write, of a bare INSERT",
)
SHARES = (CACHED, LISTED, WRITTEN)
OURS, BARE, KEPT = "the catalog", "a bare function", "the catalog, a kept list"
FASTAPI, RESTFUL = "FastAPI + SQLModel", "Flask-RESTful + Flask-SQLAlchemy"
GOALS = {
    CACHED: (">=", 0.80),
    LISTED: (">=", 0.60),
    WRITTEN: (">=", 0.30),
    f"list of 50, beside {FASTAPI}": (">", 1.0),
    f"list of 50, beside {RESTFUL}": (">", 1.0),
    "search, p95": ("<", 100.0),
}


@dataclass
class Sample:
    """Seconds for one request, the mean of a round."""

    wall: float
    cpu: float
    """Of the server."""
    database: float = 0.0
    """Of Postgres."""

    @property
    def both(self):
        """CPU of the server and of Postgres."""
        return self.cpu + self.database


def main():
    """Run the parts, print a table and draw it."""
    options = _options()
    rows = []
    with ground(
        options.products, believable=True, durable=True, THREADS=THREADS
    ) as base:
        parts = {"cached": cached, "lists": lists, "writes": writes, "search": search}
        for name, part in parts.items():
            if options.only in {None, name}:
                rows += part(base, options)
    missed = table(rows, GOALS)
    if options.picture and options.only is None:
        found = {what: figure for what, figure, _unit in rows}
        bars = [
            (
                name,
                found[f"{name}: a CPU second"],
                found[f"{name}: by the clock"],
                name == OURS,
            )
            for name in (BARE, OURS, FASTAPI, RESTFUL)
        ]
        shares = [(what, found[what], GOALS[what][1]) for what in SHARES]
        options.picture.write_text(picture(bars, shares, options.products))
    return 1 if missed else 0


def _options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=["cached", "lists", "writes", "search"])
    parser.add_argument("--picture", type=Path)
    return parser.parse_args()


# -- How it is measured ---------------------------------------------------------------------


def database_seconds(base):
    """Return what all of Postgres' processes have used so far."""
    children = psutil.Process(base.postgres).children(recursive=True)
    return sum(cpu_seconds(child.pid) for child in children)


def sampled(base, pid, work, times):
    """Return what one call of `work` costs a server, the mean of so many."""
    database, used, began = (
        database_seconds(base),
        cpu_seconds(pid),
        time.perf_counter(),
    )
    for _ in range(times):
        work()
    wall = time.perf_counter() - began
    used = cpu_seconds(pid) - used
    database = database_seconds(base) - database
    return Sample(wall / times, used / times, database / times)


def in_turns(variants, rounds):
    """Return the samples of each variant by name; the first round only warms up.

    :param variants: by name, what measures one round of it.
    """
    found = {name: [] for name in variants}
    for number in range(rounds + 1):
        order = list(variants) if number % 2 == 0 else list(reversed(variants))
        for name in order:
            found[name].append(variants[name]())
    return {name: samples[1:] for name, samples in found.items()}


def ratio(over, under, of):
    """Return the median of the rounds' ratios."""
    pairs = zip(over, under, strict=True)
    return statistics.median(getattr(a, of) / getattr(b, of) for a, b in pairs)


def median(samples, of):
    """Return the median of the rounds."""
    return statistics.median(getattr(one, of) for one in samples)


# -- A product that the gateway keeps -------------------------------------------------------


def cached(base, options):
    """Return the speed of a kept product beside that of a file."""
    with ExitStack() as stack:
        port, _ = stack.enter_context(served(base))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        # Eight connections of one address may come near the 20,000 a second of development.
        unlimited = {"GATEWAY_API_RATE": "1000000r/s"}
        upstream = Upstream(port=port)
        gateway = stack.enter_context(start_gateway(folder, upstream, **unlimited))
        master = int((folder / "nginx.pid").read_text())
        (worker,) = (
            child.pid
            for child in psutil.Process(master).children()
            if "worker process" in " ".join(child.cmdline())
        )
        wires = [
            stack.enter_context(closing(Wire(gateway.port))) for _ in range(CONNECTIONS)
        ]
        _, page = wires[0].ask(message("GET", f"{PRODUCTS}?limit=1"))
        path = f"{PRODUCTS}/{json.loads(page)['items'][0]['id']}"
        _, product = wires[0].ask(message("GET", path))
        (folder / "static" / "product.json").write_bytes(product)

        def asking(path_):
            request = message("GET", path_)

            def ask_all():
                # As many at once as there are connections, so that nginx is not asleep.
                for wire in wires:
                    wire.send(request)
                for wire in wires:
                    assert wire.receive() == (200, product)

            return lambda: sampled(base, worker, ask_all, 250)

        variants = {"ours": asking(path), "file": asking("/static/product.json")}
        found = in_turns(variants, options.rounds)
    microseconds = 1e6 / CONNECTIONS
    return [
        (CACHED, ratio(found["file"], found["ours"], "cpu"), "x"),
        ("cached product, CPU", median(found["ours"], "cpu") * microseconds, "us"),
        ("the same file, CPU", median(found["file"], "cpu") * microseconds, "us"),
    ]


# -- A list of 50, made anew ----------------------------------------------------------------


def lists(base, options):
    """Return the speed of a list beside a bare function and beside other stacks."""
    with ExitStack() as stack:
        wires = {}

        def variant(name, path, *command, **more):
            port, worker = stack.enter_context(served(base, *command, **more))
            wires[name] = stack.enter_context(closing(Wire(port)))
            request = message("GET", path)

            def ask():
                status, body = wires[name].ask(request)
                assert status == 200, body
                return body

            return ask, worker

        asks = {OURS: variant(OURS, LIST, ANSWER_SECONDS="0")}
        page = asks[OURS][0]()
        base.environment["BARE_CURSOR"] = json.loads(page)["next_cursor"]
        base.environment["PEER_POOL"] = THREADS
        program = [sys.executable, HERE / "catalog" / "bare_list.py"]
        asks[BARE] = variant(BARE, "/", program, "/")
        assert asks[BARE][0]() == page, "the bare function answers something else"
        asks[KEPT] = variant(KEPT, LIST)
        for name, command in peers(stack).items():
            asks[name] = variant(
                name, "/products?limit=50", command, "/products?limit=1"
            )
            assert alike(asks[name][0](), page), f"{name} answers something else"

        def sampling(ask, worker):
            return lambda: sampled(base, worker, ask, 20)

        variants = {name: sampling(*pair) for name, pair in asks.items()}
        found = in_turns(variants, options.rounds)
    rows = [
        (LISTED, ratio(found[BARE], found[OURS], "wall"), "x"),
        (f"{LISTED}: CPU with Postgres", ratio(found[BARE], found[OURS], "both"), "x"),
    ]
    for name in (FASTAPI, RESTFUL):
        what = f"list of 50, beside {name}"
        rows += [
            (what, ratio(found[name], found[OURS], "both"), "x"),
            (f"{what}: by the clock", ratio(found[name], found[OURS], "wall"), "x"),
        ]
    for name, samples in found.items():
        rows += [
            (f"{name}: a CPU second", 1 / median(samples, "both"), "requests"),
            (f"{name}: CPU", median(samples, "cpu") * 1e3, "ms"),
            (f"{name}: CPU of Postgres", median(samples, "database") * 1e3, "ms"),
            (f"{name}: by the clock", median(samples, "wall") * 1e3, "ms"),
        ]
    return rows


def peers(stack):
    """Install what the other stacks need; return how each is started."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    uv = Path(sys.executable).parent / "uv"
    program = folder / "bin" / "python"
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder], check=True)
    wanted = HERE / "peers" / "requirements.txt"
    subprocess.run(
        [uv, "pip", "install", "-q", "--python", program, "-r", wanted], check=True
    )
    where = HERE / "peers"
    return {
        FASTAPI: [
            *(program, "-m", "uvicorn", "--app-dir", where, "--port", "{port}"),
            # As the catalog, which writes no line for a request here.
            *(
                "--no-access-log",
                "--log-level",
                "warning",
                "--timeout-keep-alive",
                "75",
            ),
            "fastapi_sqlmodel:app",
        ],
        RESTFUL: [
            *(program, "-m", "gunicorn", "--chdir", where, "-b", "127.0.0.1:{port}"),
            *("--workers", "1", "--threads", THREADS, "--keep-alive", "75"),
            *("--log-level", "warning", "flask_restful_sqlalchemy:app"),
        ],
    }


def alike(one, other):
    """Say whether two pages show the same of the same products, but for forms of times."""
    timeless = [
        [
            {**item, "created_at": "", "updated_at": ""}
            for item in json.loads(page)["items"]
        ]
        for page in (one, other)
    ]
    return timeless[0] == timeless[1]


# -- Writing --------------------------------------------------------------------------------

INSERT = """
insert into product (id, sku, slug, name, description, price_minor, currency, status,
    stock, category_id, attributes)
values (%(id)s, %(sku)s, %(slug)s, %(name)s, %(description)s, %(price_minor)s,
    %(currency)s, %(status)s, %(stock)s, %(category_id)s, %(attributes)s)
"""


def writes(base, options):
    """Return the speed of a write with all that belongs to it beside that of the row."""
    with ExitStack() as stack:
        program = [sys.executable, HERE / "catalog" / "bare_write.py"]
        servers = {
            "ours": stack.enter_context(served(base)),
            "function": stack.enter_context(served(base, program, "/")),
        }
        wires = {
            name: stack.enter_context(closing(Wire(port)))
            for name, (port, _worker) in servers.items()
        }
        connection = stack.enter_context(psycopg.connect(base.database))
        shelves = dict(connection.execute("select slug, id from category").fetchall())
        connection.commit()
        assortment, numbers = _assortment(), count(options.products + 1)

        def product():
            number = next(numbers)
            # With a slug of its own: names are soon taken.
            sku = f"bench-{number}"
            return {**assortment.product(number), "sku": sku, "slug": sku, "tags": []}

        def create(wire, body):
            key = {"Idempotency-Key": body["sku"], "Content-Type": "application/json"}
            request = message(
                "POST", PRODUCTS, {**base.headers, **key}, json.dumps(body).encode()
            )
            began = time.perf_counter()
            status, answer = wire.ask(request)
            took = time.perf_counter() - began
            assert status == 201, answer
            return took

        def insert(body):
            shelf = shelves[body.pop("category")]
            attributes = Jsonb(body["attributes"])
            began = time.perf_counter()
            connection.execute(
                INSERT,
                {**body, "id": uuid7(), "category_id": shelf, "attributes": attributes},
            )
            connection.commit()
            return time.perf_counter() - began

        def sampling(write, pid):
            def sample():
                bodies, took = [product() for _ in range(20)], []
                used = sampled(base, pid, lambda: took.append(write(bodies.pop())), 20)
                # Without what the client does before and after.
                return Sample(statistics.mean(took), used.cpu, used.database)

            return sample

        variants = {
            name: sampling(partial(create, wires[name]), worker)
            for name, (_port, worker) in servers.items()
        }
        variants["bare"] = sampling(insert, servers["ours"][1])
        found = in_turns(variants, options.rounds)
    return [
        (WRITTEN, ratio(found["bare"], found["ours"], "wall"), "x"),
        (
            "the same rows by a bare function, of a bare INSERT",
            ratio(found["bare"], found["function"], "wall"),
            "x",
        ),
        (
            "write, of that bare function",
            ratio(found["function"], found["ours"], "wall"),
            "x",
        ),
        ("the same rows, by the clock", median(found["function"], "wall") * 1e3, "ms"),
        ("the same rows, CPU", median(found["function"], "cpu") * 1e3, "ms"),
        ("write, by the clock", median(found["ours"], "wall") * 1e3, "ms"),
        ("write, CPU", median(found["ours"], "cpu") * 1e3, "ms"),
        ("write, CPU of Postgres", median(found["ours"], "database") * 1e3, "ms"),
        ("bare INSERT, by the clock", median(found["bare"], "wall") * 1e3, "ms"),
        ("bare INSERT, CPU of Postgres", median(found["bare"], "database") * 1e3, "ms"),
    ]


def _assortment():
    data = json.loads((files("flagon_catalog") / "assortment.json").read_text())
    return Assortment(data, 0)


# -- Searching ------------------------------------------------------------------------------


def search(base, options):
    """Return how long searches take, each asked for once and made anew."""
    with (
        served(base, ANSWER_SECONDS="0") as (port, _),
        closing(Wire(port)) as wire,
    ):
        seconds, empty = [], 0
        for number, q in enumerate(queries(options.products)):
            request = message("GET", f"{PRODUCTS}?q={quote_plus(q)}")
            began = time.perf_counter()
            status, body = wire.ask(request)
            took = time.perf_counter() - began
            assert status == 200, body
            # The first ones load code and warm Postgres' pages.
            if number >= 20:
                seconds.append(took)
                empty += not json.loads(body)["items"]
    cuts = statistics.quantiles(seconds, n=100)
    return [
        *((f"search, p{cut}", cuts[cut - 1] * 1e3, "ms") for cut in (50, 95, 99)),
        ("searches that find nothing", 100 * empty / len(seconds), "%"),
    ]


def queries(products):
    """Yield what people look for: words of products, phrases, and what nobody sells."""
    dice, assortment = Random(1), _assortment()
    for number in range(QUERIES + 20):
        product = assortment.product(dice.randint(1, products))
        name = product["name"].replace(",", "").split()
        told = product["description"].replace("*", "").replace(".", "").split()
        match number % 10:
            case 0 | 1 | 2:
                yield dice.choice(name)
            case 3 | 4 | 5 | 6:
                yield " ".join(dice.sample(name, min(2, len(name))))
            case 7:
                at = dice.randrange(len(told) - 1)
                yield f'"{told[at]} {told[at + 1]}"'
            case 8:
                yield f"{name[-1]} -{dice.choice(told)}"
            case _:
                yield f"{name[-1]} xylo{number}"


if __name__ == "__main__":
    sys.exit(main())
