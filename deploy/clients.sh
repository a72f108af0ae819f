#!/bin/sh
# Make the clients of the API from docs/api/openapi.json: Python always, TypeScript where
# there is npm. The versions of the generators are those of the locks.
#
#   clients.sh [python|typescript]…
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- python typescript
for language; do
  case $language in
    python)
      mkdir -p clients/python
      .venv/bin/openapi-python-client generate --path docs/api/openapi.json \
        --config clients/python.yml --output-path clients/python/flagon_client \
        --meta none --overwrite --fail-on-warning > /dev/null
      echo "clients/python/flagon_client"
      ;;
    typescript)
      if ! command -v npm > /dev/null; then
        echo "clients/typescript: skipped, there is no npm" >&2
        continue
      fi
      cd clients/typescript
      # Scripts of others are not run, and nothing is asked but the packages.
      cmp -s package-lock.json node_modules/.installed ||
        npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
      cp package-lock.json node_modules/.installed
      node_modules/.bin/openapi-typescript ../../docs/api/openapi.json \
        --output src/api.d.ts > /dev/null
      node_modules/.bin/tsc
      cd ../..
      echo "clients/typescript"
      ;;
    *)
      echo "clients.sh [python|typescript]…" >&2
      exit 2
      ;;
  esac
done
