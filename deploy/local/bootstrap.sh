#!/bin/sh
# Brings a bare Debian or Ubuntu to where `make up` can work: system packages for the
# local mode, and .venv with exactly what requirements.lock names. Takes half a second when all is there.
#
#   MODE=docker leaves the system packages alone; BROWSER=1 adds what tests look at the
#   platform with from outside: Chromium, and a relying party for Node. JUDGES=1 adds the
#   latter where there is a Node, and exporters where packages can be installed unasked.
set -eu
# Processes of another user read what is made here, whatever the habits of the caller.
umask 022
cd "$(dirname "$0")/../.."

say() { echo "setup: $*"; }
fail() {
  echo "$1" >&2
  echo "  Next: $2" >&2
  exit 1
}
has() { PATH=/usr/local/sbin:/usr/sbin:/sbin:$PATH command -v "$1" >/dev/null 2>&1; }

# -- Python -----------------------------------------------------------------------------

python=
for candidate in "${PYTHON:-python3}" python3 python3.14 python3.13 python3.12 python3.11; do
  if has "$candidate" && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then
    python=$(command -v "$candidate")
    break
  fi
done

# -- System packages --------------------------------------------------------------------

missing=
need() { missing="$missing $1"; }
# Counts what one address asks for, and lets Lua ask services.
apache() {
  has apache2 || need apache2
  ls /usr/lib/apache2/modules/mod_qos.so >/dev/null 2>&1 || need libapache2-mod-qos
  ls /usr/share/lua/5.3/socket.lua >/dev/null 2>&1 || need lua-socket
}
if [ -z "$python" ]; then
  need python3
  need python3-venv
elif [ ! -x .venv/bin/python ] && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  need "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
fi
if [ "${MODE:-local}" != docker ]; then
  ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || has initdb || need postgresql
  has psql || need postgresql-client
  has redis-server || need redis-server
  [ "${GATEWAY:-nginx}" != nginx ] || has nginx || need nginx
  [ "${GATEWAY:-}" != haproxy ] || has haproxy || need haproxy
  if [ "${GATEWAY:-}" = apache ]; then apache; fi
  has prometheus || need prometheus
  [ "${BROKER:-}" != rabbitmq ] && [ "${EVENT_BUS:-}" != rabbitmq ] || has rabbitmq-server ||
    need rabbitmq-server
  # Only root runs the processes as another user, who must pass through closed folders.
  [ "$(id -u)" != 0 ] || has setfacl || need acl
fi

if [ -n "${BROWSER:-}" ]; then
  has chromium || has chromium-browser || need chromium
  # Runs the relying party that judges the provider.
  has node || need nodejs
  has npm || need npm
fi

# Tests that ask every alert and dashboard for its data need them; `make up` does not.
if [ -n "${JUDGES:-}" ] && [ "${MODE:-local}" != docker ] && has apt-get &&
  { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then
  for package in prometheus-alertmanager prometheus-postgres-exporter prometheus-redis-exporter \
    prometheus-nginx-exporter prometheus-blackbox-exporter prometheus-node-exporter; do
    has "$package" || need "$package"
  done
  # An authority for certificates, and who asks it (tests/places).
  has lego || need lego
  has pebble || need pebble
  [ "${BROKER:-}" = rabbitmq ] || [ "${EVENT_BUS:-}" = rabbitmq ] || has rabbitmq-server || need rabbitmq-server
  [ "${GATEWAY:-}" = haproxy ] || has haproxy || need haproxy
  [ "${GATEWAY:-}" = apache ] || apache
fi

if [ -n "$missing" ]; then
  command="apt-get update && apt-get install -y --no-install-recommends$missing"
  by_hand="sudo sh -c '$command'"
  has apt-get || fail "Missing here:$missing (the names of Debian's packages), and there is no apt-get." "install them with this system's package manager"
  if [ "$(id -u)" = 0 ]; then
    root=
  elif has sudo && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    # Asks for the password when there is somebody to ask.
    root=sudo
  else
    fail "Missing here:$missing. Installing needs root." "$by_hand"
  fi
  say "installing$missing"
  # shellcheck disable=SC2086  # a list of packages, and no word for root itself
  $root sh deploy/local/packages.sh $missing || fail "The packages could not be installed." "$by_hand"
  [ -n "$python" ] || python=$(command -v python3)
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$("$python" --version) is too old: 3.11 or newer is needed." "install python3.11 or newer, or name one: make up PYTHON=/path/to/python3"
fi

# -- .venv ------------------------------------------------------------------------------

# A half-made or moved environment has no working interpreter.
if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c '' 2>/dev/null; then
  say "making .venv with $("$python" --version)"
  rm -rf .venv
  "$python" -m venv .venv
fi
wanted=$(cat requirements.lock libs/*/pyproject.toml services/*/pyproject.toml | cksum)
stamp=.venv/flagon-installed
if [ "$(cat $stamp 2>/dev/null)" != "$wanted" ] || [ ! -x .venv/bin/uv ]; then
  # The installer itself comes from the lock too, with its hashes.
  lock=$(mktemp)
  trap 'rm -f "$lock"' EXIT
  sed -n '/^uv==/,/[^\\]$/p' requirements.lock > "$lock"
  say "installing $(sed -n 's/ .*//p;q' "$lock")"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement "$lock"
  say "installing $(grep -c '^[a-z].*==' requirements.lock) packages from requirements.lock"
  .venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes --requirement requirements.lock
  set --
  for part in libs/* services/*; do
    [ ! -f "$part/pyproject.toml" ] || set -- "$@" --editable "$part"
  done
  .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps "$@"
  # Compiled once, here: the processes run as a user that may not write beside the sources,
  # and compiling at each start costs seconds and tens of megabytes a process. What was
  # installed earlier and without this is not compiled by the installer.
  # Some packages bring files for other versions of Python: what cannot be compiled is
  # never imported here.
  .venv/bin/python -m compileall -q -j 0 .venv/lib > /dev/null 2>&1 || true
  echo "$wanted" > $stamp
fi

# -- What others wrote, to judge us -----------------------------------------------------

# Exact versions and no lock file: for tests alone, and no scripts of theirs are run. Only
# oidc-provider (koa) and lighthouse bring others along.
judge() {
  folder=.venv/$1
  shift
  if [ -f "$folder/installed" ] && [ "$(cat "$folder/installed")" = "$*" ]; then return 0; fi
  say "installing $*"
  npm install --prefix "$folder" --no-save --no-package-lock --ignore-scripts \
    --no-audit --no-fund --loglevel=error "$@"
  echo "$*" > "$folder/installed"
}
judges='openid-client@6.8.9 oauth4webapi@3.8.8 jose@6.2.17 oidc-provider@9.13.3 axe-core@4.14.1'
if [ -n "${BROWSER:-}" ] || { [ -n "${JUDGES:-}" ] && has npm; }; then
  # shellcheck disable=SC2086  # a list
  judge judges $judges
fi
# Apart, because it is large and of use with a browser alone.
[ -z "${BROWSER:-}" ] || judge lighthouse lighthouse@13.5.0
