#!/bin/sh
# What every change must pass. All stages run, so that one run shows all that is wrong;
# the summary at the end has a line and a time for each.
#
#   check.sh [STAGE or GROUP…]   `lint` is format, style, types; `test` all that runs tests
set -u
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin
summary=$(mktemp)
trap 'rm -f "$summary"' EXIT
passed=0 failed=0
selected=
for name; do
  case $name in
    lint) selected="$selected format style types" ;;
    test) selected="$selected unit e2e-local e2e-docker browser" ;;
    *) selected="$selected $name" ;;
  esac
done

stage() {
  name=$1
  shift
  case " $selected " in
    "  " | *" $name "*) ;;
    *) return 0 ;;
  esac
  printf '\n== %s\n' "$name"
  started=$(date +%s)
  if "$@"; then word=ok passed=$((passed + 1)); else word=FAILED failed=$((failed + 1)); fi
  printf '%-12s %-7s %4d s\n' "$name" "$word" $(($(date +%s) - started)) >> "$summary"
}
skip() {
  case " $selected " in "  " | *" $1 "*) ;; *) return 0 ;; esac
  printf '%-12s skipped: %s\n' "$1" "$2" >> "$summary"
}

formatted() { "$bin/ruff" format --check --quiet . && echo "formatted"; }
style() {
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

stage format formatted
stage style style
stage types types
stage unit unit
stage e2e-local end_to_end local
stage browser browser
if docker info > /dev/null 2>&1; then
  stage e2e-docker end_to_end docker
else
  skip e2e-docker "no container engine answers"
fi

printf '\n== summary\n'
cat "$summary"
echo "stages: $passed passed, $failed failed"
[ "$failed" = 0 ]
