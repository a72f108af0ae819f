"""What is known of a product and of a job after their end, through the gateway."""

import json

from harness.waiting import until

PRODUCTS = "/api/v1/products"


class TestAudit:
    def test_tells_who_made_archived_and_deleted_a_product(
        self, stack, merchandiser, admin, word
    ):
        with merchandiser.client() as client:
            new = {
                "sku": word,
                "name": word,
                "price_minor": 900,
                "description": "# Of *glass*\n\n<script>alert(1)</script>",
            }
            made = client.post(PRODUCTS, json=new)
            assert made.status_code == 201, made.text
            path = f"{PRODUCTS}/{made.json()['id']}"
            with stack.client() as stranger:
                shown = stranger.get(path).json()
            any_version = {"If-Match": "*"}
            assert client.delete(path, headers=any_version).status_code == 204
            refused = client.delete(f"{path}?permanently=true", headers=any_version)
            curious = client.get("/api/v1/audit")
        with stack.client() as stranger:
            # The gateway may show for a second what it has just shown.
            until(lambda: stranger.get(path).status_code == 404, what="a 404")
        with admin.client() as client:
            gone = client.delete(f"{path}?permanently=true", headers=any_version)
            found = client.get("/api/v1/audit", params={"id": made.json()["id"]})

        assert shown["description_html"].startswith("<h3>Of <em>glass</em></h3>")
        assert "<script" not in shown["description_html"]
        assert refused.status_code == curious.status_code == 403
        assert gone.status_code == 204, gone.text
        rows = found.json()["items"]
        assert [row["action"] for row in rows] == ["deleted", "updated", "created"]
        assert rows[1]["changes"] == {"status": {"from": "active", "to": "archived"}}
        assert rows[2]["actor"] == rows[1]["actor"] != rows[0]["actor"]
        assert rows[2]["request_id"] == made.headers["X-Request-ID"]
        assert all(row["client"] for row in rows)

    def test_tells_who_handed_a_job_in_and_who_forgot_it(
        self, merchandiser, operator, word
    ):
        mapping = {"mapping": {"sku": "sku", "name": "name"}}
        with merchandiser.client() as client:
            made = client.post(
                "/api/v1/jobs",
                data={"kind": "import", "params": json.dumps(mapping)},
                files={"file": (f"{word}.csv", f"sku,name\n{word},{word}\n".encode())},
            )
            assert made.status_code == 202, made.text
            job = made.json()["id"]
            curious = client.get("/api/v1/jobs/audit")
        with operator.client() as client:
            until(
                lambda: client.get(f"/api/v1/jobs/{job}").json()["finished_at"],
                what="the end of the import",
            )
            gone = client.delete(f"/api/v1/jobs/{job}", headers={"If-Match": "*"})
            found = client.get("/api/v1/jobs/audit", params={"id": job})

        assert curious.status_code == 403
        assert gone.status_code == 204, gone.text
        rows = found.json()["items"]
        assert [row["action"] for row in rows] == ["deleted", "created"]
        assert rows[0]["actor"] != rows[1]["actor"]
        assert rows[1]["changes"]["upload"]["to"]["name"] == f"{word}.csv"
        assert rows[1]["request_id"] == made.headers["X-Request-ID"]
