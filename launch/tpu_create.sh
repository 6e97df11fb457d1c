#!/usr/bin/env bash
# Get a TPU as a queued resource, and wait until it is there. One that is there is left as it is; one that was
# preempted (SUSPENDED) or has FAILED is deleted and asked for again.
# NOT RUN ON REAL TPUS BY US: tested with a stand-in for gcloud; the flags are those of gcloud 528.
#
#   ZONE=us-central1-a TPU_TYPE=v5litepod-16 launch/tpu_create.sh [--dry-run] NAME
#
# TPU_TYPE  accelerator type: v6e-16, v5litepod-16 (v5e), v5p-16, v4-16, ...; not tpu7x, which GKE alone has
# SPOT=1    cheaper, and may be preempted at any time (tpu_run.sh goes on from the last checkpoint)
# FLEX=24h  flex-start: waits for its turn, runs for that long at most (7 days), and is not preempted (gcloud's alpha
#           release; v6e and v5e in some zones, preemptible quota). Once it is over tpu_run.sh asks for another
# RUNTIME   TPU software version; default: the one Google names for the type
# ZONE, PROJECT  default: those of `gcloud config`
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
name=${1:-}
[[ $name =~ ^[a-z][-a-z0-9]*$ && $# == 1 ]] || die "expected one NAME of a-z, 0-9 and -; got '$*'"
: "${TPU_TYPE:?set it to an accelerator type like v5litepod-16}"
[[ ${SPOT:-0} == 0 || -z ${FLEX:-} ]] || die "SPOT=$SPOT and FLEX=$FLEX: expected one of the two"
case $TPU_TYPE in
  tpu7x*) die "TPU_TYPE=$TPU_TYPE: Google has it in GKE alone: launch/gke_xpk.sh" ;;
  v6e-*) runtime=v2-alpha-tpuv6e ;;
  v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
  v5p-*) runtime=v2-alpha-tpuv5 ;;
  *) runtime=tpu-ubuntu2204-base ;;
esac

create() {
  local how=() of=""
  [[ ${SPOT:-0} == 0 ]] || how=(--spot)
  [[ -z ${FLEX:-} ]] || { how=(--provisioning-model=flex-start --max-run-duration="$FLEX") && of=alpha; }
  tpu queued-resources create "$name" --node-id="$name" --accelerator-type="$TPU_TYPE" \
    --runtime-version="${RUNTIME:-$runtime}" ${how[@]+"${how[@]}"}
}
if ((dry_run)); then
  tpu queued-resources describe "$name" --format='value(state.state)'
  tpu queued-resources delete "$name" --force # only where it is SUSPENDED or FAILED
  create
  exit 0
fi

asked=0 shown=""
while :; do
  state=$(tpu_state "$name")
  [[ $state == "$shown" ]] || note "$name: $state"
  shown=$state
  case $state in
    ACTIVE) exit 0 ;;
    NONE | FAILED | SUSPENDED)
      # A new request that fails would fail again; one that was granted and preempted meanwhile would not.
      [[ $asked == 0 || $state == SUSPENDED ]] ||
        die "$name: $state; why: gcloud compute tpus queued-resources describe $name"
      [[ $state == NONE ]] || tpu queued-resources delete "$name" --force
      create
      asked=1
      ;;
  esac
  sleep "$POLL_S"
done
