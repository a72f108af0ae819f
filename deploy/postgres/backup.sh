#!/bin/sh
# Base backups, the log between them, and recovery to a moment: the same in both modes.
#
#   backup.sh archive PATH FILE   keep one file of the log; does nothing before a first backup
#   backup.sh fetch FILE PATH     give one back to a Postgres that recovers
#   backup.sh flush               let the log reach the archive up to now
#   backup.sh base NAME KEEP      a verified base backup; all but the newest KEEP go
#   backup.sh list                `base NAME WHOLE_AT [LEFT_AT]`, `restore AT DONE_AT`
#   backup.sh recover NAME [AT]   a data folder as it was at AT beside the present one; says
#                                 `whole` or, if the log ends before AT, `short`, and when the
#                                 last commit was
#   backup.sh swap [AT NAME…]     put it in the place of the present one, which is kept;
#                                 those base backups are of the history that is left
#
# BACKUPS is the folder of backups, DATA that of Postgres, RECOVERED (DATA.recovered) where
# to recover, LEFT (DATA.left) where the present one goes, CONFIG the server's configuration.
# `flush` and `base` find the server by PGHOST and PGPORT; passwords are files in
# SECRETS_DIR. `recover` starts a Postgres of its own that nobody else can reach.
set -eu
umask 077
here=$(dirname "$0")
secrets=${SECRETS_DIR:-/run/secrets}

fail() {
  printf '%s\n' "$*" >&2
  exit 1
}
# One column of one row, asked as the administrator.
ask() {
  PGPASSWORD=$(cat "$secrets/postgres_password") psql --no-psqlrc --quiet --no-align \
    --tuples-only --set on_error_stop=1 --username postgres --dbname postgres --command "$1"
}
kilobytes() { du -sk "$@" | awk '{n += $1} END {print n + 0}'; }
room() { df -Pk "$1" | awk 'NR == 2 {print $4}'; }
needs_room() { # FOLDER KILOBYTES
  [ "$(room "$1")" -gt "$2" ] ||
    fail "The disk of $1 is full: $(($2 / 1024)) MB are needed, $(($(room "$1") / 1024)) MB are free."
}
moment() { date -u +%Y-%m-%dT%H:%M:%S.%6NZ; }

archive() {
  # Without a base backup the log is of use to nobody.
  [ -d "$BACKUPS/base" ] || return 0
  mkdir -p "$BACKUPS/wal"
  # Half a file must never look like a whole one. A file that is there already was kept
  # by a call whose success Postgres did not hear of.
  if [ -e "$BACKUPS/wal/$2.gz" ]; then
    gzip -dc "$BACKUPS/wal/$2.gz" | cmp -s - "$1" && return 0
    fail "$2 is in the archive with other content."
  fi
  gzip -1 < "$1" > "$BACKUPS/wal/$2.gz.new"
  sync "$BACKUPS/wal/$2.gz.new"
  mv "$BACKUPS/wal/$2.gz.new" "$BACKUPS/wal/$2.gz"
}

fetch() {
  if [ -e "$BACKUPS/wal/$1.gz" ]; then
    gzip -dc "$BACKUPS/wal/$1.gz" > "$2"
    return
  fi
  # What had not reached the archive when everything ended, if the folder is still there.
  # Postgres asks for files that do not exist yet, too, and is told so without a word.
  [ -e "$DATA/pg_wal/$1" ] || return 1
  cp "$DATA/pg_wal/$1" "$2"
}

flush() {
  # A commit of its own: the moment asked for may be after everybody's last one.
  ask "select pg_current_xact_id()" > /dev/null
  file=$(ask "select pg_walfile_name(pg_switch_wal())")
  waited=0
  until [ -e "$BACKUPS/wal/$file.gz" ]; do
    [ "$waited" -lt 600 ] || fail "The log does not reach $BACKUPS/wal: see Postgres' log."
    waited=$((waited + 1))
    sleep 0.1
  done
}

base() {
  mkdir -p "$BACKUPS"
  size=$(($(ask "select sum(pg_database_size(oid)) from pg_database") / 1024))
  # As much again for the log while it is copied, and what Postgres itself needs.
  needs_room "$BACKUPS" $((2 * size + 65536))
  # From here on the log is kept, also of the time while the files are copied.
  mkdir -p "$BACKUPS/base"
  rm -rf "$BACKUPS"/base/*.new
  ask "alter system set archive_timeout = '60s'"
  ask "select pg_reload_conf()" > /dev/null
  PGPASSWORD=$(cat "$secrets/backup_postgres_password") pg_basebackup --username backup \
    --pgdata "$BACKUPS/base/$1.new" --checkpoint fast --wal-method stream \
    --manifest-checksums SHA256 --no-password
  pg_verifybackup --quiet "$BACKUPS/base/$1.new"
  mkdir "$BACKUPS/base/$1.new/flagon"
  ask "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')" \
    > "$BACKUPS/base/$1.new/flagon/whole_at"
  # Also when it is the first: what happened while the files were copied.
  flush
  mv "$BACKUPS/base/$1.new" "$BACKUPS/base/$1"
  sync "$BACKUPS"
  prune "$2"
  echo "$(kilobytes "$BACKUPS/base/$1") $(kilobytes "$BACKUPS")"
}

is_left() { [ -e "$BACKUPS/base/$1/flagon/left_at" ]; }
is_used() { ! is_left "$1"; }
bases() {
  for one in "$BACKUPS"/base/*; do
    if "$1" "$(basename "$one")"; then basename "$one"; fi
  done
}

prune() {
  # Those of a history that was left go first.
  for old in $({ bases is_used | sort -r; bases is_left | sort -r; } | tail -n "+$(($1 + 1))"); do
    rm -rf "${BACKUPS:?}/base/$old"
  done
  oldest=$(ls "$BACKUPS/base" | sort | head -n 1)
  first=$(sed -n 's/^START WAL LOCATION: .*(file \([0-9A-F]*\)).*/\1/p' \
    "$BACKUPS/base/$oldest/backup_label")
  pg_archivecleanup -x .gz "$BACKUPS/wal" "$first"
}

list() {
  for one in "$BACKUPS"/base/*/flagon; do
    name=$(basename "$(dirname "$one")")
    case $name in *.new | '*') continue ;; esac
    left=
    if [ -e "$one/left_at" ]; then left=$(cat "$one/left_at"); fi
    echo "base $name $(cat "$one/whole_at") $left"
  done
  if [ -e "$BACKUPS/restores" ]; then sed 's/^/restore /' "$BACKUPS/restores"; fi
}

recover() {
  socket= short= source=$BACKUPS/base/$1 target=${RECOVERED:-$DATA.recovered}
  needs_room "$(dirname "$target")" $(($(kilobytes "$source") + 262144))
  pg_verifybackup --quiet --ignore flagon "$source"
  # A restore that was cut off left its own behind.
  end "$target"
  rm -rf "$target"
  cp -R "$source" "$target"
  rm -rf "$target/flagon"
  chmod 700 "$target"
  trap 'end "$target"; rm -rf "$socket"' EXIT
  begin "$target" "${2-}" ||
    # The log ended before that moment, so all of it is from before.
    { grep -q 'recovery ended before configured recovery target' "$target/recovery.log" &&
      short=short && begin "$target" ""; } ||
    fail "Postgres could not recover: $(grep -E 'FATAL|PANIC|ERROR' "$target/recovery.log" | tail -n 3)"
  sed -n 's/.*last completed transaction was at log time \(.*\)/\1/p' "$target/recovery.log" |
    tail -n 1 > "$target/recovered_to"
  for name in restore_command recovery_target_time recovery_target_action hot_standby; do
    ask "alter system reset $name"
  done
  # What Redis held comes from here again: see rebuild.sql.
  for name in auth catalog worker; do
    PGPASSWORD=$(cat "$secrets/postgres_password") psql --no-psqlrc --quiet \
      --set on_error_stop=1 --username postgres --dbname "$name" --file "$here/rebuild.sql"
  done
  pg_ctl --pgdata "$target" --mode fast --wait --timeout 600 --silent stop
  echo "${short:-whole} $(cat "$target/recovered_to")"
  rm -f "$target/recovered_to" "$target/recovery.log"
}

swap() {
  target=${RECOVERED:-$DATA.recovered} left=${LEFT:-$DATA.left}
  said="there was nothing to keep"
  [ -e "$target/PG_VERSION" ] || fail "Nothing was recovered."
  if [ -e "$DATA/PG_VERSION" ]; then
    rm -rf "$left"
    # The root of a volume cannot be renamed: there what it holds is moved.
    if mountpoint -q "$DATA"; then
      mkdir "$left" && mv "$DATA"/* "$left"
    else
      mv "$DATA" "$left"
    fi
    said="what was there is in $left"
  fi
  if [ -d "$DATA" ]; then mv "$target"/* "$DATA" && rmdir "$target"; else mv "$target" "$DATA"; fi
  echo "$said"
  [ "$#" -gt 0 ] || return 0
  at=$1 now=$(moment)
  shift
  for name; do echo "$now" > "$BACKUPS/base/$name/flagon/left_at"; done
  echo "$at $now" >> "$BACKUPS/restores"
}

end() { # FOLDER
  # A file with its id may be left of one that was killed.
  if pg_ctl --pgdata "$1" status > /dev/null; then
    pg_ctl --pgdata "$1" --mode immediate --wait --silent stop
  fi
}

begin() { # FOLDER AT
  # A path of a socket has 107 bytes, and nobody but this script may come.
  [ -n "$socket" ] || socket=$(mktemp -d /tmp/flagon-recovery.XXXXXX)
  export PGHOST="$socket" PGPORT=5432
  at=$2
  rm -f "$1/recovery.log"
  touch "$1/recovery.signal"
  {
    echo "restore_command = '$(quoted "sh $(word "$here/backup.sh") fetch %f %p")'"
    echo "recovery_target_action = 'promote'"
    # Nobody gets in before it is what was asked for.
    echo "hot_standby = off"
    # Read before Postgres knows the name of any zone, `Z` included.
    echo "recovery_target_time = '${at:+${at%Z}+00}'"
  } >> "$1/postgresql.auto.conf"
  # The recovering Postgres hands these to restore_command. It archives nothing itself, but
  # notes what the next one has to: the history from here on.
  export BACKUPS DATA
  pg_ctl --pgdata "$1" --wait --timeout 86400 --silent --log "$1/recovery.log" \
    --options "-c config_file='$(quoted "$CONFIG")' -c listen_addresses= -c port=5432 -c unix_socket_directories=$socket -c archive_command=" \
    start < /dev/null > /dev/null 2>&1 || return 1
  # It counts as started from the moment it recovers; when it is done, it lets people in.
  until ask "select 1" > /dev/null 2>&1; do
    pg_ctl --pgdata "$1" status > /dev/null 2>&1 || return 1
    sleep 0.1
  done
}
quoted() { printf '%s' "$1" | sed "s/'/''/g"; }
word() { printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g;s/%/%%/g")"; }

"$@"
