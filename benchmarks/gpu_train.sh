#!/usr/bin/env bash
# Weights from nothing but the studio in one go on one GPU: film, prepare, teacher, student, export.
#
#   benchmarks/gpu_train.sh [--cpu] [OUT]
#
# Takes SECONDS_IN_ALL (590), whatever the machine: people that are not filmed when their time is up are left out, and
# the steps of teacher and student are chosen by how long one takes, which is measured while the people are filmed.
# OUT (default out/gpu_train): a log for each part, table.txt, which is also printed, and parts/: both releases in pieces
# of 15 MB (`cat parts/* | tar xz`). --cpu runs the same pipeline with two people and a few steps, to see that it works
# before a GPU is rented. Needs `pip install -e '.[cuda]'`.
#
# PEOPLE, BATCH (of multi-view samples), LAYERS (8), INITIAL (the transformer that the teacher starts from, of as many
# layers or fewer; default that of tiny_128; "random": random weights) and FLAGS (of all trainings) change what is done.
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
export XLA_PYTHON_CLIENT_PREALLOCATE=false  # several processes use the GPU
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$(realpath "$out")/cache}"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.5

if [ -n "$cpu" ]; then
  export JAX_PLATFORMS=cpu
  people=${PEOPLE:-2} workers=2 cameras=4 batch=${BATCH:-1} colours=1 film_limit=3600 prepare_limit=3600
  in_all=${SECONDS_IN_ALL:-0} dtype=float32 tried=(4 4)
else
  people=${PEOPLE:-112} workers=$(nproc) cameras=8 batch=${BATCH:-32} colours=2 film_limit=110 prepare_limit=110
  in_all=${SECONDS_IN_ALL:-590} dtype=bfloat16 tried=(60 40)
fi
[ "$workers" -le "$people" ] || workers=$people  # every second one films the other kind: none without people
mapfile -t cores < <("$python" -c 'import os; print(*sorted(os.sched_getaffinity(0)), sep="\n")')  # a container's own
initial="${INITIAL:-mvp4d_jax/weights/tiny_128/transformer}"
read -r -a more <<< "${FLAGS:-}"

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
  echo; echo "== $name, from second $SECONDS on"
  "$@" > "$out/$name.log" 2>&1
  status=$?
  [ "$status" -eq 0 ] || failed=1
  {
    echo
    echo "== $name: $([ "$status" -eq 0 ] && echo passed || echo "FAILED ($status)"), $((SECONDS - began)) s"
    tr '\r' '\n' < "$out/$name.log" | grep -E "$pattern" | tail -12
    [ "$status" -eq 0 ] || tail -5 "$out/$name.log"
  } | tee -a "$table"
}

# A latent frame for every frame: of two in one, the first is a ghost of both where a head turns quickly.
unpaired=(--config.autoencoder_size=tiny --config.autoencoder=builtin:tiny)

# Half of the people move as the rig does and are prepared as they are; half move in their own way, and their photos
# have the errors of photos and of their fits.
some_people() {  # KIND FIRST:LAST CAMERAS OUT: films them and prepares shards
  local motion=(--motion mixed) errors=(--config.prepare.fit_error=0 --config.prepare.photo_error=0) captures
  if [ "$1" = wild ]; then
    motion=(--motion expressive --own-motion 0.5)
    errors=(--config.prepare.fit_error=0.02 --config.prepare.photo_error=0.5)
  fi
  JAX_PLATFORMS=cpu timeout "$film_limit" "${mvp4d[@]}" studio --identities "$2" --cameras "random:$3" --frames 9 \
    --size 128 --out "$4/captures" "${motion[@]}"
  mapfile -t captures < <(find "$4/captures" -name capture.json -printf '%h\n' | sort)
  timeout "$prepare_limit" "${mvp4d[@]}" prepare "${captures[@]}" --config tiny_128 "${unpaired[@]}" \
    --config.prepare.photos=2 "--config.prepare.colours=$colours" "${errors[@]}" --out "$4/shards"
}
worker() {  # INDEX, on one core, so that it makes no threads for the others
  local kind=plain first=$(($1 * people / workers)) last=$((($1 + 1) * people / workers))
  [ $(($1 % 2)) = 0 ] || kind=wild
  ! command -v taskset > /dev/null || taskset -cp "${cores[$1]:-$1}" "$BASHPID" > /dev/null
  OMP_NUM_THREADS=1 some_people "$kind" "$first:$last" "$cameras" "$out/people/$1" > "$out/people/$1.log" 2>&1
}

# What every training here has in common; batches are chosen for the card.
shared=(--config.mesh=1,1,1 --config.data.resident=true --config.data.verify=false --config.data.threads=2
        --config.validation.every=1000000 --config.checkpoint.every=500 --config.sampling.far_expressions=0.5
        "--config.transformer.num_layers=${LAYERS:-8}" "${unpaired[@]}")
mixture() {  # STAGE...
  local stage
  for stage in "$@"; do
    printf -- "--config.stages.$stage.mixture.%s\n" monocular.weight=0 static.weight=0.4 multiview.weight=0.6 \
      "static.batch=$((3 * batch))" "multiview.batch=$batch"
  done
}
train() {  # NAME CONFIG LIMIT FLAGS...
  timeout -s TERM -k 30 "$3" "${mvp4d[@]}" train --config "$2" "${shared[@]}" "--config.transformer.dtype=$dtype" \
    "${@:4}" "${more[@]}" --workdir "$out/runs/$1"
}
export_it() {  # NAME CONFIG FLAGS...: computed in float32 where nothing else is said
  JAX_PLATFORMS=cpu "${mvp4d[@]}" train --config "$2" "${shared[@]}" "${@:3}" "${more[@]}" --workdir "$out/runs/$1" \
    --export "$out/$1"
}
teacher_flags() {  # STEPS SHARDS
  mixture all settle
  printf -- '--config.%s\n' "initial=$initial" stages.all.warmup=50 "stages.all.steps=$(($1 * 2 / 5))" \
    "stages.settle.steps=$(($1 - $1 * 2 / 5))" "data.shards=$2"
}
student_flags() {  # STEPS SHARDS TEACHER
  mixture distill
  printf -- '--config.%s\n' "distill.teacher=$3" "stages.distill.steps=$1" stages.distill.warmup=20 distill.substeps=2 \
    distill.rollout=0.75 distill.truth=0.5 optimiser.ema=0.98 "data.shards=$2"
}
seconds_a_step() {  # NAME: of the last line of metrics
  "$python" -c 'import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
print(next(line["seconds_per_step"] for line in reversed(lines) if "seconds_per_step" in line))' \
    "$out/runs/$1/metrics.jsonl"
}

# How long a step takes, and programs that later parts find compiled: with one person, while the others are filmed, and
# no longer than they may be.
calibrate() {
  local flags deadline=$((SECONDS + film_limit + prepare_limit)) folder="\"$out/calibration/shards\","
  some_people plain 1000:1001 4 "$out/calibration" || return
  mapfile -t flags < <(teacher_flags "${tried[0]}" "$folder")
  train calibrate_teacher tiny_128 "$(seconds_to "$deadline")" "${flags[@]}" || return
  export_it calibrate_teacher tiny_128 "${flags[@]}" || return
  mapfile -t flags < <(student_flags "${tried[1]}" "$folder" "$out/calibrate_teacher")
  train calibrate_student tiny_128_turbo "$(seconds_to "$deadline")" "${flags[@]}"
}
make_people() {
  local index
  mkdir -p "$out/people"
  { calibrate || echo "calibration ended with $?: what was not timed takes a fixed number of steps"; } \
    > "$out/calibrate.log" 2>&1 &
  for ((index = 0; index < workers; index++)); do worker "$index" & done
  wait
  find "$out/people" -name capture.json | wc -l | sed 's/$/ people filmed/'
  [ -n "$(shards)" ]
}
shards() {  # quoted: names may have commas
  find "$out/people" -path '*/shards/manifest.json' -printf '"%h",\n' | sort | tr -d '\n'
}

left() { echo $((in_all - SECONDS)); }
at_least_10() { echo $(($1 > 10 ? $1 : 10)); }  # a machine too slow for the time it has still leaves weights
seconds_to() { echo $(($1 > SECONDS ? $1 - SECONDS : 1)); }  # for `timeout`, to which 0 is no limit
steps_in() {  # SECONDS NAME OTHERWISE: as many as fit, or OTHERWISE where no step was timed
  local steps
  steps=$("$python" -c 'import sys; print(max(4, int(float(sys.argv[1]) / float(sys.argv[2]))))' \
    "$1" "$(seconds_a_step "$2")" 2> /dev/null)
  [[ "$steps" =~ ^[0-9]+$ ]] && echo "$steps" || echo "$3"
}
# Of what is left when the teacher starts: its own start, compilation and export, and the student's.
overhead_teacher=45 overhead_student=65 packing=15

teacher() {
  local flags seconds steps=4 limit=3600
  if [ "$in_all" -gt 0 ]; then
    seconds=$(at_least_10 $((($(left) - overhead_teacher - overhead_student - packing) * 2 / 3)))
    steps=$(steps_in "$seconds" calibrate_teacher 2000) limit=$((seconds + overhead_teacher))
  fi
  mapfile -t flags < <(teacher_flags "$steps" "$(shards)")
  echo "teacher: $steps steps"
  train teacher tiny_128 "$limit" "${flags[@]}" || echo "training ended with $?; its newest checkpoint is exported"
  export_it teacher tiny_128 "${flags[@]}"
}

student() {
  local flags seconds steps=4 limit=3600
  if [ "$in_all" -gt 0 ]; then
    seconds=$(at_least_10 $(($(left) - overhead_student - packing)))
    steps=$(steps_in "$seconds" calibrate_student 500) limit=$((seconds + overhead_student))
  fi
  mapfile -t flags < <(student_flags "$steps" "$(shards)" "$out/teacher")
  echo "student: $steps steps"
  train student tiny_128_turbo "$limit" "${flags[@]}" || echo "training ended with $?; its newest checkpoint is exported"
  export_it student tiny_128_turbo "${flags[@]}"
}

pack() {
  mkdir -p "$out/parts"
  tar cz -C "$out" teacher student | split -b 15000000 - "$out/parts/releases.tar.gz."
  ls -l "$out/parts"
}

part people 'people' make_people
part calibrate 'step |compiled|loss|ended' cat "$out/calibrate.log"
part prepare 'scenes' cat "$out"/people/*.log
part teacher 'teacher:|step |compiled|loss|reading' teacher
part student 'student:|step |compiled|loss|reading' student
part pack 'releases' pack

echo; echo "table: $table; releases: cat $out/parts/* | tar xz"
exit $failed
