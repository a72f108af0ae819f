#!/bin/sh
# Fills the variables of the gateway's templates, before nginx starts.
#
#   render.sh SOURCE TARGET
#
# As strict as flagonctl: nginx's own $name stay, and a variable that nobody set stops the
# pod and is named. tests/k8s compares what both make.
set -eu
source=$1 target=$2
for file in "$source"/*; do
  name=${file##*/}
  [ -f "$file" ] || continue
  case $name in
    *.template)
      awk -v file="$name" '{
        rest = $0
        line = ""
        while (match(rest, /[$][{][A-Z][A-Z0-9_]*[}]/)) {
          wanted = substr(rest, RSTART + 2, RLENGTH - 3)
          if (!(wanted in ENVIRON)) {
            print file " needs " wanted > "/dev/stderr"
            exit 1
          }
          line = line substr(rest, 1, RSTART - 1) ENVIRON[wanted]
          rest = substr(rest, RSTART + RLENGTH)
        }
        print line rest
      }' "$file" > "$target/${name%.template}"
      ;;
    *) cp "$file" "$target/$name" ;;
  esac
done
