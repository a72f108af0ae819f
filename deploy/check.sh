#!/bin/sh
# What every change must pass. All stages run, so that one run shows all that is wrong;
# the end tells again what failed and why, then has a line and a time for each.
#
#   check.sh [STAGE or GROUP…]   `lint` (format, style, types), `unit`, `test` (all tests)
set -u
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin
mkdir -p dist
# Below the checkout, and removed by the last line: a trap at the exit would be one for
# every child that is killed before it has become itself.
folder=${CHECK_FOLDER:-$(mktemp -d "$PWD/dist/check.XXXXXX")}
summary=$folder/summary again=$folder/again
# The last lines of pytest name each failed test and its reason: in 80 columns, the
# names alone would fit. The order of tests is a random one, another for each content of
# the repository: what fails on one machine can be repeated on the next. SEED=… is any other.
seed=${SEED:-$((0x0$(git rev-parse --short=7 'HEAD^{tree}' 2> /dev/null | cut -c 1-7)))}
PYTEST_ADDOPTS="--tb=short -rfE --randomly-seed=$seed ${PYTEST_ADDOPTS-}"
export COLUMNS="${COLUMNS:-200}" PYTEST_ADDOPTS
# Where these are set, pytest shows differences of any length.
unset CI BUILD_NUMBER
[ -t 1 ] && PYTEST_ADDOPTS="--color=yes $PYTEST_ADDOPTS"
units='chassis auth catalog realtime web worker system judges together deployment k8s places observability sbom'
selected=
for name; do
  case $name in
    lint) selected="$selected format style types" ;;
    test) selected="$selected $units images e2e-local e2e-docker browser" ;;
    unit) selected="$selected $units" ;;
    *) selected="$selected $name" ;;
  esac
done

# Stages of one lane come one after the other; $lane is their folder.
enter() {
  lane=$folder/$1
  mkdir -p "$lane"
  [ -p "$lane/pipe" ] || mkfifo "$lane/pipe"
}
stage() {
  name=$1
  shift
  case " $selected " in
    "  " | *" $name "*) ;;
    *) return 0 ;;
  esac
  printf '\n== %s\n' "$name"
  started=$(date +%s)
  # Not `… | tee`, which would hide how the stage ended.
  tee "$lane/log" < "$lane/pipe" &
  tee=$!
  if "$@" > "$lane/pipe" 2>&1; then word=ok; else word=FAILED; fi
  # Whatever outlived its stage must not keep `tee` waiting.
  (sleep 10; kill "$tee") > /dev/null 2>&1 &
  wait "$tee"
  kill $! 2> /dev/null
  [ "$word" = ok ] || reasons >> "$again"
  printf '%-12s %-7s %4d s\n' "$name" "$word" $(($(date +%s) - started)) >> "$summary"
}
# What a failed stage said at its end: pytest's list of failures where there is one.
reasons() {
  printf '\n-- %s\n' "$name"
  if grep -q 'short test summary info' "$lane/log"; then
    sed '1,/short test summary info/d' "$lane/log" | head -n 30
  else
    tail -n 15 "$lane/log"
  fi | cut -c 1-300
}
skip() {
  case " $selected " in "  " | *" $1 "*) ;; *) return 0 ;; esac
  printf '%-12s skipped: %s\n' "$1" "$2" >> "$summary"
}

formatted() { "$bin/ruff" format --check --quiet . && echo "formatted"; }
style() {
  "$bin/ruff" check --quiet . && "$bin/lint-imports" --no-cache &&
    for script in deploy/*.sh deploy/*/*.sh deploy/k8s/*/*.sh deploy/k8s/base/*/*.sh gateway/*.sh; do sh -n "$script" || return 1; done
}
types() {
  "$bin/mypy" libs/chassis/src $(printf '%s ' services/*/src) &&
    MYPYPATH=deploy/local "$bin/mypy" deploy/local/flagonctl &&
    MYPYPATH=deploy/local "$bin/mypy" deploy/k8s/cluster.py &&
    "$bin/mypy" deploy/api/flagonapi &&
    "$bin/mypy" deploy/sbom.py &&
    MYPYPATH=deploy/observability "$bin/mypy" deploy/observability/flagonobs &&
    MYPYPATH=deploy/places:deploy/local "$bin/mypy" deploy/places/flagonplaces
}
# One process for each: they install log handlers, tracers and signal handlers, of which a
# process has one. Services may have lines that only a running stack reaches.
unit() {
  package=$1 least=$2
  shift 2
  export COVERAGE_FILE="$lane/coverage-$package/data"
  mkdir -p "$lane/coverage-$package"
  "$bin/coverage" run -m pytest -q "$@" &&
    "$bin/coverage" combine --quiet &&
    "$bin/coverage" report --include="*/flagon_$package/*" --fail-under="$least" --skip-covered
}
# What starts the gateway's pod goes the way of all that needs an engine.
kubernetes() {
  if docker info > /dev/null 2>&1; then
    "$bin/python" -m pytest -q tests/k8s
  else
    "$bin/python" -m pytest -q tests/k8s --ignore=tests/k8s/test_container.py
  fi
}
end_to_end() { FLAGON_MODE=$1 "$bin/python" -m pytest -q tests/e2e && FLAGON_MODE=$1 "$bin/python" -m pytest -q tests/telemetry; }
browser() { "$bin/python" -m pytest -q tests/browser; }

# Two lanes of about the same length, for two cores. What takes whole ranges of ports is in
# one of them.
services() { for each; do stage "$each" unit "$each" 95 "services/$each/tests"; done; }
first() {
  stage chassis unit chassis 100 libs/chassis/tests
  services auth worker
  stage system "$bin/python" -m pytest -q tests/system
  stage judges "$bin/python" -m pytest -q tests/judges
  stage k8s kubernetes
  stage sbom make --no-print-directory sbom
}
second() {
  services catalog realtime web
  stage together "$bin/python" -m pytest -q tests/together
  stage deployment "$bin/python" -m pytest -q tests/local tests/load
  stage observability "$bin/python" -m pytest -q tests/observability
  stage places "$bin/python" -m pytest -q tests/places
}
# Then the whole platform, in both modes at once.
processes() {
  stage e2e-local end_to_end local
  stage browser browser
}
containers() {
  if docker info > /dev/null 2>&1; then
    stage images "$bin/python" -m pytest -q tests/images
    stage e2e-docker end_to_end docker
  else
    skip images "no container engine answers"
    skip e2e-docker "no container engine answers"
  fi
}
# Run the first here and the second beside it, which is heard when both are done.
lanes() {
  # A shell has what it starts in the background ignore Ctrl-C; tests are to end by it.
  CHECK_FOLDER=$folder CHECK_LANE=$2 env --default-signal=INT \
    sh deploy/check.sh $selected > "$folder/said" 2>&1 &
  other=$!
  "$1"
  wait "$other"
  cat "$folder/said"
}

if [ -n "${CHECK_LANE-}" ]; then
  enter "$CHECK_LANE"
  "$CHECK_LANE"
  exit
fi
enter main
: > "$summary"
: > "$again"
stage format formatted
stage style style
stage types types
lanes first second
lanes processes containers

passed=$(grep -c ' ok  ' "$summary")
failed=$(grep -c ' FAILED ' "$summary")
if [ "$failed" != 0 ]; then
  printf '\n== what failed (in the same order again: SEED=%s)\n' "$seed"
  cat "$again"
fi
printf '\n== summary\n'
cat "$summary"
echo "stages: $passed passed, $failed failed"
rm -rf "$folder"
[ "$failed" = 0 ]
