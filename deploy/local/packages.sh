#!/bin/sh
# Installs Debian packages as root without leaving their services running: neither now nor
# after the next boot. Services that were there before are not touched.
#
#   packages.sh PACKAGE…
set -eu
policy=/usr/sbin/policy-rc.d
cluster=/etc/postgresql-common/createcluster.d/flagon.conf

units() { find /lib/systemd/system /usr/lib/systemd/system -maxdepth 1 \( -name '*.service' -o -name '*.socket' \) 2>/dev/null | sed 's|.*/||' | sort -u; }

undo() {
  [ -z "${made_policy:-}" ] || rm -f "$policy"
  rm -f "$cluster"
  # Not empty: somebody else has put something there, which stays.
  rmdir /etc/postgresql-common/createcluster.d /etc/postgresql-common 2>/dev/null || true
}
trap undo EXIT
trap 'exit 1' INT TERM

# Debian asks this program before a package starts its service; 101 means "do not".
if [ ! -e "$policy" ]; then
  made_policy=yes
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod 755 "$policy"
fi
# Our Postgres has its own data folder; the package need not make one of its own.
mkdir -p "$(dirname "$cluster")"
echo "create_main_cluster = false" > "$cluster"

before=$(mktemp)
units > "$before"
export DEBIAN_FRONTEND=noninteractive
said=$(mktemp)
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "$@"; } > "$said" 2>&1; then
  tail -n 20 "$said" >&2
  exit 1
fi

# What has just come would start at the next boot. Nothing new is no failure, nor is an init
# system that is installed and not running: then nothing starts anything.
for unit in $(units | grep -vxFf "$before" || true); do
  case $unit in
    *@.service) ;;
    postgresql.service | redis-server.service | nginx.service | haproxy.service | apache2.service | apache-htcacheclean.service | prometheus*.service | rabbitmq-server.service | epmd.*)
      ! command -v systemctl > /dev/null || systemctl disable --quiet "$unit" 2> /dev/null || true
      # The same where systemd is installed later, or another init runs.
      rm -f /etc/systemd/system/*.wants/"$unit"
      ! command -v update-rc.d > /dev/null || update-rc.d "${unit%.service}" disable > /dev/null 2>&1 || true
      ;;
  esac
done
rm -f "$before" "$said"
