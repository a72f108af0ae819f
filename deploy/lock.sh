#!/bin/sh
# Write the one lock of the platform and, from it, one subset per service for the images.
# `uv.lock` is not used: it would write the download hosts of the registry into the file.
set -eu
cd "$(dirname "$0")/.."
unset UV_DEFAULT_INDEX UV_INDEX UV_INDEX_URL UV_EXTRA_INDEX_URL UV_FIND_LINKS
own=$(for name in auth catalog chassis realtime web worker; do printf -- '--no-emit-package flagon-%s ' "$name"; done)
# shellcheck disable=SC2086  # the list of options is meant to be split
compile() { .venv/bin/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate $own "$@"; }
compile pyproject.toml --group dev --output-file requirements.lock
mkdir -p deploy/locks
for name in auth catalog realtime web worker; do
  compile "services/$name/pyproject.toml" --constraint requirements.lock --override deploy/locks/without.txt --output-file "deploy/locks/$name.lock"
done
