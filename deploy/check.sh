#!/usr/bin/env bash
# Run every check in stages, print one line per stage with its time, fail if any failed.
# `deploy/check.sh` runs all; `deploy/check.sh lint unit` the named groups alone.
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
groups=${*:-lint unit e2e-local e2e-docker browser}
logs=$(mktemp -d)
passed=0 failed=0 skipped=0 summary=""

note() { summary+="$(printf '%-7s %5ss  %s' "$1" "$2" "$3")"$'\n'; }

stage() { # name command…: its output is shown as it comes
  local name=$1 start=$SECONDS
  shift
  printf '\n=== %s\n' "$name"
  if "$@" 2>&1 | tee "$logs/stage"; then
    passed=$((passed + 1)) && note passed $((SECONDS - start)) "$name"
  else
    failed=$((failed + 1)) && note FAILED $((SECONDS - start)) "$name"
  fi
}

skip() { skipped=$((skipped + 1)) && note skipped 0 "$1: $2"; }

wanted() { [[ " $groups " == *" $1 "* ]]; }

if wanted lint; then
  stage format ruff format --check .
  stage lint ruff check .
  stage types mypy libs/chassis/src services/*/src
  stage contracts lint-imports
fi
if wanted unit; then
  stage chassis pytest -q libs/chassis/tests --cov=flagon_chassis --cov-branch --cov-fail-under="${CHASSIS_COVERAGE:-100}" --cov-report=term-missing:skip-covered
  for service in auth catalog realtime web worker; do
    stage "$service" pytest -q "services/$service/tests" --cov="flagon_$service" --cov-branch --cov-fail-under=95 --cov-report=term-missing:skip-covered
  done
  stage system pytest -q tests/system
  [ -d deploy/local/tests ] && stage deployment pytest -q deploy/local/tests
fi
if wanted e2e-local; then stage e2e-local pytest -q tests/e2e --mode=local; fi
if wanted browser; then stage browser pytest -q tests/browser; fi
if wanted e2e-docker; then
  if docker version >/dev/null 2>&1; then
    stage e2e-docker pytest -q tests/e2e --mode=docker
  else
    skip e2e-docker "no container engine answers; start one and run \`make e2e MODE=docker\`"
  fi
fi

printf '\n%s\n%s passed, %s failed, %s skipped\n' "$summary" "$passed" "$failed" "$skipped"
rm -rf "$logs"
[ "$failed" = 0 ]
