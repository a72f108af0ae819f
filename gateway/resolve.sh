#!/bin/sh
# Starts nginx in a container and keeps the addresses of its upstreams right.
#
# nginx 1.26 asks for the address of an upstream only when it starts; a container that is
# started again may get another one, even that of its neighbour. (`server … resolve` came
# with 1.27.3; a variable in proxy_pass would resolve again, but without kept connections
# and without a second try.) So the names in upstreams.conf are resolved here, once a
# second, and nginx reloads when an address changed: about 1 s, no request is lost.
# A reload closes idle connections, and a client whose next request meets that must send
# it again; so a name that lost its address, as a container does that is started again,
# keeps the one it had for ten seconds, unless it gets another or a neighbour has that
# one. Any other name without an address gets a closed port: nginx starts, and answers
# 502 there at once.
# A name with several addresses is a service with several containers: those get requests
# that are ready, so one may come and another go while people are there (`make roll`).
#
#   resolve.sh SOURCE TARGET COMMAND…   e.g. upstreams.conf /tmp/upstreams.conf nginx -g …
set -eu
source=$1 target=$2
known=$target.names
shift 2

addresses() {
  case $1 in
    *[!0-9.]*) getent ahostsv4 "$1" | awk '$2 == "STREAM" {print $1}' | sort -u ;;
    *) echo "$1" ;;
  esac
}

# Of several containers of a service writes those that say that they are ready, since a name
# has the addresses of starting and of stopping ones as well; all, where none says it.
serving() {
  port=$1 ready=
  shift
  if [ $# -gt 1 ]; then
    for address; do
      if curl -fs -o /dev/null --max-time 2 "http://$address:$port/readyz"; then
        ready="$ready $address"
      fi
    done
  fi
  echo "${ready:-$*}"
}

# Writes "name address" for every name that has one.
resolve() {
  awk '$1 == "upstream" { foreign = $2 == "bucket" }
       $1 == "server" { sub(";", "", $2); print $2, foreign }' "$source" | sort -u |
    while read -r place foreign; do
      name=${place%:*}
      # One address a line, or none.
      found=$(addresses "$name")
      # shellcheck disable=SC2086 (words are meant)
      [ "$foreign" = 1 ] || found=$(serving "${place##*:}" $found)
      for address in $found; do echo "$name $address"; done
    done
}

remember() {
  resolve > "$known.new"
  # The third field counts how often a name was looked for since it had this address.
  awk 'FILENAME == ARGV[1] { has[$1]; taken[$2]; print $1, $2, 0; next }
       !($1 in has) && !($2 in taken) && $3 < 10 { print $1, $2, $3 + 1 }' \
    "$known.new" "$known" > "$known.now"
  mv "$known.now" "$known"
}

render() {
  remember
  while IFS= read -r line; do
    case $line in
      *"    server "*)
        rest=${line#*server }
        place=${rest%% *}
        found=$(awk -v name="${place%:*}" '$1 == name { print $2 }' "$known")
        for address in ${found:-127.0.0.1}; do
          port=${place##*:}
          [ -n "$found" ] || port=1
          echo "    server $address:$port ${rest#* }"
        done
        ;;
      *) printf '%s\n' "$line" ;;
    esac
  done < "$source"
}

: > "$known"
render > "$target"
"$@" &
child=$!
told=
# Who tells this to stop may have told nginx as well, which is gone then.
pass() {
  told=yes
  if kill -0 "$child" 2>/dev/null; then kill "-$1" "$child"; fi
}
trap 'pass QUIT' QUIT
trap 'pass TERM' TERM INT
# `wait` returns at once on a signal, unlike a sleep in the foreground.
while kill -0 "$child" 2>/dev/null; do
  sleep 1 &
  wait $! || true
  # And what is called here, so that the file is half a one.
  if render > "$target.new" && [ -z "$told" ] && ! cmp -s "$target" "$target.new"; then
    mv "$target.new" "$target"
    # It may just have ended: then so does the loop.
    kill -HUP "$child" 2>/dev/null || true
  fi
done
wait "$child"
