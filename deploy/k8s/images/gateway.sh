#!/bin/sh
# Starts the gateway where nobody makes its configuration before: of the sources in the image
# and the variables GATEWAY_….
#
#   gateway.sh [SOURCE TARGET RENDER]
set -eu
source=${1:-/etc/flagon/source} target=${2:-/tmp/flagon}
mkdir -p "$target"
sh "${3:-/etc/flagon/render.sh}" "$source" "$target"
exec sh "$target/resolve.sh" "$target/upstreams.conf" "$GATEWAY_UPSTREAMS" \
  nginx -e stderr -c "$target/nginx.conf" -g "daemon off;"
