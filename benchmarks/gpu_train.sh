#!/usr/bin/env bash
# Weights from nothing but the studio in one go on one GPU: film, prepare, teacher, student, export, score.
#
#   benchmarks/gpu_train.sh [--cpu] [OUT]
#
# About 11 minutes on one H100 or H200 with 16 cores; every part has its own limit, so that it cannot take more than 12.
# OUT (default out/gpu_train): a log for each part, table.txt, which is also printed, and parts/: both releases in pieces
# of 15 MB (`cat parts/* | tar xz`). --cpu runs the same pipeline with one person and two steps, to see that it works before
# a GPU is rented. Needs `pip install -e '.[cuda,export,test]'`.
#
# PEOPLE, TEACHER_STEPS, STUDENT_STEPS, BATCH and INITIAL (a release the teacher starts from, "" for random weights;
# WIDTH="--config.transformer.num_heads=6 --config.transformer.num_layers=6" with it) change what is done.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1

cpu=""
if [ "${1:-}" = "--cpu" ]; then cpu=1; shift; fi
out="${1:-out/gpu_train}"
python="${PYTHON:-.venv/bin/python}"
[ -x "$python" ] || python=python3
mvp4d=("$python" -m mvp4d.cli)
mkdir -p "$out"
table="$out/table.txt"
failed=0
export XLA_PYTHON_CLIENT_PREALLOCATE=false  # several processes draw on the cores and encode on the GPU
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/$out/cache}"

if [ -n "$cpu" ]; then
  export JAX_PLATFORMS=cpu
  people=${PEOPLE:-1} workers=1 cameras=4 teacher_steps=${TEACHER_STEPS:-2} student_steps=${STUDENT_STEPS:-2}
  batch=${BATCH:-1} scored=1 loaders=0 limits=(3600 3600 3600 3600 3600)
else
  people=${PEOPLE:-96} workers=$(nproc) cameras=8 teacher_steps=${TEACHER_STEPS:-2400} student_steps=${STUDENT_STEPS:-700}
  batch=${BATCH:-64} scored=2 loaders=8 limits=(150 160 180 110 50)
fi
initial="${INITIAL-tiny_128}"
small=$(((batch + 1) / 2))

{
  echo "mvp4d-jax, weights in one go, $(date -u +%Y-%m-%dT%H:%MZ)"
  if [ -n "$cpu" ]; then echo "CPU sizes: this tries the script, it measures no GPU"
  else nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader; fi
  "$python" -c 'import jax; print("jax", jax.__version__, jax.devices()[0].device_kind)'
} 2>&1 | tee "$table"

# part NAME PATTERN COMMAND...: run, keep the log, copy the lines that match PATTERN into the table.
part() {
  local name="$1" pattern="$2" began=$SECONDS status
  shift 2
  echo; echo "== $name"
  "$@" > "$out/$name.log" 2>&1
  status=$?
  [ "$status" -eq 0 ] || failed=1
  {
    echo
    echo "== $name: $([ "$status" -eq 0 ] && echo passed || echo "FAILED ($status)"), $((SECONDS - began)) s"
    tr '\r' '\n' < "$out/$name.log" | grep -E "$pattern" | tail -12
    [ "$status" -eq 0 ] || tail -3 "$out/$name.log"
  } | tee -a "$table"
}

# film, prepare: one process a core, each with its own range of people or of shards; what is not done when the time is
# up is left out.
film() {
  local index first last pids=()
  for ((index = 0; index < workers; index++)); do
    first=$((index * people / workers)); last=$(((index + 1) * people / workers))
    [ "$first" -lt "$last" ] || continue
    JAX_PLATFORMS=cpu OMP_NUM_THREADS=1 timeout "${limits[0]}" "${mvp4d[@]}" studio --identities "$first:$last" \
      --cameras "random:$cameras" --frames 9 --size 128 --own-motion 0.5 --motion expressive \
      --out "$out/captures/$index" & pids+=($!)
  done
  wait "${pids[@]}"
  find "$out/captures" -name capture.json | wc -l | sed 's/$/ people filmed/'
  [ -n "$(find "$out/captures" -name capture.json -print -quit)" ]
}

prepare() {
  local index pids=() captures
  mapfile -t captures < <(find "$out/captures" -name capture.json | xargs -n 1 dirname | sort)
  for ((index = 0; index < workers; index++)); do
    OMP_NUM_THREADS=1 timeout "${limits[1]}" "${mvp4d[@]}" prepare "${captures[@]}" --config tiny_128 \
      --share "$index/$workers" --config.prepare.captures_per_shard=1 --config.prepare.photos=2 \
      --config.prepare.fit_error=0.02 --config.prepare.photo_error=0.5 --out "$out/shards" & pids+=($!)
  done
  wait "${pids[@]}"
  [ -f "$out/shards/manifest.json" ]
}

mixture() {  # STAGE...: flags of batches chosen for the card
  local stage
  for stage in "$@"; do
    printf -- "--config.stages.$stage.mixture.%s.batch=%s\n" monocular "$batch" static "$batch" multiview "$small"
  done
}

shared=("--config.data.shards=$out/shards" --config.mesh=1,1,1 "--config.data.workers=$loaders" --config.data.verify=false
        --config.validation.every=1000000 --config.checkpoint.every=300 --config.sampling.far_expressions=0.5)
start=()
if [ -n "$initial" ]; then
  start=("--config.initial=$("$python" -c "import sys; from mvp4d_jax.release import resolve_weights
print(resolve_weights(sys.argv[1]) / 'transformer')" "$initial")")
fi
read -r -a wide <<< "${WIDTH:-}"

train() {  # NAME LIMIT CONFIG FLAGS...: trains, stops in time, exports what there is
  local name="$1" limit="$2" config="$3" status
  shift 3
  timeout -s TERM -k 30 "$limit" "${mvp4d[@]}" train --config "$config" "${shared[@]}" "${wide[@]}" "$@" \
    --workdir "$out/runs/$name"
  status=$?
  [ "$status" -eq 0 ] || echo "training ended with $status; its newest checkpoint is exported"
  "${mvp4d[@]}" train --config "$config" "${shared[@]}" "${wide[@]}" "$@" --workdir "$out/runs/$name" --export "$out/$name"
}

teacher() {
  local half=$((teacher_steps / 2)) flags
  mapfile -t flags < <(mixture all settle)
  train teacher "${limits[2]}" tiny_128 "${flags[@]}" "${start[@]}" --config.stages.all.warmup=50 \
    "--config.stages.all.steps=$half" "--config.stages.settle.steps=$((teacher_steps - half))"
}

student() {
  local flags
  mapfile -t flags < <(mixture distill)
  train student "${limits[3]}" tiny_128_turbo "${flags[@]}" "--config.distill.teacher=$out/teacher" \
    "--config.stages.distill.steps=$student_steps"
}

pack() {
  mkdir -p "$out/parts"
  tar cz -C "$out" teacher student | split -b 15000000 - "$out/parts/releases.tar.gz."
  ls -l "$out/parts"
}

[ -n "$cpu" ] || part studio 'frames/s' timeout 30 "$python" benchmarks/studio.py --sizes 128 --identities 6
part film 'people|capture' film
part prepare 'scenes|captures' prepare
part teacher 'step |loss' teacher
part student 'step |loss' student
part score '^\||weights' timeout "${limits[4]}" "$python" benchmarks/closed_loop.py --weights "$out/student" \
  --identities "$scored" --sheet "$out/student.jpg" --json "$out/student.json"
part pack 'releases' pack

echo; echo "table: $table; releases: cat $out/parts/* | tar xz"
exit $failed
