"""Products become a file, through the gateway, the worker and the catalog."""

import csv
import gzip
import io
import json

from harness import imports

PRODUCTS = "/api/v1/products"


class TestExport:
    def test_holds_the_products_that_were_asked_for(self, merchandiser, word):
        with merchandiser.client() as client:
            made = [
                client.post(
                    PRODUCTS,
                    json={"sku": f"{word}-{n}", "name": f"={word}", "price_minor": n},
                ).json()
                for n in range(3)
            ]
            answer = client.post(
                "/api/v1/jobs",
                files={
                    "kind": (None, "export"),
                    "params": (None, json.dumps({"q": word, "gzip": True})),
                },
            )
            assert answer.status_code == 202, answer.text
            job = imports.ended(merchandiser, answer.headers["Location"])
            assert job["state"] == "succeeded", job["error"]
            file = client.get(job["artefacts"][0]["url"])

            text = gzip.decompress(file.content).decode()
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
            assert [row["id"] for row in rows] == sorted(one["id"] for one in made)
            assert {row["name"] for row in rows} == {f"'={word}"}
            for one in made:
                path = f"{PRODUCTS}/{one['id']}"
                tag = client.get(path).headers["ETag"]
                client.delete(path, headers={"If-Match": tag})
