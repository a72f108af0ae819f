"""What the document says is what the platform does, judged by Schemathesis.

It comes late: what it makes up it also sends, and some of that is accepted.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness.engine import ROOT

DOCUMENT = ROOT / "docs/api/openapi.json"
CONFIG = """
[headers]
Authorization = "Bearer ${FLAGON_TOKEN}"

[phases.coverage]
# Methods that an operation does not have are refused by the gateway and by every service,
# and no document names that.
unexpected-methods = []
"""
CHECKS = (
    "not_a_server_error",
    "response_schema_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "status_named",
    "errors_are_problems",
)
SECONDS = 140
EMPTY = {"items": [], "next_cursor": None}

# One never ends. The others would end the session that the requests are sent with, or lock
# other tests out: ids are learned from answers, so they hit.
ENDLESS = ("follow_events",)
DRASTIC = (
    "rotate_keys",
    "drop_key",
    "delete_user",
    "change_user",
    "end_user_sessions",
    "end_user_session",
    "send_password_reset",
    "change_client",
    "delete_client",
    "rotate_client_secret",
)


def schemathesis(stack, token, folder, *arguments):
    """Run it and return its exit status and what it printed."""
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    program = Path(sys.executable).parent / "st"
    done = subprocess.run(
        [
            *(program, "--config-file", config, "run", DOCUMENT),
            *("--url", stack.url, "--checks", ",".join(CHECKS)),
            *("--phases", "examples,coverage,fuzzing", "--seed", "1"),
            *("--max-time", str(SECONDS), "--request-timeout", "10"),
            *(
                "--continue-on-failure",
                "--no-shrink",
                "--no-color",
                "--warnings",
                "off",
            ),
            *("--generation-database", "none", *arguments),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS + 60,
        cwd=folder,
        env={
            **os.environ,
            # Not among the arguments, which everybody on the machine can read.
            "FLAGON_TOKEN": token,
            "SCHEMATHESIS_HOOKS": "st_checks",
            "PYTHONPATH": str(Path(__file__).parent / "harness"),
        },
    )
    return done.returncode, done.stdout + done.stderr


class TestDocument:
    def test_says_what_the_platform_does(self, stack, admin, tmp_path):
        left_out = [
            word
            for name in (*ENDLESS, *DRASTIC)
            for word in ("--exclude-operation-id", name)
        ]

        status, told = schemathesis(
            stack, admin.token, tmp_path, "--max-examples", "8", *left_out
        )

        assert status == 0, told[-20_000:]

    def test_knows_what_is_left_out(self):
        text = DOCUMENT.read_text()

        for name in (*ENDLESS, *DRASTIC):
            assert f'"operationId": "{name}"' in text


class TestLongAddresses:
    @pytest.mark.parametrize("length", [4000, 4200, 8100, 8300, 15_000, 20_000, 60_000])
    def test_are_refused_in_the_form_of_every_error(self, stack, length):
        with stack.client() as client:
            answer = client.get(f"/api/v1/products?cursor={'x' * length}")

        assert answer.status_code == (422 if length < 16_000 else 414)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code


class TestSessions:
    def test_of_an_account_that_has_none_are_no_error(self, stack, admin, word):
        """Redis lets auth ask for its own keys alone, and no key is none of them."""
        with admin.client() as client:
            new = {"email": f"{word}@flagon.test", "name": "Nobody"}
            made = client.post("/api/v1/users", json=new)
            assert made.status_code == 201, made.text
            found = client.get(f"/api/v1/users/{made.json()['id']}/sessions")

        assert (found.status_code, found.json()) == (200, EMPTY), found.text
