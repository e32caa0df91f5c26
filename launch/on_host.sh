#!/usr/bin/env bash
# Runs on every host of a TPU slice; launch/tpu_vm.sh calls it there.
#
#   on_host.sh install BUCKET    Python 3.11 and the project (uv), the bucket mounted at /mnt/BUCKET (gcsfuse)
#   on_host.sh start COMMAND     `mvp4d COMMAND` in the background, after ending one that runs
#   on_host.sh status            one line: absent, running, stopped, or `exit N`
#   on_host.sh stop              SIGTERM: the run saves and ends
#
# Everything lies in ~/mvp4d: code/ (the checkout), venv/, train.log.
set -euo pipefail
home=${MVP4D_HOME:-$HOME/mvp4d} mounts=${MVP4D_MOUNTS:-/mnt}
UV_VERSION=0.13.8

install_python() {
  PATH=$HOME/.local/bin:$PATH
  command -v uv >/dev/null || curl -LsSf "https://astral.sh/uv/$UV_VERSION/install.sh" | sh
  uv venv --quiet --allow-existing --python 3.11 "$home/venv"
  uv pip install --quiet --python "$home/venv/bin/python" -c "$home/code/constraints.txt" -e "$home/code[tpu,gcs]"
}

install_gcsfuse() {
  command -v gcsfuse >/dev/null && return
  local list=/etc/apt/sources.list.d/gcsfuse.list key=/usr/share/keyrings/cloud.google.asc
  curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" | sudo tee "$list" >/dev/null
  sudo apt-get -q update && sudo apt-get -qy install gcsfuse
}

# implicit-dirs: folders that another tool uploaded. rename-dir-limit: a finished folder is renamed to its name, which a bucket without
# folders of its own does file by file. File cache: shards are read at random, again and again.
mount_bucket() {
  local point=$mounts/$1
  mountpoint -q "$point" && return
  install_gcsfuse
  sudo mkdir -p "$point" && sudo chmod 777 "$point"
  gcsfuse --implicit-dirs --rename-dir-limit=200000 --cache-dir="$home/cache" --file-cache-max-size-mb=100000 \
    --file-cache-cache-file-for-range-read "$1" "$point"
}

alive() { [[ -f $home/pid ]] && grep -qs on_host "/proc/$(cat "$home/pid")/cmdline"; } # not another's number after a reboot

stop_and_wait() {
  alive || return 0
  kill -TERM "$(cat "$home/pid")"
  for _ in $(seq "${MVP4D_GRACE:-300}"); do alive || return 0; sleep 1; done
  kill -KILL -- "-$(cat "$home/pid")" 2>/dev/null || true # the whole session of `run`
}

case ${1:-} in
install)
  rm -f "$home/installed"
  install_python
  mount_bucket "$2"
  touch "$home/installed" ;;
start)
  shift
  stop_and_wait
  rm -f "$home/exit" "$home/stopped"
  setsid nohup "${BASH_SOURCE[0]}" run "$@" >>"$home/train.log" 2>&1 </dev/null &
  echo $! >"$home/pid"
  echo started ;;
run) # in the background, from `start`
  shift
  "$home/venv/bin/mvp4d" "$@" &
  child=$! code=0
  trap 'kill -TERM "$child" 2>/dev/null' TERM
  wait "$child" || code=$?
  if kill -0 "$child" 2>/dev/null; then code=0; wait "$child" || code=$?; fi # the signal ended the first wait
  echo "$code" >"$home/exit" ;;
status)
  if alive; then echo running
  elif [[ -f $home/stopped ]]; then echo stopped
  elif [[ -f $home/exit ]]; then echo "exit $(cat "$home/exit")"
  elif [[ -f $home/pid ]]; then echo "exit 1" # killed with the host's power, or out of memory
  elif [[ -f $home/installed ]]; then echo idle
  else echo absent; fi ;;
stop)
  [[ -d $home ]] || { echo absent; exit 0; }
  touch "$home/stopped"
  alive && kill -TERM "$(cat "$home/pid")"
  echo stopping ;;
*) sed -n '2,9p' "$0"; exit 2 ;;
esac
