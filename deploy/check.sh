#!/bin/sh
# What every change must pass. All stages run, so that one run shows all that is wrong;
# the summary at the end has a line and a time for each.
#
#   check.sh [STAGE…]   only these; `check.sh unit types` for one
set -u
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin
summary=$(mktemp)
trap 'rm -f "$summary"' EXIT
failed=0
selected=$*

stage() {
  name=$1
  shift
  case " $selected " in
    "  " | *" $name "*) ;;
    *) return 0 ;;
  esac
  printf '\n== %s\n' "$name"
  started=$(date +%s)
  if "$@"; then word=ok; else word=FAILED failed=1; fi
  printf '%-12s %-7s %4d s\n' "$name" "$word" $(($(date +%s) - started)) >> "$summary"
}
skip() { printf '%-12s skipped: %s\n' "$1" "$2" >> "$summary"; }

formatted() { "$bin/ruff" format --check --quiet . && echo "formatted"; }
lint() {
  "$bin/ruff" check --quiet . && "$bin/lint-imports" --no-cache &&
    for script in deploy/*.sh deploy/*/*.sh gateway/*.sh; do sh -n "$script" || return 1; done
}
types() {
  "$bin/mypy" libs/chassis/src $(printf '%s ' services/*/src) &&
    MYPYPATH=deploy/local "$bin/mypy" deploy/local/flagonctl
}
unit() {
  "$bin/python" -m pytest -q libs services tests/system tests/local --cov --cov-report= &&
    "$bin/coverage" report --include='libs/*' --fail-under=100 --skip-covered &&
    "$bin/coverage" report --include='services/*' --fail-under=95 --skip-covered
}
end_to_end() { FLAGON_MODE=$1 "$bin/python" -m pytest -q tests/e2e; }
browser() { "$bin/python" -m pytest -q tests/browser; }
tests_in() { find "$1" -name 'test_*.py' 2> /dev/null | grep -q .; }

stage format formatted
stage lint lint
stage types types
stage unit unit
if tests_in tests/e2e; then
  stage e2e-local end_to_end local
  if docker info > /dev/null 2>&1; then
    stage e2e-docker end_to_end docker
  else
    skip e2e-docker "no container engine answers"
  fi
fi
if tests_in tests/browser; then stage browser browser; fi

printf '\n== summary\n'
cat "$summary"
exit $failed
