#!/bin/sh
# Rolls out to Google Cloud: each job to its end, then what is called, then who calls.
#
#   PROJECT=… PROJECT_NUMBER=… REGION=… HOST=… BUCKET=… FILES=… AUTH_IMAGE=…@sha256:… … rollout.sh
#   PROJECT=… rollout.sh access         accounts and what each may read, once and when it changes
set -eu
cd "$(dirname "$0")"
: "${PROJECT:?}"

if [ "${1-}" = access ]; then
  sed '/^#/d' access.txt | cut -d ' ' -f 1 | sort -u | while read -r account; do
    gcloud iam service-accounts describe "$account@$PROJECT.iam.gserviceaccount.com" --project "$PROJECT" > /dev/null ||
      gcloud iam service-accounts create "$account" --project "$PROJECT"
  done
  sed '/^#/d' access.txt | while read -r account secret; do
    gcloud secrets add-iam-policy-binding "$secret" --project "$PROJECT" --role roles/secretmanager.secretAccessor \
      --member "serviceAccount:$account@$PROJECT.iam.gserviceaccount.com"
  done
  exit
fi

. ../places/images.sh
filled=$(mktemp -d)
trap 'rm -rf "$filled"' EXIT
# As strict as for the gateway: a variable that nobody set stops it and is named.
sh ../k8s/base/gateway/render.sh objects "$filled"

run() { gcloud run "$@" --project "$PROJECT" --region "$REGION" --quiet; }
kind() { sed -n 's/^kind: //p' "$filled/$1.yaml"; }
for job in auth-migrate catalog-migrate worker-migrate auth-seed; do
  run jobs replace "$filled/$job.yaml"
  # Ends with what the job ended with.
  run jobs execute "$job" --wait
done
for file in "$filled"/inside-*.yaml; do run services replace "$file"; done
for file in "$filled"/*.yaml; do
  name=$(basename "$file" .yaml)
  [ "$(kind "$name")" != WorkerPool ] || run worker-pools replace "$file"
done
run services replace "$filled/flagon.yaml"
