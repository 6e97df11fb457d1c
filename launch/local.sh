#!/usr/bin/env bash
# Train on this machine: started again after a preemption or a crash, until it is done.
#
#   launch/local.sh [--dry-run] --config FILE --workdir DIR [--config.key=value ...]
#
# PROCESSES=2  processes that train together on this machine (default 1, which uses all its devices);
#              when one fails, the others are ended: with SIGTERM, after GRACE_S=60 seconds with SIGKILL
# PYTHON, BACKOFF_S, MAX_CRASHES, HEALTHY_S: see common.sh
#
# Exit code 75 (told to stop, and saved) or a signal: the same command again; any other code is passed on.
# SIGTERM or Ctrl-C to this script: the run saves, and nothing is started again. A second Ctrl-C kills it.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
PROCESSES=${PROCESSES:-1} GRACE_S=${GRACE_S:-60}
[[ $PROCESSES =~ ^[1-9][0-9]*$ ]] || die "PROCESSES=$PROCESSES: expected a number of processes, 1 or more"
[[ $PROCESSES == 1 || " $*" != *" --distributed"* ]] || die "PROCESSES sets --distributed itself: leave one out"

running="" stopped=0
signal() { local p && for p in $running; do kill "-$1" "$p" 2>/dev/null || true; done; }
trap 'stopped=1; signal TERM' TERM
trap 'if ((stopped++)); then signal KILL; else signal TERM; fi' INT # what a script starts with & ignores Ctrl-C

start() {
  local i port=PORT free='import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])'
  ((PROCESSES == 1 || dry_run)) || port=$("$PYTHON" -c "$free") || die "$PYTHON: found no free port"
  for ((i = 0; i < PROCESSES; i++)); do
    set -- "$PYTHON" -m ddrnet_jax.main "${arguments[@]}"
    ((PROCESSES == 1)) || set -- "$@" --distributed "localhost:$port,$PROCESSES,$i"
    if ((dry_run)); then show "$@"; else "$@" & running+=" $!"; fi
  done
}

# Wait for all; code: that of the first to fail. Of several seen at once the largest: the one that was killed (128 or
# more) explains the errors (1) of those that lost it.
watch() {
  local pid left status deadline=0
  code=0
  while [[ $running ]]; do
    left="" status=0
    for pid in $running; do
      if kill -0 "$pid" 2>/dev/null; then left+=" $pid" && continue; fi
      wait "$pid" || status=$(($? > status ? $? : status))
    done
    running=$left
    if ((status && !code)); then
      code=$status deadline=$((SECONDS + GRACE_S))
      ((code == 75)) || signal TERM # at 75 the others have saved too, and are ending
    fi
    ((!deadline || SECONDS < deadline)) || signal KILL
    [[ -z $running ]] || sleep 0.2 || true # Ctrl-C ends the sleep too
  done
}

arguments=("$@")
((!dry_run)) || { start && exit 0; }
while
  began=$SECONDS
  start
  ((!stopped)) || signal TERM # it came while they were being started
  watch
  ((!stopped)) && again "$code" $((SECONDS - began)) && ((!stopped))
do :; done
exit "$code"
