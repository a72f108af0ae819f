"""What people do on a visit, and how often."""

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

_ENDED = ("succeeded", "failed", "cancelled")
_FIELD = re.compile(r'<input[^>]*\bname="([^"]+)"[^>]*\bvalue="([^"]*)"')
_GONE_ON = (404,)
_POPULAR = 5
"""Products that are watched, and that every second change is about."""
_LOOKS = 30
"""How often somebody looks whether their job has ended before they go away."""


def browse(visitor):
    """Open the shop, leaf through it, look at something."""
    visitor.get("/", "home page")
    visitor.think(3)
    page = visitor.get("/api/v1/products?limit=24", "list").json()
    for _ in range(2):
        if not page["next_cursor"]:
            break
        visitor.think(4)
        path = f"/api/v1/products?limit=24&cursor={page['next_cursor']}"
        page = visitor.get(path, "list, next page").json()
    visitor.think(3)
    _look(visitor)


def search(visitor):
    """Search twice, and open what was found."""
    for _ in range(2):
        word = visitor.chance.choice(visitor.shop.words)
        visitor.get(f"/api/v1/products?q={word}&limit=20", "search")
        visitor.think(4)
    visitor.get(f"/search?q={word}", "search page")
    visitor.think(2)
    _look(visitor)


def product(visitor):
    """Come by a link, read the page and its reviews, reload."""
    id_ = visitor.chance.choice(visitor.shop.shown)
    visitor.get(f"/products/{id_}", "product page")
    visitor.think(5)
    visitor.get(f"/api/v1/products/{id_}/reviews", "reviews", expected=_GONE_ON)
    visitor.think(6)
    _look(visitor, id_)


def _look(visitor, id_=None):
    id_ = id_ or visitor.chance.choice(visitor.shop.shown)
    visitor.get(f"/api/v1/products/{id_}", "product", expected=_GONE_ON)


def watch(visitor):
    """Keep a product open while it changes."""
    id_ = visitor.chance.choice(visitor.shop.products[:_POPULAR])
    visitor.get(f"/api/v1/products/{id_}", "product")
    came = {}

    def seen(event):
        if event["type"] == "market.flagon.product.changed.v1":
            came.setdefault(event["data"]["version"], visitor.crowd.now())

    opened = visitor.follow(f"products/{id_}", 12 * visitor.crowd.hesitation, seen)
    visitor.crowd.watched.append((id_, opened + 1, visitor.crowd.now(), came))


def sign_in(visitor):
    """Type a password, look at the account."""
    page = visitor.get("/login", "sign-in page")
    fields = dict(_FIELD.findall(page.text))
    visitor.think(6)
    account = visitor.shop.accounts["customer"]
    fields |= {"email": account["email"], "password": account["password"]}
    visitor.send("POST", "/login", "password", data=fields)
    visitor.get("/account", "account page")


def review(visitor):
    """Read, think, write a review or change the own one."""
    crowd = visitor.crowd
    id_ = _alone(visitor, "review")
    if id_ is None:
        return
    try:
        visitor.get(f"/api/v1/products/{id_}", "product")
        visitor.think(8)
        title = f"Thought {uuid4().hex[:8]}"
        path = crowd.reviews.get(id_)
        stars = visitor.chance.randint(1, 5)
        if path is None:
            body = {"author": "Somebody", "rating": stars, "title": title}
            answer = _write(
                visitor, "POST", f"/api/v1/products/{id_}/reviews", "review", body
            )
            if answer.status_code == 409:
                # One whose answer got lost was written.
                return
            path = f"/api/v1/reviews/{answer.json()['id']}"
            crowd.reviews[id_] = path
        else:
            tag = visitor.get(path, "own review", role="customer").headers["etag"]
            body = {"rating": stars, "title": title}
            answer = _write(visitor, "PATCH", path, "review", body, tag=tag)
        crowd.ledger.wrote(path, answer.json()["version"], title)
    finally:
        crowd.busy.discard(("review", id_))


def edit(visitor):
    """Change the price of a product."""
    crowd = visitor.crowd
    id_ = _alone(visitor, "edit")
    if id_ is None:
        return
    path = f"/api/v1/products/{id_}"
    try:
        fresh = {"Cache-Control": "no-cache"}
        tag = visitor.get(path, "product to edit", headers=fresh).headers["etag"]
        visitor.think(4)
        price = visitor.chance.randint(100, 100_000)
        answer = _write(
            visitor,
            "PATCH",
            path,
            "product",
            {"price_minor": price},
            tag=tag,
            role="merchandiser",
        )
        version = answer.json()["version"]
        crowd.written[id_, version] = crowd.now()
        crowd.ledger.wrote(path, version, price)
    finally:
        crowd.busy.discard(("edit", id_))


def _alone(visitor, what):
    """Return a product that nobody else is at; None when all are taken."""
    free = [
        id_ for id_ in visitor.shop.products if (what, id_) not in visitor.crowd.busy
    ]
    if not free:
        return None
    if visitor.chance.random() < 0.5:
        free = [id_ for id_ in visitor.shop.products[:_POPULAR] if id_ in free] or free
    id_ = visitor.chance.choice(free)
    visitor.crowd.busy.add((what, id_))
    return id_


def _write(visitor, method, path, name, body, *, tag=None, role="customer"):
    """Send a write; what becomes of it is unknown until there is an answer."""
    headers = {"If-Match": tag} if tag else {"Idempotency-Key": uuid4().hex}
    # Before: the answer may never come.
    visitor.crowd.ledger.unanswered(path)
    answer = visitor.send(
        method,
        path,
        name,
        json=body,
        headers=headers,
        role=role,
        expected=(409,) if method == "POST" else (),
    )
    if known := visitor.crowd.ledger.entities.get(path):
        known.unanswered -= 1
    return answer


def import_file(visitor):
    """Hand in a supplier's file and wait for it."""
    crowd = visitor.crowd
    crowd.imports += 1
    skus = [f"{visitor.shop.run}-i{crowd.imports}-{n}" for n in range(5)]
    rows = "".join(f"{sku},Thing {sku},9.95\n" for sku in skus)
    params = {
        "mapping": {"sku": "code", "name": "title", "price": "price"},
        "defaults": {"currency": "EUR", "stock": 3, "category": visitor.shop.run},
        "dry_run": False,
    }
    path = _submit(visitor, "import", params, f"code,title,price\n{rows}")
    crowd.ledger.accepted(path, skus)
    _wait(visitor, path, "merchandiser")


def probe(visitor):
    """See whether the queue is served, as operators do."""
    path = _submit(visitor, "probe", {"seconds": 0})
    visitor.crowd.ledger.accepted(path, [])
    at = visitor.crowd.now()
    job = _wait(visitor, path, "operator")
    if job and job["started_at"]:
        times = [
            datetime.fromisoformat(job[name]) for name in ("created_at", "started_at")
        ]
        started = (times[1] - times[0]).total_seconds()
        visitor.crowd.job_starts.append((at, started))


def _submit(visitor, kind, params, file=None):
    boundary = uuid4().hex
    parts = [("kind", kind), ("params", json.dumps(params))]
    body = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'
        for name, text in parts
    )
    if file:
        body += (
            f"--{boundary}\r\nContent-Disposition: form-data;"
            ' name="file"; filename="supplier.csv"\r\nContent-Type: text/csv\r\n\r\n'
            f"{file}\r\n"
        )
    answer = visitor.send(
        "POST",
        "/api/v1/jobs",
        f"job ({kind})",
        data=f"{body}--{boundary}--\r\n".encode(),
        headers={
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Idempotency-Key": uuid4().hex,
        },
        role="merchandiser" if file else "operator",
    )
    location = answer.headers["location"]
    return location[location.index("/api/v1/jobs/") :]


def _wait(visitor, path, role):
    for _ in range(_LOOKS):
        visitor.think(1)
        job = visitor.get(path, "job", role=role).json()
        if job["state"] in _ENDED:
            return job
    return None


@dataclass(frozen=True)
class Journey:
    """One way to visit."""

    go: Any
    weight: int
    seconds: float
    """How long it takes where answers take no time."""


JOURNEYS = (
    Journey(browse, 38, 12),
    Journey(search, 18, 10),
    Journey(product, 16, 11),
    Journey(watch, 8, 12),
    Journey(sign_in, 4, 6),
    Journey(review, 5, 8),
    Journey(edit, 7, 4),
    Journey(import_file, 2, 2),
    Journey(probe, 2, 2),
)

MEAN_SECONDS = sum(one.weight * one.seconds for one in JOURNEYS) / sum(
    one.weight for one in JOURNEYS
)
"""So long a person stays; as many people a second as this goes into makes that many at
once (Little's law), as long as answers take no time."""


def choose(chance, number):
    """Return the function of a journey: of the first people each has another one."""
    if number < len(JOURNEYS):
        return JOURNEYS[number].go
    [found] = chance.choices(JOURNEYS, [one.weight for one in JOURNEYS])
    return found.go
