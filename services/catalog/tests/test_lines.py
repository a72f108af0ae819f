"""Bulk upserts in lines: any number of products, each judged and told on its own."""

import io
import json
import tracemalloc
from uuid import uuid4

import pytest
from sqlalchemy import func, select

from flagon_catalog.models import Product
from flagon_catalog.routes import lines

LINES = "/api/v1/products/bulk/lines"
NDJSON = "application/x-ndjson"


def line(sku, **fields):
    return json.dumps({"sku": sku, "name": f"N {sku}", "price_minor": 1, **fields})


@pytest.fixture
def post(client, merchandiser):
    def post(body, content_type=NDJSON, **headers):
        return client.post(
            LINES,
            data=body,
            content_type=content_type,
            headers={**merchandiser, **headers},
        )

    return post


@pytest.fixture
def send(post):
    """Send lines; return what is told of each, and the summary."""

    def send(*texts):
        body = "\n".join(texts) if texts and isinstance(texts[0], str) else texts[0]
        answer = post(body)
        assert answer.status_code == 200, answer.text
        assert answer.mimetype == NDJSON
        *told, last = map(json.loads, answer.text.splitlines())
        return told, last["summary"]

    return send


class TestLines:
    def test_tell_what_became_of_each(self, send, client):
        told, summary = send(line("a"), line("b", name=""), line("a"), line("a"))

        assert told[0] == {"line": 1, "sku": "a", "outcome": "created", "errors": []}
        assert told[1]["outcome"] == "refused"
        assert told[1]["errors"][0]["pointer"] == "#/name"
        assert [each["outcome"] for each in told[2:]] == ["unchanged"] * 2
        assert summary == {"created": 1, "updated": 0, "unchanged": 2, "refused": 1}
        assert client.get("/api/v1/products/by-sku/a").json["name"] == "N a"

    def test_sent_again_change_nothing(self, send, sent):
        body = [line(f"s{number}") for number in range(3)]
        send(*body)
        events = len(sent())

        _, summary = send(*body)

        assert (summary["unchanged"], len(sent())) == (3, events)

    @pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n\n", "\n  \n"])
    def test_end_as_they_like(self, send, end):
        told, _ = send(f"{line('a')}\r\n\n{line('b')}{end}".encode())

        assert [(each["line"], each["sku"]) for each in told] == [(1, "a"), (3, "b")]

    def test_may_be_none(self, send):
        assert send(b"") == ([], dict.fromkeys(lines.BulkSummary.model_fields, 0))

    @pytest.mark.parametrize(
        "text",
        [
            b"{",
            b"[]",
            b"7",
            b"null",
            b'"text"',
            b"\xff\xfe",
            b"{}{}",
            b'{"sku": "x", "name": "\\u0000", "price_minor": 1}',
            b'{"sku": "x", "name": "\\ud800", "price_minor": 1}',
            b'{"sku": "x", "name": "n", "price_minor": NaN}',
            b'{"sku": "x", "name": "n", "price_minor": 1e999}',
            b"[" * 100_000,
            b'{"sku": "x", "name": "' + b"a" * 300_000 + b'", "price_minor": 1}',
            b'{"sku": {"a": 1}, "name": "n", "price_minor": 1}',
            b'{"sku": "x", "name": "n", "price_minor": 1, "id": "y"}',
        ],
    )
    def test_that_are_wrong_are_refused_alone(self, send, text):
        told, summary = send(
            line("before").encode() + b"\n" + text + b"\n" + line("after").encode()
        )

        assert [each["outcome"] for each in told] == ["created", "refused", "created"]
        assert told[1]["errors"]
        assert summary["refused"] == 1

    def test_with_too_many_words_are_refused_alone(self, send):
        words = {
            f"k{number}": " ".join(uuid4().hex for _ in range(140))
            for number in range(190)
        }
        told, _ = send(line("a"), line("much", attributes=words), line("b"))

        assert [each["outcome"] for each in told] == ["created", "refused", "created"]

    @pytest.mark.parametrize("status", [401, 403])
    def test_need_the_right_to_change(self, client, customer, status, assert_problem):
        headers = customer if status == 403 else {}

        answer = client.post(
            LINES, data=line("a"), content_type=NDJSON, headers=headers
        )

        assert_problem(answer, status)

    def test_of_another_type_are_refused(self, post, assert_problem):
        assert_problem(post(line("a"), content_type="application/json"), 415)
        assert_problem(post(line("a"), Accept="text/html"), 406)

    def test_may_be_more_than_other_bodies(self, app, post, monkeypatch):
        settings = app.extensions["flagon.settings"]
        small = settings.model_copy(update={"lines_bytes_max": 100})
        with monkeypatch.context() as here:
            here.setitem(app.extensions, "flagon.settings", small)
            assert post(line("a", description="x" * 200)).status_code == 413

        text = line("a", description="x" * 1000)
        assert post("\n".join([text] * 3000)).status_code == 200


class TestManyLines:
    MANY = 4 * lines.LINES_MAX + 7

    def test_take_the_memory_of_one_batch(self, real_app, merchandiser):
        """The body comes and the answer goes a batch at a time."""
        client = real_app.test_client()
        name = uuid4().hex[:8]

        class Endless(io.RawIOBase):
            """Makes its lines when they are read, and counts them."""

            made = 0
            rest = b""

            def readable(self):
                return True

            def readinto(self, buffer):
                while len(self.rest) < len(buffer) and self.made < TestManyLines.MANY:
                    text = line(f"{name}-{self.made}", description="x" * 2000)
                    self.rest += text.encode() + b"\n"
                    self.made += 1
                part, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
                buffer[: len(part)] = part
                return len(part)

        source = Endless()
        answer = client.post(
            LINES,
            headers=merchandiser,
            content_type=NDJSON,
            environ_overrides={
                "wsgi.input": io.BufferedReader(source),
                "wsgi.input_terminated": True,
                "HTTP_TRANSFER_ENCODING": "chunked",
            },
            buffered=False,
        )
        told, ahead = 0, []
        tracemalloc.start()
        try:
            for part in answer.response:
                told += part.count(b'"line"')
                ahead.append(source.made - told)
            _now, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert told == self.MANY
        # What is told of a batch before the next but one is read.
        assert max(ahead) < 2 * lines.LINES_MAX
        with real_app.extensions["flagon.sessions"]() as session:
            written = session.scalar(
                select(func.count())
                .select_from(Product)
                .where(Product.sku.startswith(f"{name}-"))
            )
        assert written == self.MANY
        assert most < 40 * 1024 * 1024

    def test_hold_no_connection_between_batches(self, real_app, merchandiser):
        pool = real_app.extensions["flagon.sessions"].kw["bind"].pool
        name = uuid4().hex[:8]
        body = "\n".join(line(f"{name}-{n}") for n in range(2 * lines.LINES_MAX))

        answer = real_app.test_client().post(
            LINES, data=body, content_type=NDJSON, headers=merchandiser
        )

        for _part in answer.response:
            assert pool.checkedout() == 0
