"""Suppliers' files, and what becomes of them."""

import csv
import io
import json

import httpx2

from harness.waiting import until

ENDED = ("succeeded", "failed", "cancelled")
MAPPING = {
    "sku": "code",
    "name": "title",
    "attributes.maker": "maker",
    "price": "price",
}


def rows(prefix, count, *, refused=0):
    """Return the rows of a supplier's file, header first.

    :param refused: how many of the rows break a rule (no name), spread over the file.
    """
    table = [["code", "title", "maker", "price"]]
    bad = {count * (i + 1) // (refused + 1) for i in range(refused)}
    for n in range(1, count + 1):
        title = "" if n in bad else f"Thing {n} of {prefix}"
        table.append([f"{prefix}-{n:05}", title, f"Maker, {n % 97}", f"{n % 500}.95"])
    return table


def as_csv(table, *, delimiter=",", encoding="utf-8"):
    """Return a table as the bytes of a file."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(table)
    return text.getvalue().encode(encoding)


def params(category, **changes):
    """Return the import parameters for a file of `rows`."""
    return {
        "mapping": MAPPING,
        "defaults": {"currency": "EUR", "stock": 3, "category": category},
        "dry_run": False,
    } | changes


def form(content, chosen, *, name="supplier.csv"):
    """Return fields and files of the form that hands a file in."""
    fields = {"kind": "import", "params": json.dumps(chosen)}
    return fields, {"file": (name, content, "text/csv")}


def submit(person, content, chosen, *, name="supplier.csv", key=None, headers=None):
    """Hand a file in and return the response (202 with a Location)."""
    extra = {"Idempotency-Key": key} if key else {}
    fields, files = form(content, chosen, name=name)
    with person.client() as client:
        return client.post(
            "/api/v1/jobs",
            data=fields,
            files=files,
            headers=extra | (headers or {}),
            timeout=httpx2.Timeout(120.0, connect=5.0),
        )


def accepted(person, content, chosen, **options):
    """Hand a file in and return the path of its job."""
    answer = submit(person, content, chosen, **options)
    assert answer.status_code == 202, (answer.status_code, answer.text)
    location = answer.headers["location"]
    return location[location.index("/api/v1/jobs/") :]


def look(person, path):
    """Return the job as it is now; patient while the platform recovers."""
    answer = person.patiently("GET", path)
    assert answer.status_code == 200, (answer.status_code, answer.text)
    return answer.json()


def ended(person, path, seconds=300):
    """Wait for the end of a job and return it."""

    def end():
        job = look(person, path)
        return job if job["state"] in ENDED else None

    return until(end, seconds, pause=0.2, what=f"the end of {path}")


def running(person, path, seconds=180):
    """Wait until a job has done some of its rows and return it.

    On a busy machine it may have ended before anybody could look.
    """

    def begun():
        job = look(person, path)
        return job if job["progress"]["done"] or job["state"] in ENDED else None

    return until(begun, seconds, pause=0.02, what=f"progress of {path}")


def products(stack, category):
    """Return every product of a category, page by page."""
    found = []
    with stack.client(headers={"Cache-Control": "no-cache"}) as client:
        cursor = None
        while True:
            query = {"category": category, "limit": 100}
            if cursor:
                query["cursor"] = cursor

            def answered(query=query):
                answer = client.get("/api/v1/products", params=query)
                # The gateway may still be learning where a new container is.
                assert answer.status_code == 200, answer.text
                return answer.json()

            page = until(
                answered,
                what="a page of products",
                ignore=(httpx2.TransportError, AssertionError),
            )
            found += page["items"]
            cursor = page["next_cursor"]
            if not cursor:
                return found
