#!/usr/bin/env bash
# Train on a TPU, on all of its workers, until the run is done: a TPU that was preempted is deleted, asked for again and
# set up, and the run goes on from its last checkpoint.
# NOT RUN ON REAL TPUS BY US: tested with a stand-in for gcloud that preempts, breaks connections and fails.
#
#   ZONE=us-central1-a TPU_TYPE=v5litepod-16 SPOT=1 launch/tpu_run.sh [--dry-run] NAME \
#       --config configs/NAME.py --workdir gs://BUCKET/RUN [--config.key=value ...]
#   launch/tpu_run.sh --stop NAME     the run saves and ends; the TPU stays (and costs) until it is deleted
#
# The command itself reads and writes gs://; only data is mounted: the bucket of --config.data.KEY=gs://BUCKET/... on
# every worker (gcsfuse), passed on as /mnt/gs/BUCKET/... Or --workdir /mnt/SHARED/RUN, on another file system that all
# workers see and that outlives the TPU (Filestore): see MOUNT in tpu_setup.sh. The config's path is relative to the
# repository, which is copied. Best run from a small VM in tmux: this loop is what brings the TPU back. Ctrl-C leaves the
# run going; the same command watches it again.
# MAX_CRASHES=3  relaunches in a row while the TPU is ACTIVE. The other variables: see tpu_create.sh, tpu_setup.sh
# Exit code: the run's; 65: another run is going on there; 130: after --stop; 255: no connection
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
on_all() { tpu tpu-vm ssh "$name" --worker=all --command="$1"; }
if [[ ${1:-} == --stop ]]; then
  name=${2:?expected the NAME of a TPU}
  # shellcheck disable=SC2016
  on_all 'touch ddrnet_run/stopped && kill -TERM -- "-$(cat ddrnet_run/pid)"'
  exit
fi

name=${1:?expected the NAME of a TPU}
shift
# of data gs://mine/records -> /mnt/gs/mine/records, for which tpu_setup.sh mounts BUCKETS
arguments=() previous=""
for argument in "$@"; do
  if [[ $previous=$argument =~ --config\.data\.[^=]*=gs:// &&
    $argument =~ ^(--[^=]*=)?gs://([-a-z0-9_.]+)(/.*)?$ ]]; then
    [[ " ${BUCKETS:-} " == *" ${BASH_REMATCH[2]} "* ]] || BUCKETS="${BUCKETS:+$BUCKETS }${BASH_REMATCH[2]}"
    argument="${BASH_REMATCH[1]}/mnt/gs/${BASH_REMATCH[2]}${BASH_REMATCH[3]}"
  fi
  arguments+=("$argument")
  previous=$argument
done
export BUCKETS=${BUCKETS:-}
[[ " ${arguments[*]} " =~ " --workdir"[=\ ]("/"|"gs://") ]] ||
  die "expected --workdir gs://BUCKET/RUN, or /mnt/SHARED/RUN that all workers see: a TPU's own disk is lost with it"
delete=(gcloud compute tpus queued-resources delete "$name" --force ${ZONE:+"--zone=$ZONE"})
command="cd ddrnet_jax && bash launch/tpu_worker.sh $(show .venv/bin/python -m ddrnet_jax.main "${arguments[@]}" --distributed auto)"
if ((dry_run)); then
  "$here/tpu_create.sh" --dry-run "$name"
  "$here/tpu_setup.sh" --dry-run "$name"
  on_all "$command"
  exit 0
fi
trap 'note "the run goes on without you. Watch: the same command. End: $0 --stop $name"; exit 130' INT

# shellcheck disable=SC2016
ended='[ ! -e ddrnet_run/stopped ] || echo 130; cat ddrnet_run/code'
while :; do
  "$here/tpu_create.sh" "$name" # returns at once where it is ACTIVE
  began=$SECONDS code=0
  { "$here/tpu_setup.sh" "$name" && on_all "$command"; } || code=$?
  if ((code && code != 65)); then # 65: another run is going on there
    state=$(tpu_state "$name")
    case $state in
      # The largest of the workers' codes: one that was killed explains the errors of those that lost it.
      ACTIVE) code=$(on_all "$ended" 2>/dev/null | grep -x '[0-9]*' | sort -n | tail -n 1) || code=255 ;; # not reached
      NONE | DELETING) die "$name: deleted by someone; not asked for again" ;;
      *) note "the TPU is gone ($state)" && code=75 ;;
    esac
    ! again "$code" $((SECONDS - began)) || continue
  fi
  note "exit code $code. The TPU costs until: $(show "${delete[@]}")"
  exit "$code"
done
