#!/usr/bin/env bash
# Train on a Cloud TPU pod slice, through queued resources. Needs gcloud, logged in.
#
#   NAME=mvp4d ZONE=us-east5-a TYPE=v5p-128 RUNTIME=v2-alpha-tpuv5 BUCKET=bucket \
#     launch/tpu_vm.sh up                                          ask for the slice, wait until it is there
#   ... launch/tpu_vm.sh install          this checkout onto every host, and the bucket mounted at /mnt/bucket (gcsfuse)
#   ... launch/tpu_vm.sh train --config mvp4d_2b --config.data.shards=/mnt/bucket/shards
#   ... launch/tpu_vm.sh stop | log | down
#
# DRY_RUN=1 prints the commands instead of running them. `train` restarts after a preemption or a crash until it is done;
# a checkpoint is never older than config.checkpoint.every steps, and SIGTERM writes one.
set -euo pipefail
: "${NAME:?a name for the slice}" "${ZONE:?for example us-east5-a}" "${TYPE:?for example v5p-128 or v5litepod-64}"
: "${BUCKET:?a bucket that all hosts mount}"
RUNTIME=${RUNTIME:-tpu-ubuntu2204-base} SPOT=${SPOT:-} DRY_RUN=${DRY_RUN:-}
here=$(cd "$(dirname "$0")/.." && pwd)

# Overlap of collectives with products, and room for the fused loops. One line, and in LIBTPU_INIT_ARGS: in XLA_FLAGS
# these names stop every process that runs on CPU.
LIBTPU="--xla_tpu_enable_async_collective_fusion=true --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true --xla_tpu_enable_async_collective_fusion_multiple_steps=true --xla_tpu_overlap_compute_collective_tc=true --xla_enable_async_all_gather=true --xla_tpu_scoped_vmem_limit_kib=65536"

run() { if [[ -n $DRY_RUN ]]; then printf '%q ' "$@"; echo; else "$@"; fi; }
everywhere() { run gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker=all --command "$1"; }

case ${1:-} in
up)
  run gcloud compute tpus queued-resources create "$NAME" --node-id "$NAME" --zone "$ZONE" --accelerator-type "$TYPE" \
    --runtime-version "$RUNTIME" ${SPOT:+--spot}
  until [[ -n $DRY_RUN ]] || gcloud compute tpus queued-resources describe "$NAME" --zone "$ZONE" \
      --format='value(state.state)' | grep -q ACTIVE; do
    echo "waiting for $TYPE in $ZONE ($(date +%H:%M))"; sleep 60
  done ;;
install)
  run gcloud compute tpus tpu-vm scp --recurse --worker=all --zone "$ZONE" "$here" "$NAME:mvp4d-jax"
  everywhere "cd mvp4d-jax && python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e '.[tpu]'"
  everywhere "sudo mkdir -p /mnt/bucket && sudo chmod 777 /mnt/bucket && { mountpoint -q /mnt/bucket || gcsfuse --implicit-dirs $BUCKET /mnt/bucket; }" ;;
train)
  shift
  arguments=$(printf '%q ' "$@")
  # Every host runs the same line; JAX finds the others. Exit code 2 is a mistake in the config: no use in trying again.
  everywhere "cd mvp4d-jax && nohup bash -c 'for try in \$(seq 100); do LIBTPU_INIT_ARGS=\"$LIBTPU\" .venv/bin/mvp4d train --distributed --workdir /mnt/bucket/$NAME $arguments; code=\$?; [ \$code -eq 0 ] || [ \$code -eq 2 ] && break; sleep 20; done' > train.log 2>&1 & echo started" ;;
log) run gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker=0 --command "tail -n 40 -f mvp4d-jax/train.log" ;;
stop) everywhere "pkill -TERM -f 'mvp4d train' || true" ;;
down) run gcloud compute tpus queued-resources delete "$NAME" --zone "$ZONE" --force ;;
*) sed -n '2,13p' "$0"; exit 2 ;;
esac
