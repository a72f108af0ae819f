#!/bin/sh
# Ask PyPI whether a package in the images has a known vulnerability. pip-audit runs in an
# environment of its own, since libraries of its own are not kept any more. It installs and
# resolves nothing: the locks name all there is. `--strict`: a package that PyPI does not tell
# of is a failure; by itself it would be passed over, as would all of them behind a mirror that
# has files alone.
set -u
cd "$(dirname "$0")/.."
found=0
# The last is for what images have by choice (`SERVER=uwsgi`), and for tools.
for lock in deploy/locks/*.lock requirements.lock; do
  echo "audit: $lock"
  said=$(.venv/bin/uv tool run --quiet pip-audit==2.10.1 --strict --progress-spinner off \
    --disable-pip --require-hashes --requirement "$lock" 2>&1) || found=1
  printf '%s\n' "$said"
  case $said in
    *"could not be audited"* | *"Could not connect"*)
      echo "audit: nothing is known: PyPI's JSON API, which has the advisories, is not reached from here"
      exit 2
      ;;
  esac
done
exit "$found"
