#!/usr/bin/env bash
# Train on TPU slices of a GKE cluster, as a JobSet. Needs kubectl; the cluster needs the JobSet controller and the GCS FUSE driver.
#
#   NAME=mvp4d IMAGE=REGISTRY/mvp4d-jax:TAG ACCELERATOR=tpu-v5p-slice TOPOLOGY=4x4x4 HOSTS=16 CHIPS_PER_HOST=4 \
#     BUCKET=bucket launch/gke_jobset.sh --config mvp4d_2b \
#     --config.initial=/mnt/bucket/cogvideox-2b/transformer --config.autoencoder=/mnt/bucket/cogvideox-2b/vae \
#     --config.data.shards=/mnt/bucket/shards/512 --config.stages.images.shards=/mnt/bucket/shards/256
#
# IMAGE: launch/image.sh tpu IMAGE --push. HOSTS: of one slice. SLICES=2 and more train one model, data over slices.
# SERVICE_ACCOUNT: of Kubernetes, one that may write the bucket (Workload Identity). Workdir: gs://BUCKET/NAME.
# A slice that is preempted or fails is started again (up to 100 times) and goes on from its newest checkpoint.
# A mistake in the config (exit code 2) ends the job at once. DRY_RUN=1 prints the manifest.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
need NAME="a name for the job" IMAGE="what launch/image.sh tpu pushed" ACCELERATOR="for example tpu-v5p-slice" \
  TOPOLOGY="for example 4x4x4" HOSTS="hosts of a slice" CHIPS_PER_HOST="4 on v5p, v6e" BUCKET="of the workdir, mounted at /mnt/BUCKET"
SLICES=${SLICES:-1}
check_names
whole HOSTS CHIPS_PER_HOST SLICES
[[ $# -gt 0 ]] || { usage "$0"; exit 2; }
check_arguments train "$@"
kind=$(kind_of_accelerator "$ACCELERATOR")
case $kind in v5e | v6e) sides=2 ;; *) sides=3 ;; esac
[[ $TOPOLOGY =~ ^[1-9][0-9]*(x[1-9][0-9]*){$((sides - 1))}$ ]] ||
  refuse "TOPOLOGY is '$TOPOLOGY': $ACCELERATOR has $sides sides, for example $([[ $sides == 3 ]] && echo 4x4x4 || echo 4x4)"
chips=$((${TOPOLOGY//x/*}))
[[ $chips -eq $((HOSTS * CHIPS_PER_HOST)) ]] ||
  refuse "TOPOLOGY $TOPOLOGY has $chips chips, HOSTS x CHIPS_PER_HOST asks for $HOSTS x $CHIPS_PER_HOST = $((HOSTS * CHIPS_PER_HOST))"
flags=$(compiler_flags "$kind" LIBTPU_INIT_ARGS)
arguments=$(python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' --workdir "gs://$BUCKET/$NAME" "$@")

manifest=$(cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: 100
    rules:
    - action: FailJobSet   # exit code 2: a mistake, the same again would end the same way
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: slice
    replicas: $SLICES
    template:
      spec:
        parallelism: $HOSTS
        completions: $HOSTS
        completionMode: Indexed
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes: {containerName: train, operator: In, values: [2]}
        template:
          metadata:
            annotations:
              gke-gcsfuse/volumes: "true"
          spec:
            restartPolicy: Never
            serviceAccountName: ${SERVICE_ACCOUNT:-default}
            terminationGracePeriodSeconds: 300   # a checkpoint is written on SIGTERM
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: $ACCELERATOR
              cloud.google.com/gke-tpu-topology: $TOPOLOGY
            containers:
            - name: train
              image: $IMAGE
              command: ["mvp4d", "train", "--distributed"]
              args: $arguments
              env:
              - name: LIBTPU_INIT_ARGS
                value: "$flags"
              ports:
              - containerPort: 8471   # between the hosts of a slice
              - containerPort: 8080   # between slices
              resources:
                limits:
                  google.com/tpu: $CHIPS_PER_HOST
              volumeMounts:
              - {name: bucket, mountPath: /mnt/$BUCKET}
            volumes:
            - name: bucket
              csi:
                driver: gcsfuse.csi.storage.gke.io
                volumeAttributes:
                  bucketName: $BUCKET
                  mountOptions: "implicit-dirs,file-system:rename-dir-limit:200000"
                  fileCacheCapacity: "-1"
                  fileCacheForRangeRead: "true"
YAML
)
if [[ -n ${DRY_RUN:-} ]]; then echo "$manifest"; else kubectl apply -f - <<<"$manifest"; fi
