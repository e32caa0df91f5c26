#!/usr/bin/env bash
# What only a GPU can tell, in at most ten minutes, the most wanted numbers first.
#
#   benchmarks/gpu_all.sh [--cpu] [OUT]
#
#   1 forward     2B at 107,520 tokens in bfloat16, cuDNN attention, against diffusers on the same GPU (goal 0.8 of its time)
#   2 train_step  2B, forward, backward, AdamW: 14,336 tokens, and with two views
#   3 agreement   the CPU compositor against gsplat on CUDA; attention against the plain one
#   4 realtime    an avatar of 100,000 Gaussians: frames a second
#   5 fit         a studio person with preset `low`, while time is left
#
# OUT (default out/gpu): a log of each part, and table.txt; every part prints its line as soon as it has it. --cpu runs the
# same parts at CPU sizes, which tries the script and measures no GPU. Needs the CUDA builds of jax and torch
# (`pip install -e '.[cuda,export,test]'`). LIMIT (600) is the time for all in seconds: a part that would begin later is left
# out, one that is under way is ended. A part that fails is marked and the rest goes on; the exit code is then 1.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit

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
  echo "mvp4d-jax on a GPU, $(date -u +%Y-%m-%dT%H:%MZ)"
  if [ -n "$cpu" ]; then echo "CPU sizes: this tries the script, it measures no GPU"
  else nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader; fi
  "$python" -c 'import jax, torch; print("jax", jax.__version__, jax.devices()[0].device_kind, "| torch", torch.__version__)'
} 2>&1 | tee "$table"

# part NAME PATTERN COMMAND...: run, keep the log, copy the lines that match PATTERN into the table.
part() {
  local name="$1" pattern="$2" began=$SECONDS left=$((${LIMIT:-600} - SECONDS)) status
  shift 2
  if [ $left -lt 10 ]; then printf '\n== %s: left out, no time\n' "$name" | tee -a "$table"; return; fi
  echo; echo "== $name: $*"
  timeout "$left" "$@" > "$out/$name.log" 2>&1
  status=$?
  [ $status -eq 0 ] || failed=1
  {
    echo
    echo "== $name: $([ $status -eq 0 ] && echo passed || echo "FAILED ($status)"), $((SECONDS - began)) s"
    tr '\r' '\n' < "$out/$name.log" | grep -E "$pattern" | tail -15
    [ $status -eq 0 ] || tail -3 "$out/$name.log"
  } | tee -a "$table"
}

# benchmark NAME PATTERN FILE ARGUMENTS...
benchmark() { local name="$1" pattern="$2" file="$3"; shift 3; part "$name" "$pattern" "$python" "benchmarks/$file" "$@"; }

numbers='attention:|tokens|ours|diffusers|alone|share|best'
mvp4d="$(dirname "$(command -v "$python" || echo "$python")")/mvp4d"
gpu_tests=("$python" -m pytest -q -p no:cacheprovider -m gpu)
person="$out/person" avatar="$out/avatar"
rm -rf "$person" "$avatar"
if [ -n "$cpu" ]; then
  benchmark forward "$numbers" transformer.py --layers 1 --size 8 --frames 3 --text 16 --repeats 2 --kernels
  benchmark train_step "$numbers" train_step.py --config tiny --kind multiview --repeats 1
  part agreement 'passed|failed|error|collected|deselected' "${gpu_tests[@]}" --collect-only tests/export/test_splat_rasterize.py tests/models/test_attention.py
  part studio '.' "$mvp4d" studio --out "$person" --cameras orbit:360x3 --frames 3 --size 64
  part fit '.' "$mvp4d" distill "$person" --out "$avatar" --preset cpu --steps 4
  benchmark realtime '.' avatar_realtime.py "$avatar" --sizes 64 --frames 3
else
  benchmark forward "$numbers" transformer.py --gpu
  if ! grep -q 'attention: cudnn on gpu' "$out/forward.log" 2>/dev/null; then
    echo "   FAILED: cuDNN attention is not in the log" | tee -a "$table"; failed=1
  fi
  benchmark train_step "$numbers" train_step.py
  benchmark train_step_views "$numbers" train_step.py --kind multiview --views 2
  part agreement 'passed|failed|error|SKIPPED' env JAX_PLATFORMS=cuda,cpu "${gpu_tests[@]}" tests/export/test_splat_rasterize.py tests/models/test_attention.py
  part studio '.' env JAX_PLATFORMS=cuda "$mvp4d" studio --out "$person" --cameras orbit:360x8 --frames 17 --size 256
  part first_avatar '.' "$mvp4d" distill "$person" --out "$avatar" --preset low --steps 300
  benchmark realtime '.' avatar_realtime.py "$avatar" --gaussians 100000
  part fit '.' "$mvp4d" distill "$person" --out "$avatar.fit" --preset low
fi

echo; echo "table: $table"
exit $failed
