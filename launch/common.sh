# shellcheck shell=bash
# Sourced by the launchers beside it: --dry-run and --help, and when a run that ended is started again.

: "${PYTHON:=python}"     # of the environment the project is installed in
: "${BACKOFF_S:=10}"      # seconds before a relaunch, doubled with every crash in a row
: "${MAX_CRASHES:=3}"     # relaunches in a row after a crash; a run of HEALTHY_S seconds forgets them
: "${HEALTHY_S:=600}"
: "${POLL_S:=30}"         # seconds between two looks at a TPU that is not there yet
MAX_SHORT_RUNS=20         # in a row that end with 75 within HEALTHY_S: something other than preemption
dry_run=0
crashes=0
short_runs=0

note() { echo "${0##*/}: $*" >&2; }
die() {
  echo "error: $*" >&2
  exit 1
}

# A file sourced without arguments sees, and shifts, those of the script.
case ${1-} in
  -h | --help)
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
    exit 0
    ;;
  --dry-run)
    dry_run=1
    shift
    ;;
esac

# The command, quoted so that it can be pasted.
show() { printf '%q ' "$@" | sed 's/ $//' && echo; }
run() { if ((dry_run)); then show "$@"; else "$@"; fi; }

# again CODE SECONDS: may a run that ended with CODE after SECONDS be started again? Waits before it says yes.
again() {
  local code=$1 delay=$BACKOFF_S
  (($2 < HEALTHY_S)) || crashes=0
  case $code in
    75)
      (($2 < HEALTHY_S)) || short_runs=0
      if ((short_runs++ >= MAX_SHORT_RUNS)); then
        note "exit code 75, $short_runs times within $HEALTHY_S s: not started again"
        return 1
      fi
      note "told to stop, and saved (75); starting again in $delay s"
      ;;
    129 | 13[1-9] | 1[4-9][0-9] | 2[0-5][0-9]) # killed by a signal (128 + its number), or ssh's own failure (255)
      if ((crashes++ >= MAX_CRASHES)); then
        note "exit code $code, $crashes times in a row: not started again (MAX_CRASHES=$MAX_CRASHES)"
        return 1
      fi
      delay=$((BACKOFF_S * 2 ** (crashes - 1)))
      note "exit code $code; relaunch $crashes of $MAX_CRASHES in $delay s"
      ;;
    *) return 1 ;; # done (0), an error that would come again (1), Ctrl-C (130)
  esac
  sleep "$delay"
}

# tpu COMMAND...: gcloud compute tpus, in $ZONE and $PROJECT (default: those of gcloud's configuration);
# of=alpha: of gcloud's alpha release.
tpu() { run gcloud ${of:+"$of"} compute tpus "$@" ${ZONE:+"--zone=$ZONE"} ${PROJECT:+"--project=$PROJECT"} --quiet; }

# tpu_state NAME: the queued resource's state (ACTIVE, SUSPENDED, ...), NONE if there is none.
tpu_state() {
  local text try
  for try in 1 2 3 4 5; do
    text=$(tpu queued-resources describe "$1" --format='value(state.state)' 2>&1) && { echo "${text##*$'\n'}"; return; }
    [[ $text != *NOT_FOUND* ]] || { echo NONE; return; }
    ((try == 5)) || sleep "$POLL_S"
  done
  die "$text"
}
