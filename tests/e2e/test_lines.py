"""Bulk upserts in lines through the gateway: larger than other bodies, told as they go."""

import json

LINES = "/api/v1/products/bulk/lines"


def test_many_lines_are_written_and_told(stack, merchandiser, word):
    # 3 MB: other bodies end at one.
    body = "".join(
        json.dumps(
            {
                "sku": f"{word}-{number}",
                "name": f"Line {number} of {word}",
                "price_minor": number,
                "description": "x" * 1900,
            }
        )
        + "\n"
        for number in range(1, 1501)
    )
    with (
        merchandiser.client() as client,
        client.stream(
            "POST",
            LINES,
            content=body.encode(),
            headers={"Content-Type": "application/x-ndjson"},
            timeout=120,
        ) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        *told, last = map(json.loads, answer.iter_lines())

    assert [each["line"] for each in told] == list(range(1, 1501))
    assert last["summary"]["created"] == 1500
    with stack.client() as stranger:
        found = stranger.get(f"/api/v1/products/by-sku/{word}-777").json()
    assert found["price_minor"] == 777
