#!/bin/sh
# Starts one of several Redis as what it is at the moment: the primary, or a replica of it.
#
#   replicated.sh CONFIGURATION ACL FOLDER
#
# REDIS_HOST and REDIS_PORT: where clients, replicas and Sentinels find this one.
# REDIS_FIRST ("host port"): who begins as the primary when nobody knows of one.
# SENTINELS ("host:port host:port …"): who is asked first.
# SECRETS_DIR holds redis_replica_password and redis_sentinel_password.
set -eu
configuration=$1 acl=$2 folder=$3 own=$3/redis.conf
secrets=${SECRETS_DIR:-/run/secrets}

# What a Sentinel says counts: who was the primary may have been replaced while it was away.
primary=
for each in $SENTINELS; do
  primary=$(REDISCLI_AUTH=$(cat "$secrets/redis_sentinel_password") timeout 2 \
    redis-cli -h "${each%:*}" -p "${each#*:}" --user sentinel \
    sentinel get-master-addr-by-name store 2>&1 | tr '\n' ' ') || primary=
  # Anything else is an error: two words, and the second is a port.
  case $primary in *[!\ ]\ [1-9]*[0-9]\ ) break ;; *) primary= ;; esac
done
# Where none answers, what this one was when it stopped: Sentinel has that written down.
if [ -z "$primary" ] && [ -e "$own" ]; then
  primary=$(sed -n 's/^replicaof //p' "$own")
elif [ -z "$primary" ]; then
  primary=$REDIS_FIRST
fi
set -- $primary
[ "$*" = "$REDIS_HOST $REDIS_PORT" ] && set --

umask 077
cat > "$own" <<CONF
include $configuration
aclfile $acl
dir $folder
port $REDIS_PORT
bind ${REDIS_BIND:-*}
# Everybody signs in: see the ACL.
protected-mode no
replica-announce-ip $REDIS_HOST
replica-announce-port $REDIS_PORT
# There are two others at most: no use waiting for more before a copy is sent.
repl-diskless-sync-delay 0
masteruser replica
masterauth $(cat "$secrets/redis_replica_password")
# Who is cut off from all replicas takes no more writes after ten seconds: its place may have
# been taken, and what it accepts would be lost.
min-replicas-to-write 1
min-replicas-max-lag 10
${1:+replicaof $1 $2}
CONF
exec redis-server "$own"
