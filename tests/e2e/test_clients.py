"""The clients that `make clients` makes of the document, through the gateway."""

import json
import os
import shutil
import subprocess
import sys
import uuid

import pytest
from harness import engine

from flagon_chassis.testing import lacking

ROOT = engine.ROOT


def make(language):
    subprocess.run(
        ["sh", str(ROOT / "deploy/clients.sh"), language], check=True, timeout=300
    )


@pytest.fixture(scope="module")
def python_client(stack, merchandiser):
    """A client of Python with a merchandiser's token."""
    make("python")
    sys.path.insert(0, str(ROOT / "clients/python"))
    from flagon_client import AuthenticatedClient

    with AuthenticatedClient(base_url=stack.url, token=merchandiser.token) as client:
        yield client


class TestPython:
    def test_makes_each_thing_once_for_its_key(self, python_client, word):
        from flagon_client.api.products import create_product
        from flagon_client.models import NewProduct, ProductView

        new = NewProduct(sku=word, name="Of a client", price_minor=100)
        key = str(uuid.uuid4())
        first, second = (
            create_product.sync(client=python_client, body=new, idempotency_key=key)
            for _ in range(2)
        )

        assert isinstance(first, ProductView)
        assert first.id == second.id
        assert first.sku == word

    def test_goes_through_a_list_by_pages(self, python_client, word):
        from flagon_client.api.products import create_product, list_products
        from flagon_client.models import NewProduct

        for number in range(5):
            sku = f"{word}-{number}"
            new = NewProduct(sku=sku, name=f"Page {word}", price_minor=number)
            create_product.sync(client=python_client, body=new)
        found, cursor = [], None
        while True:
            asked = {"cursor": cursor} if cursor else {}
            page = list_products.sync(client=python_client, q=word, limit=2, **asked)
            found += [item.sku for item in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break

        assert sorted(found) == [f"{word}-{number}" for number in range(5)]

    def test_tells_a_conflict_as_a_problem(self, python_client, word):
        from flagon_client.api.products import change_product, create_product
        from flagon_client.models import NewProduct, Problem, ProductChange

        new = NewProduct(sku=word, name="Edited twice", price_minor=100)
        made = create_product.sync_detailed(client=python_client, body=new)
        tag, id_ = made.headers["ETag"], made.parsed.id

        def change(price):
            return change_product.sync_detailed(
                id_, client=python_client, if_match=tag, body=price
            )

        mine = change(ProductChange(price_minor=200))
        late = change(ProductChange(price_minor=300))

        assert mine.parsed.price_minor == 200
        # What was not set was not sent.
        assert mine.parsed.name == "Edited twice"
        assert late.status_code == 412
        assert isinstance(late.parsed, Problem)
        assert late.parsed.type_.endswith("#version-stale")

    def test_refuses_nothing_that_the_examples_show(self, python_client, stack, word):
        """What the document shows as a body is taken as it is."""
        document = python_client.get_httpx_client().get("/api/openapi.json").json()
        client = python_client.get_httpx_client()
        for path, needs in (
            ("/api/v1/tags", {"slug": "sale"}),
            ("/api/v1/categories", {"slug": "kitchen"}),
            ("/api/v1/products", {}),
        ):
            body = document["paths"][path]["post"]["requestBody"]
            example = body["content"]["application/json"]["example"] | needs
            answer = client.post(path, json=example)
            # Another test or a run before may have made it.
            assert answer.status_code in {201, 409}, answer.text


class TestTypeScript:
    def test_compiles_strictly_and_works(self, stack, merchandiser, word):
        if not (shutil.which("node") and shutil.which("npm")):
            lacking("Node with npm", "BROWSER=1 make setup")
        make("typescript")

        done = subprocess.run(
            ["node", "clients/typescript/build/try.js"],
            check=False,
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "FLAGON_URL": stack.url,
                "FLAGON_TOKEN": merchandiser.token,
                "FLAGON_SLUG": word,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )

        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {
            "slug": word,
            "again": "tag-slug-taken",
            "gone": 204,
        }
