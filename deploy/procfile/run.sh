#!/bin/sh
# Runs one line of the Procfile, from the root of the checkout.
#
#   run.sh release                      before each rollout: tables, then auth's clients
#   run.sh gateway                      nginx, at PORT
#   run.sh OFFSET SERVICE COMMAND…      at 127.0.0.1 and FLAGON_PORT_BASE plus OFFSET
set -eu
. deploy/procfile/settings.sh
state=${FLAGON_STATE:-/tmp/flagon}
mkdir -p "$state/files" "$state/spool" "$state/images" "$state/gateway-cache"

# All processes of such a platform have one environment: each keeps what is its own.
only() {
  for name in $(env | sed -n 's/^\(\(AUTH\|CATALOG\|GATEWAY\|REALTIME\|WEB\|WORKER\)_[A-Z_]*\)=.*/\1/p'); do
    case $name in
      "$1"_OWNER_*) [ "${2-}" = owner ] || unset "$name" ;;
      "$1"_*) ;;
      *) unset "$name" ;;
    esac
  done
}

case $1 in
  release)
    for service in auth catalog worker; do
      (only "$(echo "$service" | tr '[:lower:]' '[:upper:]')" owner && exec python -m "flagon_$service" migrate)
    done
    only AUTH
    umask 077
    printf '%s' "${AUTH_CLIENTS:?the OAuth clients, as JSON}" > "$state/clients.json"
    unset AUTH_CLIENTS
    AUTH_CLIENTS_FILE=$state/clients.json exec flask --app flagon_auth.app seed
    ;;
  gateway)
    PYTHONPATH=deploy/local python -c \
      'import sys; from pathlib import Path; from flagonctl.configuration import page_files; page_files(Path(sys.argv[1]), Path.cwd())' \
      "$state/pages"
    only GATEWAY
    exec sh deploy/k8s/images/gateway.sh gateway "$state/gateway" deploy/k8s/base/gateway/render.sh
    ;;
  *)
    offset=$1 service=$2
    shift 2
    prefix=$(echo "$service" | tr '[:lower:]' '[:upper:]')
    only "$prefix"
    unset AUTH_CLIENTS
    export "${prefix}_BIND=127.0.0.1:$((FLAGON_PORT_BASE + offset))"
    export "${prefix}_METRICS_DIR=$state/metrics/$offset" "TMPDIR=$state/files"
    exec python -m "flagon_$service" "$@"
    ;;
esac
