#!/bin/sh
# `docker compose` with both files of this machine: compose.sh ps, compose.sh logs web, …
set -eu
cd "$(dirname "$0")/../.."
exec docker compose --env-file "${FLAGON_STATE:-$PWD/.run/docker-8080}/compose.env" \
  --file docker-compose.yml --file deploy/vm/compose.yml "$@"
