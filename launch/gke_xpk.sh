#!/usr/bin/env bash
# Train on TPUs of a GKE cluster with xpk (pip install xpk; the cluster: `xpk cluster create`).
# NOT RUN ON GKE BY US; the flags are those of xpk's parser as published (src/xpk/parser/workload.py).
#
#   CLUSTER=my-cluster TPU_TYPE=v5litepod-16 launch/gke_xpk.sh [--dry-run] NAME \
#       --config configs/NAME.py --workdir gs://BUCKET/RUN [--config.key=value ...]
#
# TPU_TYPE  v6e-16, v5litepod-16, ...; tpu7x-4x4x4: Ironwood by its topology, as xpk names it
# xpk copies the repository into an image over python:3.12. The JobSet starts all workers again when one of them ends
# with 75 (told to stop, and saved), by a signal or with its node, MAX_RESTARTS=50 times, and not after an error (1).
# ZONE, PROJECT  default: those of `gcloud config`
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
name=${1:?expected a NAME for the workload}
shift
[[ " $* " =~ " --workdir"[=\ ]("/"|"gs://") ]] ||
  die "expected --workdir gs://BUCKET/RUN, or /mnt/SHARED/RUN on a volume that all pods see: a pod's own disk is lost with it"

# exec: SIGTERM has to reach Python itself.
run xpk workload create --workload="$name" --cluster="${CLUSTER:?set it to the name of the GKE cluster}" \
  --tpu-type="${TPU_TYPE:?set it to an accelerator type like v5litepod-16}" --num-slices=1 \
  ${ZONE:+"--zone=$ZONE"} ${PROJECT:+"--project=$PROJECT"} \
  --base-docker-image=python:3.12 --script-dir="$repo" \
  --max-restarts="${MAX_RESTARTS:-50}" --restart-on-exit-codes=75 --termination-grace-period-seconds=120 \
  --command="pip install --quiet '.[tpu,gcs]' && exec $(show python -m ddrnet_jax.main "$@" --distributed auto)"
