#!/bin/sh
# Starts a Sentinel, which goes on with what it knew when it stopped.
#
#   sentinel.sh ACL FOLDER
#
# SENTINEL_HOST and SENTINEL_PORT: where the others find this one.
# REDIS_FIRST ("host port"): the primary to begin with.
# SECRETS_DIR holds redis_sentinel_password.
set -eu
acl=$1 folder=$2 own=$2/sentinel.conf
password=$(cat "${SECRETS_DIR:-/run/secrets}/redis_sentinel_password")

umask 077
# Not half of it: what is there is taken as it is.
[ -e "$own" ] || { cat > "$own.new" <<CONF && mv "$own.new" "$own"; }
aclfile $acl
dir $folder
port $SENTINEL_PORT
bind ${REDIS_BIND:-*}
protected-mode no
# Addresses of pods change, names do not.
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
sentinel announce-ip $SENTINEL_HOST
sentinel announce-port $SENTINEL_PORT
sentinel sentinel-user sentinel
sentinel sentinel-pass $password
# Two of three must agree.
sentinel monitor store $REDIS_FIRST 2
sentinel auth-user store sentinel
sentinel auth-pass store $password
# A pause of a second or two is not an outage; five are.
sentinel down-after-milliseconds store ${SENTINEL_DOWN_MILLISECONDS:-5000}
# Whose votes were split try again after twice this time.
sentinel failover-timeout store ${SENTINEL_FAILOVER_MILLISECONDS:-10000}
sentinel parallel-syncs store 1
CONF
exec redis-server "$own" --sentinel
