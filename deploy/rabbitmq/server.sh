#!/bin/sh
# Runs RabbitMQ as a plain process with all that it writes in one folder, and nothing left
# behind: for local mode and for tests.
#
#   server.sh FOLDER CONFIGURATION NODES NAMES
#
# NODES is the port where it listens for other nodes (there are none), NAMES that of its
# name server, both on loopback.
set -eu
folder=$1 configuration=$2 nodes=$3 names=$4

# Debian's own command insists on root or its own user: this is what it starts.
server=$(find /usr/lib/rabbitmq/lib -path '*/sbin/rabbitmq-server' 2> /dev/null | sort -V | tail -n 1)
mkdir -p "$folder"
# Who knows it could take over the node.
[ -s "$folder/.erlang.cookie" ] || (umask 277 && head -c 32 /dev/urandom | base64 > "$folder/.erlang.cookie")

export HOME="$folder"
export ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT="$names"
# A node needs a name server. Erlang would start one for the whole machine, on every
# address, which outlives the node; this one ends with the process that this becomes.
export ERL_AFLAGS="-start_epmd false"
setpriv --pdeathsig TERM epmd &
# The node does not try twice. Where the name server cannot start there is no use waiting.
until epmd -names > /dev/null 2>&1; do
  kill -0 $!
  sleep 0.05
done

export RABBITMQ_NODENAME=flagon@localhost RABBITMQ_DIST_PORT="$nodes"
export RABBITMQ_CONFIG_FILE="$configuration" RABBITMQ_ADVANCED_CONFIG_FILE="$folder/none.config"
# What the machine's administrator set for the machine's own RabbitMQ is not for this one.
export RABBITMQ_CONF_ENV_FILE=/dev/null
export RABBITMQ_MNESIA_BASE="$folder" RABBITMQ_MNESIA_DIR="$folder/data"
export RABBITMQ_LOG_BASE="$folder/log"
export RABBITMQ_PID_FILE="$folder/pid" RABBITMQ_FEATURE_FLAGS_FILE="$folder/feature_flags"
export RABBITMQ_GENERATED_CONFIG_DIR="$folder/config" RABBITMQ_PLUGINS_EXPAND_DIR="$folder/plugins"
export RABBITMQ_ENABLED_PLUGINS_FILE="$folder/enabled_plugins"
# Which queues there are on this node stands in tables that Erlang writes every three minutes:
# killed before that, it comes back without its streams, for ever. No spaces: it is split.
written='spawn(fun()->F=fun(G)->[dets:sync(T)||T<-dets:all()],timer:sleep(200),G(G)end,F(F)end).'
# One scheduler that sleeps when there is nothing to do; nobody comes from elsewhere.
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none -eval $written"
# Become the server instead of a shell that waits for it.
export RUNNING_UNDER_SYSTEMD=true
exec "$server"
