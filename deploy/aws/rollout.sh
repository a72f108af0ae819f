#!/bin/sh
# Rolls out to AWS: what lasts, then each job to its end, and only then what runs.
#
#   FLAGON_HOST=… CERTIFICATE_ARN=… BUCKET_NAME=… TEMPLATES_BUCKET=… AUTH_IMAGE=…@sha256:… … rollout.sh
#
# The first run stops after what lasts: until the secrets are filled nothing can start.
set -eu
cd "$(dirname "$0")"
: "${FLAGON_HOST:?the name that people type}" "${CERTIFICATE_ARN:?of ACM}"
: "${BUCKET_NAME:?of the pictures}" "${TEMPLATES_BUCKET:?templates of this size are read from a bucket}"
. ../places/images.sh
platform=${PLATFORM_STACK:-flagon-platform}

deploy() {
  stack=$1 template=$2
  shift 2
  aws cloudformation deploy --stack-name "$stack" --template-file "$template" \
    --s3-bucket "$TEMPLATES_BUCKET" --capabilities CAPABILITY_IAM --no-fail-on-empty-changeset \
    --parameter-overrides "HostName=$FLAGON_HOST" "BucketName=$BUCKET_NAME" "$@"
}
output() {
  aws cloudformation describe-stacks --stack-name "$platform" --output text \
    --query "Stacks[0].Outputs[?OutputKey=='$1'].OutputValue"
}

deploy "$platform" platform.yaml "AuthImage=$AUTH_IMAGE" "CatalogImage=$CATALOG_IMAGE" "WorkerImage=$WORKER_IMAGE"
for secret in $(sed -n 's|^ *Name: \(flagon/[a-z-]*\)$|\1|p' platform.yaml); do
  filled=$(aws secretsmanager list-secret-version-ids --secret-id "$secret" --output text --query 'length(Versions)')
  if [ "$filled" = 0 ]; then
    echo "the secret $secret is empty: fill it (README.md) and run this again" >&2
    exit 3
  fi
done

cluster=$(output Cluster)
network="awsvpcConfiguration={subnets=[$(output Subnets)],securityGroups=[$(output InsideGroup)],assignPublicIp=DISABLED}"
for job in AuthMigrate CatalogMigrate WorkerMigrate AuthSeed; do
  task=$(aws ecs run-task --cluster "$cluster" --task-definition "$(output "${job}Task")" --launch-type FARGATE \
    --network-configuration "$network" --output text --query 'tasks[0].taskArn')
  aws ecs wait tasks-stopped --cluster "$cluster" --tasks "$task"
  code=$(aws ecs describe-tasks --cluster "$cluster" --tasks "$task" --output text --query 'tasks[0].containers[0].exitCode')
  if [ "$code" != 0 ]; then
    echo "$job ended with $code: nothing was rolled out" >&2
    exit 4
  fi
done

deploy "${SERVICES_STACK:-flagon-services}" services.yaml "Platform=$platform" "CertificateArn=$CERTIFICATE_ARN" \
  "AuthImage=$AUTH_IMAGE" "CatalogImage=$CATALOG_IMAGE" "GatewayImage=$GATEWAY_IMAGE" \
  "RealtimeImage=$REALTIME_IMAGE" "WebImage=$WEB_IMAGE" "WorkerImage=$WORKER_IMAGE"
