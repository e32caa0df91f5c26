# shellcheck shell=bash
# What the launch scripts share; sourced by them. Needs python3 (any 3.x, standard library).
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# compiler_flags KIND VARIABLE: the flags that a launch on this kind of device sets, on one line. `mvp4d preflight` compiles with
# the same file. TPU flags belong in LIBTPU_INIT_ARGS: in XLA_FLAGS they stop every process that runs on CPU.
compiler_flags() {
  python3 - "$repository/mvp4d_jax/preflight/flags.json" "$1" "$2" <<'PY'
import json, sys
path, kind, variable = sys.argv[1:]
print(" ".join(json.load(open(path)).get(kind, {}).get(variable, [])))
PY
}

# tpu_kind NAME: v5e, v5p, v6e or tpu7x, from what Google calls a slice (v5litepod-64, v5p-128, tpu-v5-lite-podslice, tpu7x).
tpu_kind() {
  case $1 in
  *v5litepod* | *v5-lite* | *v5e*) echo v5e ;;
  *v5p*) echo v5p ;;
  *v6e*) echo v6e ;;
  *7x*) echo tpu7x ;;
  *) echo "no TPU kind is known in '$1': v5litepod-N, v5p-N, v6e-N or tpu7x-N" >&2; return 2 ;;
  esac
}

# archive FILE: the checkout's tracked files as they are now, with edits that are not committed, as a gzipped tar. Works on a
# copy of the index, so that another git at work in the checkout does not matter, and refreshes it: `git stash create` fails
# on files that were touched and not changed.
archive() {
  local tree index
  index=$(git -C "$repository" rev-parse --path-format=absolute --git-path index)
  cp "$index" "$1.index"
  GIT_INDEX_FILE=$1.index git -C "$repository" update-index -q --refresh || true
  tree=$(GIT_INDEX_FILE=$1.index git -C "$repository" -c user.name=launch -c user.email=launch@localhost stash create)
  rm -f "$1.index"
  git -C "$repository" archive --format=tar.gz --output "$1" "${tree:-HEAD}"
}

# quoted WORDS...: one line that a shell reads as these words again.
quoted() { printf '%q ' "$@"; }

# usage SCRIPT: its header.
usage() { sed -n '2,/^set /p' "$1" | sed '$d' | sed 's/^# \{0,1\}//'; }
