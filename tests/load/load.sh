#!/bin/sh
# Load the platform: makes Locust's environment where it is missing, and starts run.py.
set -eu
cd "$(dirname "$0")/../.."
place=.venv/load
wanted=$(cksum < tests/load/requirements.lock)
installed=
if [ -e $place/flagon-installed ]; then installed=$(cat $place/flagon-installed); fi
if [ "$installed" != "$wanted" ]; then
  echo "load: installing $(grep -c '^[a-z].*==' tests/load/requirements.lock) packages from tests/load/requirements.lock"
  .venv/bin/uv venv --quiet --clear --python .venv/bin/python $place
  .venv/bin/uv pip install --quiet --python $place/bin/python --require-hashes --requirement tests/load/requirements.lock
  echo "$wanted" > $place/flagon-installed
fi
exec $place/bin/python tests/load/run.py "$@"
