#!/bin/sh
# Gets the certificate of FLAGON_HOST, or a new one when the old one ends within a month, and
# has the gateway read it. Safe to run every day: without anything to do it does nothing.
#
#   FLAGON_HOST=shop.example.com FLAGON_MAIL=you@example.com certificate.sh
#
# The door (compose.yml) shows the files below vm/challenges to Let's Encrypt. ACME_SERVER is
# another authority, RELOAD another command for the gateway, DAYS another last month.
set -eu
: "${FLAGON_HOST:?the name that people type}" "${FLAGON_MAIL:?where Let\'s Encrypt writes to}"
cd "$(dirname "$0")/../.."
own=${FLAGON_STATE:-$PWD/.run/docker-8080}/vm
made=$own/lego/certificates/$FLAGON_HOST

# The timer has chosen the moment; lego would wait for minutes more.
if [ -e "$made.crt" ]; then set -- renew --no-random-sleep --days "${DAYS:-30}"; else set -- run; fi
umask 077
mkdir -p "$own"
# These are mounted alone and read by other users; the folder above keeps everybody else out.
mkdir -p -m 755 "$own/tls" "$own/challenges"
(umask 022 && exec lego --accept-tos --server "${ACME_SERVER:-https://acme-v02.api.letsencrypt.org/directory}" \
  --path "$own/lego" --email "$FLAGON_MAIL" --domains "$FLAGON_HOST" \
  --http --http.webroot "$own/challenges" "$@")

! cmp -s "$made.crt" "$own/tls/tls.crt" || exit 0
# First the key: a reload between both finds a pair that does not fit, says so, and goes on
# with the old one.
for part in key crt; do
  install -m 444 "$made.$part" "$own/tls/.$part"
  mv "$own/tls/.$part" "$own/tls/tls.$part"
done
sh -c "${RELOAD:-sh deploy/vm/compose.sh exec -T gateway sh -c 'kill -HUP \$(cat /tmp/nginx.pid)'}"
