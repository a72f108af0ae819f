#!/bin/sh
# Rolls out to Azure: what lasts, then each job to its end, and only then what runs.
#
#   GROUP=… FLAGON_HOST=… VAULT=… REGISTRY=… SUBNET_ID=… FILES_SERVER=… FILES_SHARE=… CERTIFICATE_ID=… \
#     BUCKET_HOST=… BUCKET_NAME=… AUTH_IMAGE=…@sha256:… … rollout.sh
set -eu
cd "$(dirname "$0")"
. ../places/images.sh

deploy() {
  template=$1
  shift
  az deployment group create --resource-group "$GROUP" --template-file "$template" --output none --parameters \
    "hostName=$FLAGON_HOST" "vault=$VAULT" "registry=$REGISTRY" "bucketHost=$BUCKET_HOST" "bucketName=$BUCKET_NAME" "$@"
}
# Waits for a job; Azure says in a word how it is.
ended() {
  while :; do
    state=$(az containerapp job execution show --resource-group "$GROUP" --name "$1" \
      --job-execution-name "$2" --query properties.status --output tsv)
    case $state in
      Succeeded) return 0 ;;
      Failed | Stopped | Degraded) return 1 ;;
    esac
    sleep "${PAUSE:-5}"
  done
}

deploy platform.json "subnetId=$SUBNET_ID" "filesServer=$FILES_SERVER" "filesShare=$FILES_SHARE" \
  "authImage=$AUTH_IMAGE" "catalogImage=$CATALOG_IMAGE" "workerImage=$WORKER_IMAGE"
for job in auth-migrate catalog-migrate worker-migrate auth-seed; do
  run=$(az containerapp job start --resource-group "$GROUP" --name "$job" --query name --output tsv)
  if ! ended "$job" "$run"; then
    echo "$job failed: nothing was rolled out" >&2
    exit 4
  fi
done
deploy apps.json "certificateId=$CERTIFICATE_ID" "authImage=$AUTH_IMAGE" "catalogImage=$CATALOG_IMAGE" \
  "gatewayImage=$GATEWAY_IMAGE" "realtimeImage=$REALTIME_IMAGE" "webImage=$WEB_IMAGE" "workerImage=$WORKER_IMAGE"
