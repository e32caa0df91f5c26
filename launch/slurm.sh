#!/usr/bin/env bash
# Train on a GPU cluster under SLURM: one process per node, all of its GPUs.
#
#   NODES=8 GPUS=8 WORKDIR=/scratch/run launch/slurm.sh --config mvp4d_2b \
#     --config.initial=/scratch/cogvideox-2b/transformer --config.autoencoder=/scratch/cogvideox-2b/vae \
#     --config.data.shards=/scratch/shards/512 --config.stages.images.shards=/scratch/shards/256
#
# PARTITION, ACCOUNT, TIME (24:00:00) and VENV (.venv of this checkout, on a file system that all nodes share) may be set. The
# job is sent a signal five minutes before its time is up, saves, and puts itself back into the queue; it goes on from its
# newest checkpoint. So it does when it is preempted (--requeue). DRY_RUN=1 prints the batch script.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
need NODES="how many" GPUS="of each node" WORKDIR="a folder that all nodes see"
whole NODES GPUS
[[ $WORKDIR =~ ^/[^\"\$\`\\]*$ ]] || refuse "WORKDIR is '$WORKDIR': a folder that all nodes see, from the root on"
[[ $# -gt 0 ]] || { usage "$0"; exit 2; }
check_arguments train "$@"
VENV=${VENV:-$repository/.venv}
[[ -n ${DRY_RUN:-} || -x $VENV/bin/mvp4d ]] || refuse "VENV is '$VENV': no mvp4d in it; an environment that all nodes see"

script=$(cat <<BATCH
#!/usr/bin/env bash
#SBATCH --job-name=mvp4d --nodes=$NODES --ntasks-per-node=1 --gpus-per-node=$GPUS --exclusive
#SBATCH --time=${TIME:-24:00:00} --signal=TERM@300 --requeue --open-mode=append
#SBATCH --output="$WORKDIR/slurm-%j.log"
${PARTITION:+#SBATCH --partition=$PARTITION}
${ACCOUNT:+#SBATCH --account=$ACCOUNT}
export XLA_FLAGS=$(quoted "$(compiler_flags gpu XLA_FLAGS)")
export XLA_PYTHON_CLIENT_MEM_FRACTION=0.92 NCCL_DEBUG=WARN
srun $(quoted "$VENV/bin/mvp4d" train --distributed --workdir "$WORKDIR" "$@") &
job=\$!
trap 'kill -TERM \$job' TERM
wait \$job; wait \$job; code=\$?
[ \$code -eq 143 ] && scontrol requeue \$SLURM_JOB_ID
exit \$code
BATCH
)
if [[ -n ${DRY_RUN:-} ]]; then echo "$script"; else mkdir -p "$WORKDIR"; sbatch <<<"$script"; fi
