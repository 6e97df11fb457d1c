#!/usr/bin/env bash
# On a worker of a TPU, called by tpu_run.sh: start COMMAND apart from the ssh session, show its log, pass its code on.
#
#   tpu_worker.sh COMMAND...
#
# gcloud repeats a command whose connection broke, and a person repeats tpu_run.sh: both find the run that is going on
# and watch it. ~/ddrnet_run keeps its log and its exit code, which tpu_run.sh asks for: gcloud fails with 1 as well,
# and of several workers' codes it passes on the first one, which says little.
set -euo pipefail
state=${RUN_STATE:-$HOME/ddrnet_run}
mkdir -p "$state"
wanted=$(printf '%q ' "$@")

if [[ -s $state/pid ]] && kill -0 "$(<"$state/pid")" 2>/dev/null; then
  if [[ $wanted != "$(<"$state/command")" ]]; then
    echo "error: another run is going on here: $(<"$state/command"); end it with launch/tpu_run.sh --stop" >&2
    exit 65
  fi
else
  rm -f "$state/code" "$state/stopped"
  : >"$state/log"
  echo "$wanted" >"$state/command"
  # The machine's end sends SIGTERM to everything: the shell in between has to outlive the command to note its code.
  # shellcheck disable=SC2016
  setsid bash -c 'trap : TERM; "$@" & while kill -0 $! 2>/dev/null; do sleep 0.2; done; wait $!; echo $? >"$0"' \
    "$state/code" "$@" >"$state/log" 2>&1 </dev/null &
  echo $! >"$state/pid"
fi
tail -n +1 -s 0.2 --pid="$(<"$state/pid")" -f "$state/log"
[[ -s $state/code ]] || echo 137 >"$state/code" # it was killed together with its shell
exit "$(<"$state/code")"
