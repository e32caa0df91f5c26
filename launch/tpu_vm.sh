#!/usr/bin/env bash
# Train on a Cloud TPU slice, through queued resources. Needs gcloud, logged in, on a machine that stays up: this one watches
# the run and answers preemptions.
#
#   export NAME=mvp4d ZONE=us-east5-a TYPE=v5p-128 BUCKET=bucket
#   launch/tpu_vm.sh train --config mvp4d_2b \
#     --config.initial=/mnt/bucket/cogvideox-2b/transformer --config.autoencoder=/mnt/bucket/cogvideox-2b/vae \
#     --config.data.shards=/mnt/bucket/shards/512 --config.stages.images.shards=/mnt/bucket/shards/256
#
#   train   everything: asks for the slice where there is none, installs, starts, and watches until the run is done;
#           asks again after a preemption (SPOT=1) and starts again after a crash; a call of gcloud that fails is made
#           again. Workdir: gs://BUCKET/NAME
#   prepare the same for `mvp4d prepare`: all hosts share the captures
#   watch   what `train` does after the start, for a run that goes on while this machine was away; same arguments.
#           `watch prepare ARGUMENTS` for a preparation
#   up, install, start ARGUMENTS, start prepare ARGUMENTS, status, log, stop, down    single steps
#
# DRY_RUN=1 prints the commands. SPOT=1 asks for spot capacity; RUNTIME names another machine image; RESTARTS (100) bounds
# new starts; POLL (60) is the pause between looks in seconds.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
need NAME="a name for the slice" ZONE="for example us-east5-a" TYPE="for example v5p-128 or v5litepod-64" \
  BUCKET="of the workdir, mounted on all hosts at /mnt/BUCKET"
SPOT=${SPOT:-} DRY_RUN=${DRY_RUN:-} RESTARTS=${RESTARTS:-100} POLL=${POLL:-60}
check_names
[[ $RESTARTS =~ ^[0-9]{1,6}$ ]] || refuse "RESTARTS is '$RESTARTS': a whole number"
[[ $POLL =~ ^[0-9]{1,6}(\.[0-9]+)?$ ]] || refuse "POLL is '$POLL': seconds"
kind=$(kind_of_slice "$TYPE")
case $kind in # the machine image of each kind
v5e) RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite} ;;
v5p) RUNTIME=${RUNTIME:-v2-alpha-tpuv5} ;;
v6e) RUNTIME=${RUNTIME:-v2-alpha-tpuv6e} ;;
*) refuse "$TYPE has no queued resources: launch/gke_jobset.sh" ;;
esac

note() { echo "$(date +%H:%M:%S) $*" >&2; }
run() { if [[ -n $DRY_RUN ]]; then quoted "$@"; echo; else "$@"; fi; }
queue() { run gcloud compute tpus queued-resources "$1" "$NAME" --zone "$ZONE" "${@:2}"; }
on_hosts() { run gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker="${2:-all}" --batch-size=all --command "$1"; }
copy() { run gcloud compute tpus tpu-vm scp "$1" "$NAME:$2" --zone "$ZONE" --worker=all; }

ask() { queue create --node-id "$NAME" --accelerator-type "$TYPE" --runtime-version "$RUNTIME" ${SPOT:+--spot}; }
give_back() { queue delete --force --quiet; }

# The request's state in capitals; NONE where there is no request; UNKNOWN where nobody answers.
state() {
  local answer
  if [[ -n $DRY_RUN ]]; then echo ACTIVE
  elif answer=$(queue describe --format='value(state.state)' 2>&1); then tail -n 1 <<<"$answer"
  elif grep -q NOT_FOUND <<<"$answer"; then echo NONE
  else echo UNKNOWN; fi
}

# What the hosts say, in one word: done, mistake, stopped, crashed, mixed, running, idle, absent; silent where none answers.
hosts() {
  local answers
  if [[ -n $DRY_RUN ]]; then echo absent; return; fi
  answers=$(on_hosts "bash mvp4d/code/launch/on_host.sh status 2>/dev/null || echo absent" 2>/dev/null |
    grep -E '^(running|stopped|idle|absent|exit [0-9]+)$') || { echo silent; return; }
  if grep -qx 'exit 2' <<<"$answers"; then echo mistake
  elif grep -qx absent <<<"$answers"; then echo absent
  elif grep -qx running <<<"$answers"; then if grep -q '^exit' <<<"$answers"; then echo mixed; else echo running; fi
  elif grep -qx stopped <<<"$answers"; then echo stopped
  elif grep -qx idle <<<"$answers"; then echo idle
  elif grep -qvx 'exit 0' <<<"$answers"; then echo crashed
  else echo "done"; fi
}

install() { # called before `||`, where a failing line does not end a function: hence the chain
  local folder code=0
  folder=$(mktemp -d) &&
    archive "$folder/code.tar.gz" &&
    on_hosts "mkdir -p mvp4d" &&
    copy "$folder/code.tar.gz" mvp4d/code.tar.gz &&
    on_hosts "cd mvp4d && rm -rf code && mkdir code && tar -xzf code.tar.gz -C code && bash code/launch/on_host.sh install $BUCKET" ||
    code=1
  rm -rf "$folder"
  return $code
}

start() {
  local flags command=("$job" --distributed)
  [[ $job != train ]] || command+=(--workdir "gs://$BUCKET/$NAME")
  flags=$(compiler_flags "$kind" LIBTPU_INIT_ARGS) &&
    on_hosts "LIBTPU_INIT_ARGS=$(quoted "$flags")bash mvp4d/code/launch/on_host.sh start $(quoted "${command[@]}" "$@")"
}

log_tail() { on_hosts "tail -n 20 mvp4d/train.log" 0 >&2 || true; }

again() { # counts new starts
  RESTARTS=$((RESTARTS - 1))
  if ((RESTARTS < 0)); then note "no restarts left"; exit 1; fi
  note "$1 ($RESTARTS restarts left)"
}

watch() {
  local is before='' since=$SECONDS
  [[ -z $DRY_RUN ]] || ask # a dry run goes on as if the slice were there
  while true; do
    is=$(state)
    [[ $is == ACTIVE ]] && is=$(hosts)
    [[ $is == "$before" ]] || note "$NAME: $is"
    before=$is
    [[ $is == mixed ]] || since=$SECONDS
    case $is in
    NONE) ask || note "the request failed: tries again" ;;
    SUSPENDED | FAILED) # preempted: its machines are gone
      if give_back; then
        again "asks for the slice again"
        ask || note "the request failed: tries again"
      else note "the slice was not given back: tries again"; fi ;;
    absent) if ! { install && start "$@"; }; then again "the installation or the start failed"; fi ;;
    idle) start "$@" || again "the start failed" ;;
    crashed) again "starts again on all hosts"; log_tail; start "$@" || note "the start failed" ;;
    mixed) # the others end within two minutes of the first; a host that hangs is not waited for
      if ((SECONDS - since > 180)); then again "ends what hangs and starts again"; start "$@" || note "the start failed"; fi ;;
    mistake) log_tail; note "a mistake in the arguments, the config or the data: the last lines above say which; the slice is kept: '$0 down' gives it back"; return 2 ;;
    stopped) note "stopped with its state saved"; return 0 ;;
    done) note "done"; return 0 ;;
    esac
    if [[ -n $DRY_RUN ]]; then return; fi
    sleep "$POLL"
  done
}

verb=${1:-} job=train
shift || true
case $verb:${1:-} in
prepare:*) job=prepare ;;
start:prepare | watch:prepare) job=prepare; shift ;;
esac
case $verb in start | watch | train | prepare)
  [[ $# -gt 0 ]] || { usage "$0"; exit 2; }
  check_arguments "$job" "$@"
  check_paths "$@" ;;
esac
case $verb in
up)
  ask
  until [[ $(state) == ACTIVE ]]; do note "waiting for $TYPE in $ZONE"; sleep "$POLL"; done ;;
install) install ;;
start) start "$@" ;;
train | prepare)
  case $(hosts) in stopped | done | mistake) start "$@" ;; esac # hosts that had a run before
  watch "$@" ;;
watch) watch "$@" ;;
status)
  is=$(state)
  if [[ $is == ACTIVE ]]; then hosts; else echo "$is"; fi ;;
log) on_hosts "tail -n 40 -f mvp4d/train.log" 0 ;;
stop) on_hosts "bash mvp4d/code/launch/on_host.sh stop" ;;
down) give_back ;;
'') usage "$0"; exit 2 ;;
*) refuse "no such command '$verb'; '$0 --help' lists them" ;;
esac
