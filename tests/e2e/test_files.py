"""Files as suppliers really send them, and files that are none."""

import json
import os
from http.client import HTTPConnection

import pytest
from harness import imports

MIB = 1024 * 1024


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize(
    "delimiter", [",", ";", "\t"], ids=["comma", "semicolon", "tab"]
)
class TestRead:
    def test_in_any_usual_form(self, stack, merchandiser, word, delimiter, encoding):
        table = [
            ["code", "title", "maker", "price"],
            [f"{word}-1", "Größe für Café", "Müller", "12,50"],
            [f"{word}-2", "Señor, ¡olé!", "Åse; & Söhne", "1.299,00"],
            [f"{word}-3", "naïve “quotes”", "x", "3,05"],
        ]
        content = imports.as_csv(table, delimiter=delimiter, encoding=encoding)
        job = imports.ended(
            merchandiser,
            imports.accepted(merchandiser, content, imports.params(word)),
        )

        assert job["state"] == "succeeded", job["error"]
        assert job["result"]["refused"] == 0, job
        found = {item["sku"]: item for item in imports.products(stack, word)}
        assert [found[f"{word}-{n}"]["name"] for n in (1, 2, 3)] == [
            row[1] for row in table[1:]
        ]
        assert [found[f"{word}-{n}"]["price_minor"] for n in (1, 2, 3)] == [
            1250,
            129900,
            305,
        ]
        assert found[f"{word}-2"]["attributes"]["maker"] == "Åse; & Söhne"


def long_line():
    yield b"code,title,maker,price\n"
    for _ in range(100):
        yield b"x" * MIB
    yield b",a,b,1\n"


HOPELESS = {
    "binary": lambda: os.urandom(200_000),
    "picture": lambda: b"\x89PNG\r\n\x1a\n" + os.urandom(50_000),
    "empty": lambda: b"",
    "blank": lambda: b"\n\n\n",
    "ten thousand columns": lambda: (
        b",".join(b"c%d" % n for n in range(10_000))
        + b"\n"
        + b",".join(b"1" for _ in range(10_000))
        + b"\n"
    ),
    "a line of 100 MB": lambda: b"".join(long_line()),
    "a quote that never ends": lambda: (
        b'code,title,maker,price\n1,"' + b"never\n" * 500_000
    ),
    "other columns": lambda: b"a,b\n1,2\n",
}


class TestHopelessFile:
    @pytest.mark.parametrize("kind", list(HOPELESS))
    def test_ends_as_a_failed_job_that_says_why(self, merchandiser, word, kind):
        answer = imports.submit(merchandiser, HOPELESS[kind](), imports.params(word))
        if answer.status_code == 422:
            # Refused at the door, with the reason, is as good.
            assert answer.json()["detail"]
            return
        assert answer.status_code == 202, answer.text
        location = answer.headers["location"]
        path = location[location.index("/api/v1/jobs/") :]
        job = imports.ended(merchandiser, path)

        assert job["state"] == "failed", job
        assert job["error"], job
        assert "Traceback" not in str(job["error"])
        assert (job["result"] or {}).get("created", 0) == 0


class TestHugeUpload:
    def test_is_refused_before_it_is_sent(self, stack, merchandiser):
        # A client that reads the answer as soon as it comes, as curl does.
        connection = HTTPConnection("localhost", stack.port_base, timeout=120)
        try:
            connection.putrequest("POST", "/api/v1/jobs")
            connection.putheader("Content-Type", "multipart/form-data; boundary=x")
            connection.putheader("Content-Length", str(2048 * MIB))
            for name, value in merchandiser.bearer.items():
                connection.putheader(name, value)
            connection.endheaders(b"--x\r\n")
            answer = connection.getresponse()
            problem = json.load(answer)
        finally:
            connection.close()

        assert answer.status == problem["status"] == 413
        assert answer.getheader("Content-Type") == "application/problem+json"
