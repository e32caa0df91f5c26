#!/usr/bin/env bash
# The GPU checks and benchmarks of the project in at most ten minutes, what was never measured first.
#
#   benchmarks/gpu_all.sh [--cpu] [OUT]
#
# Every part has its own limit (590 s together) and prints its numbers when it ends.
# OUT (default out/gpu): a log for each part, its command first, and table.txt, which is also printed. --cpu runs the
# same parts at CPU sizes, to see that the script itself works before a GPU is rented. Needs an environment with the CUDA
# builds of jax and torch (`pip install -e '.[cuda,export,test]'`). A part that fails is marked so and the rest goes on;
# the script's exit code is then 1.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1

cpu=""
if [ "${1:-}" = "--cpu" ]; then cpu=1; shift; fi
out="${1:-out/gpu}"
python="${PYTHON:-.venv/bin/python}"
[ -x "$python" ] || python=python3
mkdir -p "$out"
table="$out/table.txt"
failed=0
# The two halves share one GPU; neither may take all of its memory at start.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
[ -n "$cpu" ] && export JAX_PLATFORMS=cpu

{
  echo "mvp4d-jax on one GPU, $(date -u +%Y-%m-%dT%H:%MZ)"
  if [ -n "$cpu" ]; then echo "CPU sizes: this tries the script, it measures no GPU"
  else nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader; fi
  "$python" -c 'import jax, torch; print("jax", jax.__version__, jax.devices()[0].device_kind, "| torch", torch.__version__)'
} 2>&1 | tee "$table"

# part NAME SECONDS PATTERN COMMAND...: run that long at most (on a GPU), keep the log, copy the lines that match PATTERN
# into the table.
part() {
  local name="$1" limit="$2" pattern="$3" began=$SECONDS status
  shift 3
  [ -z "$cpu" ] || limit=3600
  echo; echo "== $name, $limit s at most"
  echo "$*" > "$out/$name.log"
  timeout --kill-after=5 "$limit" "$@" >> "$out/$name.log" 2>&1
  status=$?
  [ $status -eq 0 ] || failed=1
  {
    echo
    echo "== $name: $([ $status -eq 0 ] && echo passed || echo "FAILED ($status)"), $((SECONDS - began)) s"
    tail -n +2 "$out/$name.log" | tr '\r' '\n' | grep -E "$pattern" | tail -15
    [ $status -eq 0 ] || tail -3 "$out/$name.log"
  } | tee -a "$table"
}

mvp4d=("$python" -m mvp4d.cli)
numbers='attention:|tokens|ours|diffusers|alone|share|best s'
tests=("$python" -m pytest -q -p no:cacheprovider)
rm -rf "$out/person" "$out/avatar"
if [ -n "$cpu" ]; then
  forward=(--layers 1 --size 8 --frames 3 --text 16 --repeats 2 --kernels) step=(--config tiny --repeats 1)
  tests+=(--collect-only) person=(--views 3 --frames 3 --size 64) fit=(--preset cpu --steps 4) speed=(--sizes 64 --frames 3)
else
  forward=(--gpu --kernels --repeats 3) step=()
  person=(--views 8 --frames 12 --size 512) fit=(--preset low) speed=()
fi
platforms=cuda,cpu
[ -z "$cpu" ] || platforms=cpu

# The whole 2B over 8 views x 13 latent frames x 512^2 and the reference: cuDNN must be the backend named in the log.
part transformer 160 "$numbers" "$python" benchmarks/transformer.py "${forward[@]}"
if [ -z "$cpu" ] && ! grep -q 'attention: cudnn on gpu' "$out/transformer.log"; then
  echo "   FAILED: cuDNN attention is not in the log" | tee -a "$table"; failed=1
fi
part train_step 110 'training step|compiled' "$python" benchmarks/train_step.py "${step[@]}"
part compositor 60 'passed|failed|error|SKIPPED|selected|collected' "${tests[@]}" -m gpu tests/export/test_splat_rasterize.py
# Real-time rates, on an avatar of a person of the studio.
part studio 50 '.' "${mvp4d[@]}" studio --out "$out/person" "${person[@]}"
part avatar_fit 100 '.' "${mvp4d[@]}" distill "$out/person" --out "$out/avatar" "${fit[@]}"
part avatar_realtime 50 '.' "$python" benchmarks/avatar_realtime.py "$out/avatar" "${speed[@]}"
part attention 60 'passed|failed|error|SKIPPED|selected|collected' env JAX_PLATFORMS="$platforms" "${tests[@]}" -m gpu tests/models/test_attention.py

echo; echo "table: $table"
exit $failed
