#!/usr/bin/env bash
# Train on a GKE cluster that xpk made (pip install xpk).
#
#   NAME=mvp4d CLUSTER=cluster ZONE=us-east5-a TYPE=v5p-128 IMAGE=REGISTRY/mvp4d-jax:TAG BUCKET=bucket \
#     launch/xpk.sh --config mvp4d_2b \
#     --config.initial=/mnt/bucket/cogvideox-2b/transformer --config.autoencoder=/mnt/bucket/cogvideox-2b/vae \
#     --config.data.shards=/mnt/bucket/shards/512 --config.stages.images.shards=/mnt/bucket/shards/256
#
# IMAGE: launch/image.sh tpu IMAGE --push. SLICES=2 and more train one model, data over slices. Workdir: gs://BUCKET/NAME.
# Shards are read through a mount, which the cluster gets once:
#   xpk storage attach BUCKET --cluster CLUSTER --zone ZONE --type gcsfuse --bucket BUCKET --mount-point /mnt/BUCKET \
#     --readonly true --auto-mount true --size 1
# A slice that is preempted or fails is started again. DRY_RUN=1 prints the command.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
need NAME="a name for the workload" CLUSTER="a cluster that xpk made" ZONE="for example us-east5-a" TYPE="for example v5p-128" \
  IMAGE="what launch/image.sh tpu pushed" BUCKET="of the workdir, attached at /mnt/BUCKET"
SLICES=${SLICES:-1}
check_names
whole SLICES
[[ $# -gt 0 ]] || { usage "$0"; exit 2; }
check_arguments train "$@"
kind=$(kind_of_slice "$TYPE")
flags=$(compiler_flags "$kind" LIBTPU_INIT_ARGS)
command=(xpk workload create --workload "$NAME" --cluster "$CLUSTER" --zone "$ZONE" --tpu-type "$TYPE" --num-slices "$SLICES"
  --docker-image "$IMAGE" --max-restarts 100 --env "LIBTPU_INIT_ARGS=$flags"
  --command "mvp4d train --distributed --workdir $(quoted "gs://$BUCKET/$NAME" "$@")")
if [[ -n ${DRY_RUN:-} ]]; then quoted "${command[@]}"; echo; else "${command[@]}"; fi
