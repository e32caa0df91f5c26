#!/usr/bin/env bash
# Every GPU check and benchmark of the project in one go, so that one rented GPU hour shows all.
#
#   benchmarks/gpu_all.sh [--cpu] [OUT]
#
# OUT (default out/gpu): one log for each part, and table.txt, which is also printed. --cpu runs the same roads at CPU
# sizes, to see that the script itself works before an hour is rented. Needs an environment with the CUDA builds of jax
# and torch (`pip install -e '.[cuda,export,test]'`). A part that fails is marked so and the rest goes on; the script's
# exit code is then 1.
set -u -o pipefail
cd "$(dirname "$0")/.."

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
  echo "mvp4d-jax, every GPU check and benchmark, $(date -u +%Y-%m-%dT%H:%MZ)"
  if [ -n "$cpu" ]; then echo "CPU sizes: this tries the script, it measures no GPU"
  else nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader; fi
  "$python" -c 'import jax, torch; print("jax", jax.__version__, jax.devices()[0].device_kind, "| torch", torch.__version__)'
} 2>&1 | tee "$table"

# part NAME PATTERN COMMAND...: run, keep the log, copy the lines that match PATTERN into the table.
part() {
  local name="$1" pattern="$2" began=$SECONDS status
  shift 2
  echo; echo "== $name: $*"
  "$@" > "$out/$name.log" 2>&1
  status=$?
  [ $status -eq 0 ] || failed=1
  {
    echo
    echo "== $name: $([ $status -eq 0 ] && echo passed || echo "FAILED ($status)"), $((SECONDS - began)) s"
    tr '\r' '\n' < "$out/$name.log" | grep -E "$pattern" | tail -15
    [ $status -eq 0 ] || tail -3 "$out/$name.log"
  } | tee -a "$table"
}

# script NAME FILE PATTERN ARGUMENTS...: a benchmark that may not be in this checkout.
script() {
  local name="$1" file="$2" pattern="$3"
  shift 3
  if [ -f "$file" ]; then part "$name" "$pattern" "$python" "$file" "$@"
  else printf '\n== %s: left out, %s is not there\n' "$name" "$file" | tee -a "$table"; fi
}

numbers='attention:|tokens|ours|diffusers|alone|share|best s'
mvp4d="$(dirname "$(command -v "$python" || echo "$python")")/mvp4d"
if [ -n "$cpu" ]; then
  part tests 'passed|failed|error|deselected' "$python" -m pytest -q -p no:cacheprovider --collect-only -m gpu tests/models
  script transformer benchmarks/transformer.py "$numbers" --layers 1 --size 8 --frames 3 --text 16 --repeats 2 --kernels
  person=(--views 3 --frames 3 --size 64) fit=(--preset cpu --steps 4) speed=(--sizes 64 --frames 3)
  halves=(--preset cpu --steps 4 --hold-views 1 --hold-times 1)
else
  part tests 'passed|failed|error|SKIPPED' env JAX_PLATFORMS=cuda,cpu "$python" -m pytest -q -p no:cacheprovider -m gpu
  # The whole 2B over 8 views x 13 latent frames x 512^2 and the reference: cuDNN must be the backend named in the log.
  script transformer benchmarks/transformer.py "$numbers" --gpu --kernels
  if ! grep -q 'attention: cudnn on gpu' "$out/transformer.log" 2>/dev/null; then
    echo "   FAILED: cuDNN attention is not in the log" | tee -a "$table"; failed=1
  fi
  script transformer_video benchmarks/transformer.py "$numbers" --gpu --frames 13 --text 226
  person=(--views 16 --frames 49 --size 512) fit=(--preset low) speed=()
  halves=(--preset low)
fi

# The avatar half: a person of the studio, an avatar of it, then frames per second and the fit's time and quality.
rm -rf "$out/person" "$out/avatar"
part studio '.' "$mvp4d" studio --out "$out/person" "${person[@]}"
part avatar_fit '.' "$mvp4d" distill "$out/person" --out "$out/avatar" "${fit[@]}"
script avatar_realtime benchmarks/avatar_realtime.py '.' "$out/avatar" "${speed[@]}"
script distill benchmarks/distill.py '.' "$out/person" "${halves[@]}"

echo; echo "table: $table"
exit $failed
