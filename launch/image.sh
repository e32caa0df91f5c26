#!/usr/bin/env bash
# Builds a container image of the checkout's tracked files. Needs docker.
#
#   launch/image.sh tpu REGION-docker.pkg.dev/PROJECT/REPOSITORY/mvp4d-jax:TAG         Dockerfile.tpu; also: cpu, cuda
#   launch/image.sh tpu IMAGE --push                                                   and pushes it
#
# DRY_RUN=1 prints the commands.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[[ $# -ge 1 ]] || { usage "$0"; exit 2; }
[[ $1 =~ ^(tpu|cuda|cpu)$ ]] || refuse "no Dockerfile is called '$1': tpu, cuda, cpu"
[[ $# -ge 2 ]] || refuse "name the image: REGISTRY/mvp4d-jax:TAG"
[[ -n $2 ]] || refuse "the image's name is empty"
[[ $# -eq 2 || ($# -eq 3 && $3 == --push) ]] || refuse "'${*:3}' behind the image: --push or nothing"
run() { if [[ -n ${DRY_RUN:-} ]]; then quoted "$@"; echo; else "$@"; fi; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
archive "$folder/context.tar.gz"
run docker build --platform linux/amd64 --file "launch/Dockerfile.$1" --tag "$2" - <"$folder/context.tar.gz"
if [[ ${3:-} == --push ]]; then run docker push "$2"; fi
