#!/usr/bin/env bash
# Train on all GPUs of this machine in one process, or on several machines that share a file system.
# NOT RUN ON GPUS BY US: only its commands are tested.
#
#   launch/gpu_node.sh [--dry-run] --config FILE --workdir DIR [--config.key=value ...]
#
# Several machines: the same command on each, the workdir on the shared disk, and which of them this is:
#   launch/gpu_node.sh --config FILE --workdir /shared/RUN --distributed gpu0:12355,2,0     # on gpu0
#   launch/gpu_node.sh --config FILE --workdir /shared/RUN --distributed gpu0:12355,2,1     # on gpu1
#
# CUDA_VISIBLE_DEVICES=0,1   only these GPUs
# Exit codes and the other variables: see local.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[[ ${PROCESSES:-1} == 1 ]] || die "PROCESSES=$PROCESSES: one process drives all GPUs of a machine; leave it out"

# Without this, a jax that lacks its CUDA part trains on the CPU, and says so in one line of many.
export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu}
# Of each GPU's memory; 0.75 is XLA's default, for machines that share their GPUs.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}

local=$(dirname "${BASH_SOURCE[0]}")/local.sh
if ((dry_run)); then
  show env "JAX_PLATFORMS=$JAX_PLATFORMS" "XLA_PYTHON_CLIENT_MEM_FRACTION=$XLA_PYTHON_CLIENT_MEM_FRACTION" \
    "$local" "$@"
  exec "$local" --dry-run "$@"
fi
nvidia-smi --query-gpu=index,name,memory.total,driver_version --format=csv,noheader >&2 ||
  die "nvidia-smi finds no GPU here: is the NVIDIA driver installed?"
"$PYTHON" -c 'import jax, sys; sys.exit(jax.default_backend() != "gpu")' 2>/dev/null ||
  die "jax of $PYTHON sees no GPU: pip install -e '.[cuda12]' (cuda13 for drivers from 580)"
exec "$local" "$@"
