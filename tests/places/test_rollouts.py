"""The order of a rollout, seen from the program of the place, which notes what it is asked.

No cloud can be asked here: what stands in for it answers what a cloud would, and no more.
"""

import os
import re
import subprocess

import pytest
from flagonplaces.platform import JOBS

from .recipes import DEPLOY, DIGEST, FILLED

STAND_IN = r"""#!/bin/sh
printf '%s\n' "$*" >> "$NOTES"
case "$*" in *"${FAILS:-nobody}"*) failed=yes ;; *) failed= ;; esac
case "$*" in
  *run-task*) echo "$*" | sed 's/.*the-\([A-Za-z]*\)Task.*/\1/' ;;
  *describe-tasks*) [ -z "$failed" ] && echo 0 || echo 1 ;;
  *list-secret-version-ids*) echo "${FILLED_SECRETS:-1}" ;;
  *OutputValue*) echo "$*" | sed "s/.*OutputKey=='\([A-Za-z]*\)'.*/the-\1/" ;;
  *"execution show"*) [ -z "$failed" ] && echo Succeeded || echo Failed ;;
  *"job start"*) echo one ;;
  *"jobs execute"*) [ -z "$failed" ] ;;
esac
"""
GIVEN = {
    "FLAGON_HOST": "shop.example.com",
    "CERTIFICATE_ARN": "arn:aws:acm:eu-central-1:1:certificate/1",
    "TEMPLATES_BUCKET": "templates",
    "BUCKET_NAME": "pictures",
    "BUCKET_HOST": "store.example.com",
    **dict.fromkeys(("GROUP", "VAULT", "REGISTRY", "SUBNET_ID"), "flagon"),
    **dict.fromkeys(("FILES_SERVER", "FILES_SHARE", "CERTIFICATE_ID"), "flagon"),
    **FILLED,
    **{key: DIGEST for key in FILLED if key.endswith("_IMAGE")},
}
PROGRAMS = {"aws": "aws", "azure": "az", "gcp": "gcloud"}
PLACES = sorted(PROGRAMS)


@pytest.fixture
def roll_out(tmp_path):
    """Run a place's script; returns its end and what the place was asked, in order."""

    def run(place, *arguments, **changes):
        given = GIVEN | changes
        program = tmp_path / PROGRAMS[place]
        program.write_text(STAND_IN)
        program.chmod(0o755)
        notes = tmp_path / "notes"
        notes.touch()
        done = subprocess.run(
            ["sh", DEPLOY / place / "rollout.sh", *arguments],
            check=False,
            capture_output=True,
            text=True,
            env={
                **{key: value for key, value in given.items() if value is not None},
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "NOTES": str(notes),
                "PAUSE": "0",
            },
        )
        return done, notes.read_text().splitlines()

    return run


def jobs_of(asked):
    """Which jobs ran, in their order, by the name that all places understand."""
    words = {
        "aws": r"run-task .*the-(\w+)Task",
        "azure": r"job start .*--name ([a-z-]+)",
        "gcp": r"jobs execute ([a-z-]+)",
    }
    found = [re.search(pattern, line) for line in asked for pattern in words.values()]
    return [
        re.sub(r"(?<=[a-z])(?=[A-Z])", "-", each[1]).lower() for each in found if each
    ]


def last_of(asked):
    """What the last line of a rollout puts in place."""
    return next(
        name
        for name in ("services.yaml", "apps.json", "flagon.yaml", "platform", "")
        if name in asked[-1]
    )


LASTING = {"aws": "services.yaml", "azure": "apps.json", "gcp": "flagon.yaml"}


@pytest.mark.parametrize("place", PLACES)
class TestRollout:
    def test_migrates_before_anything_runs(self, place, roll_out):
        done, asked = roll_out(place)

        assert done.returncode == 0, done.stderr
        assert jobs_of(asked) == list(JOBS)
        assert last_of(asked) == LASTING[place]
        assert sum(LASTING[place] in line for line in asked) == 1

    def test_rolls_nothing_out_when_a_job_fails(self, place, roll_out):
        fails = "--tasks CatalogMigrate" if place == "aws" else "catalog-migrate"
        done, asked = roll_out(place, FAILS=fails)

        assert done.returncode != 0
        assert jobs_of(asked)[-1] == "catalog-migrate"
        assert not any(LASTING[place] in line for line in asked)

    def test_refuses_a_tag(self, place, roll_out):
        done, asked = roll_out(place, WEB_IMAGE="registry.example.com/web:latest")

        assert (done.returncode, asked) == (2, [])
        assert "WEB_IMAGE" in done.stderr


class TestAws:
    def test_waits_for_somebody_to_fill_the_secrets(self, roll_out):
        done, asked = roll_out("aws", FILLED_SECRETS="0")

        assert done.returncode == 3
        assert "flagon/auth is empty" in done.stderr
        assert jobs_of(asked) == []


class TestGoogle:
    def test_gives_each_account_what_it_reads(self, roll_out):
        done, asked = roll_out("gcp", "access")

        lines = (DEPLOY / "gcp" / "access.txt").read_text().splitlines()
        pairs = {tuple(line.split()) for line in lines if not line.startswith("#")}
        bound = {
            (found[2], found[1])
            for line in asked
            if (found := re.search(r"binding (\S+) .*serviceAccount:(\S+)@", line))
        }
        assert done.returncode == 0, done.stderr
        assert bound == pairs

    def test_stops_when_a_variable_is_missing(self, roll_out):
        done, asked = roll_out("gcp", HOST=None)

        assert (done.returncode, asked) == (1, [])
        assert "needs HOST" in done.stderr
