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

# refuse WORDS...: one line, exit code 2.
refuse() { echo "${0##*/}: $*" >&2; exit 2; }

# need VARIABLE=WHAT...: refuses where one of the environment's variables is not set; the line names all that are missing.
need() {
  local pair name missing=() said
  for pair; do
    name=${pair%%=*}
    [[ -n ${!name:-} ]] || missing+=("$name (${pair#*=})")
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  printf -v said ', %s' "${missing[@]}"
  refuse "set ${said:2}"
}

# whole VARIABLE...: refuses a value that is no whole number from 1 on.
whole() {
  local name
  for name; do [[ ${!name} =~ ^[1-9][0-9]{0,6}$ ]] || refuse "$name is '${!name}': a whole number from 1 on"; done
}

# check_names: NAME is a name in a cloud, BUCKET a bucket's.
# shellcheck disable=SC2153
check_names() {
  [[ $NAME =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    refuse "NAME is '$NAME': at most 40 lowercase letters, digits and hyphens, a letter first"
  [[ $BUCKET =~ ^[a-z0-9][-_.a-z0-9]+$ ]] || refuse "BUCKET is '$BUCKET': the name alone, without gs:// and folders"
}

# check_arguments VERB ARGUMENTS...: what `mvp4d VERB` would refuse on every host, refused before a host is asked for.
check_arguments() {
  local verb=$1 word config='' out='' last=''
  shift
  for word; do
    [[ $last != --config ]] || check_config "$word"
    last=$word
    case ${word%%=*} in
    --config) config=1; [[ $word != --config=* ]] || check_config "${word#*=}" ;;
    --out) out=1 ;;
    --w*) refuse "$word: this script sets --workdir itself (see its header); leave it out" ;;
    esac
  done
  [[ $last != --config ]] || refuse "--config names no config"
  [[ -n $config ]] || refuse "the arguments of \`mvp4d $verb\` name no --config"
  [[ $verb != prepare || -n $out ]] || refuse "the arguments of \`mvp4d prepare\` name no --out"
  [[ $verb != train || $1 == -* ]] || refuse "'$1': give the arguments of \`mvp4d train\` alone, --config first"
}

# check_config NAME: one that comes with the project; files are the hosts' to read.
check_config() {
  local names
  case $1 in *.py | *.json | *://*) return ;; esac
  names=$(cd "$repository/configs" && printf '%s\n' *.py | sed -e 's/\.py$//' -e '/^__init__$/d' -e '/^base$/d' | LC_ALL=C sort)
  grep -qxF -e "$1" <<<"$names" || refuse "--config $1: no such config; packaged configs are ${names//$'\n'/, }"
}

# check_paths ARGUMENTS...: weights, shards, captures and outputs lie where the hosts see them: in the bucket's mount, or among
# the tracked files that every host gets.
check_paths() {
  local word last='captures' path paths
  for word; do
    case $word in
    --config.initial=* | --config.autoencoder=* | --config.data.shards=* | --config.stages.*.shards=* | --out=*) last=${word%%=*} ;;
    -*) last=$word; continue ;;
    *) case $last in captures | --out) ;; *) continue ;; esac ;;
    esac
    IFS=, read -ra paths <<<"${word#"$last"=}"
    for path in "${paths[@]}"; do
      case $path in /* | gs:* | builtin:*) continue ;; */*) ;; *) [[ $last == captures || $last == --out ]] || continue ;; esac
      git -C "$repository" ls-files --error-unmatch "$path" >/dev/null 2>&1 ||
        refuse "$last: '$path' is on no host: the bucket is mounted there as /mnt/$BUCKET"
    done
  done
}

# kind_of_slice TYPE: v5e, v5p, v6e or tpu7x, from what Google calls a slice.
kind_of_slice() {
  case $1 in
  *:*) refuse "TYPE is '$1': that is preflight's spelling, Google's is for example v5p-128" ;;
  *-*[!0-9]* | *-0* | *-) refuse "TYPE is '$1': a kind and a number, for example v5p-128" ;;
  v5litepod-*) echo v5e ;;
  v5p-*) echo v5p ;;
  v6e-*) echo v6e ;;
  tpu7x-*) echo tpu7x ;;
  v5e-*) refuse "TYPE is '$1': Google's name is v5litepod-${1#v5e-}" ;;
  *) refuse "TYPE is '$1': no TPU kind is known by that; v5litepod-N, v5p-N, v6e-N or tpu7x-N" ;;
  esac
}

# kind_of_accelerator ACCELERATOR: the same, from GKE's label of a node.
kind_of_accelerator() {
  case $1 in
  tpu-v5-lite-podslice | tpu-v5-lite-device) echo v5e ;;
  tpu-v5p-slice) echo v5p ;;
  tpu-v6e-slice) echo v6e ;;
  tpu7x) echo tpu7x ;;
  *) refuse "ACCELERATOR is '$1': tpu-v5-lite-podslice, tpu-v5p-slice, tpu-v6e-slice or tpu7x" ;;
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
case ${1:-} in -h | --help) usage "$0"; exit 0 ;; esac
