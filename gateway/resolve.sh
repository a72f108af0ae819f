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

# Writes "name address" for every name that has one.
resolve() {
  sed -n 's/^ *server \([^ :;]*\):.*/\1/p' "$source" | sort -u | while read -r name; do
    addresses "$name" | sed "s/^/$name /"
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
