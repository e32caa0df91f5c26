#!/usr/bin/env bash
# Train on TPU slices of a GKE cluster, as a JobSet (what xpk makes, too). Needs kubectl and the JobSet controller.
#
#   NAME=mvp4d IMAGE=REGISTRY/mvp4d-jax:TAG ACCELERATOR=tpu-v5p-slice TOPOLOGY=4x4x4 HOSTS=16 CHIPS_PER_HOST=4 \
#     BUCKET=bucket launch/gke_jobset.sh --config mvp4d_2b --config.data.shards=/bucket/shards
#
# DRY_RUN=1 prints the manifest. On a cluster that xpk made, the same run is
#   xpk workload create --cluster CLUSTER --workload NAME --tpu-type v5p-128 --docker-image IMAGE \
#     --command "mvp4d train --distributed --workdir /bucket/NAME ARGUMENTS"
# A preempted slice is started again as a whole (maxRestarts) and goes on from its newest checkpoint.
set -euo pipefail
: "${NAME:?}" "${IMAGE:?an image with this project and its tpu extra}" "${ACCELERATOR:?for example tpu-v5p-slice}"
: "${TOPOLOGY:?for example 4x4x4}" "${HOSTS:?hosts of a slice}" "${CHIPS_PER_HOST:?4 on v5p, v6e}" "${BUCKET:?mounted at /bucket through the GCS FUSE driver}"
[[ $# -gt 0 ]] || { sed -n '2,12p' "$0"; exit 2; }
arguments=$(printf '"%s", ' "--workdir" "/bucket/$NAME" "$@")

manifest=$(cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
spec:
  failurePolicy:
    maxRestarts: 100
  replicatedJobs:
  - name: slice
    replicas: 1
    template:
      spec:
        parallelism: $HOSTS
        completions: $HOSTS
        backoffLimit: 0
        template:
          metadata:
            annotations:
              gke-gcsfuse/volumes: "true"
              alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: 300   # a checkpoint is written on SIGTERM
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: $ACCELERATOR
              cloud.google.com/gke-tpu-topology: $TOPOLOGY
            containers:
            - name: train
              image: $IMAGE
              command: ["mvp4d", "train", "--distributed"]
              args: [${arguments%, }]
              env:
              - name: LIBTPU_INIT_ARGS
                value: "--xla_tpu_enable_async_collective_fusion=true --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true --xla_tpu_enable_async_collective_fusion_multiple_steps=true --xla_tpu_overlap_compute_collective_tc=true --xla_enable_async_all_gather=true --xla_tpu_scoped_vmem_limit_kib=65536"
              resources:
                limits:
                  google.com/tpu: $CHIPS_PER_HOST
              volumeMounts:
              - {name: bucket, mountPath: /bucket}
            volumes:
            - name: bucket
              csi:
                driver: gcsfuse.csi.storage.gke.io
                volumeAttributes: {bucketName: $BUCKET, mountOptions: implicit-dirs}
YAML
)
if [[ -n ${DRY_RUN:-} ]]; then echo "$manifest"; else kubectl apply -f - <<<"$manifest"; fi
