#!/bin/sh
# Brings the platform up on this machine, at https://FLAGON_HOST, and to the next release.
#
#   FLAGON_HOST=shop.example.com FLAGON_MAIL=you@example.com deploy/vm/up.sh
set -eu
: "${FLAGON_HOST:?the name that people type}" "${FLAGON_MAIL:?where Let\'s Encrypt writes to}"
export FLAGON_HOST FLAGON_MAIL
cd "$(dirname "$0")/../.."
state=$PWD/.run/docker-8080

umask 077
mkdir -p "$state/secrets" "$state/vm"
# What is mounted alone is read by other users; the folder above keeps everybody else out.
mkdir -p -m 755 "$state/vm/tls" "$state/vm/challenges"
# Nobody of the demonstration: people register, and `make cli S=auth` grants roles.
[ -e "$state/secrets/auth_accounts.json" ] || {
  echo '[]' > "$state/secrets/auth_accounts.json"
  chmod 444 "$state/secrets/auth_accounts.json"
}
# Writes secrets where they are missing, and configuration anew.
make --silent setup MODE=docker
PYTHONPATH=deploy/local .venv/bin/python -c \
  'from flagonctl.configuration import prepare; from flagonctl.stack import Stack; prepare(Stack("docker", 8080))'
# Clients of the first start lead to localhost, in clear and over TLS: here one name is left.
sed "/\"http:\/\/localhost:/d; s|https://localhost:[0-9]*|https://$FLAGON_HOST|" \
  "$state/secrets/auth_clients.json" > "$state/vm/clients.json"
chmod 444 "$state/vm/clients.json"

# What is given by its digest is not made here.
if [ -n "${FLAGON_AUTH_IMAGE-}" ]; then build=--no-build; else build=--build; fi

sh deploy/vm/compose.sh up --detach --wait door
# There is no gateway to tell yet; later ones are told by the timer's run.
[ -e "$state/vm/tls/tls.crt" ] || RELOAD=: sh deploy/vm/certificate.sh
# Migrations first: services wait for them (docker-compose.yml).
sh deploy/vm/compose.sh up --detach --wait "$build"
