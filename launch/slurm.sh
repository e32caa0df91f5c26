#!/usr/bin/env bash
# Train on a GPU cluster under SLURM: one process per node, all of its GPUs.
#
#   NODES=8 GPUS=8 WORKDIR=/scratch/run launch/slurm.sh --config mvp4d_2b --config.data.shards=/scratch/shards
#
# DRY_RUN=1 prints the batch script. PARTITION, ACCOUNT, TIME, VENV may be set. The job asks for a signal five minutes before
# its time is up, saves, and puts itself back into the queue; it goes on from its newest checkpoint.
set -euo pipefail
: "${NODES:?}" "${GPUS:?per node}" "${WORKDIR:?seen by all nodes}"
[[ $# -gt 0 ]] || { sed -n '2,8p' "$0"; exit 2; }
VENV=${VENV:-$(cd "$(dirname "$0")/.." && pwd)/.venv}
arguments=$(printf '%q ' "$@")

script=$(cat <<BATCH
#!/usr/bin/env bash
#SBATCH --job-name=mvp4d --nodes=$NODES --ntasks-per-node=1 --gpus-per-node=$GPUS --exclusive
#SBATCH --time=${TIME:-24:00:00} --signal=TERM@300 --requeue --output=$WORKDIR/slurm-%j.log --open-mode=append
${PARTITION:+#SBATCH --partition=$PARTITION}
${ACCOUNT:+#SBATCH --account=$ACCOUNT}
mkdir -p $WORKDIR
# Overlap of collectives with products; memory taken as needed up to 92 %.
export XLA_FLAGS="--xla_gpu_enable_latency_hiding_scheduler=true"
export XLA_PYTHON_CLIENT_MEM_FRACTION=0.92 NCCL_DEBUG=WARN
srun $VENV/bin/mvp4d train --distributed --workdir $WORKDIR $arguments &
job=\$!
trap 'kill -TERM \$job' TERM
wait \$job; wait \$job; code=\$?
[ \$code -eq 143 ] && scontrol requeue \$SLURM_JOB_ID
exit \$code
BATCH
)
if [[ -n ${DRY_RUN:-} ]]; then echo "$script"; else sbatch <<<"$script"; fi
