#!/usr/bin/env bash
# Copy this working tree to every worker of a TPU and install it there with jax[tpu] and gcsfs; again: bring it up to date.
# NOT RUN ON REAL TPUS BY US: tested with a stand-in for gcloud.
#
#   launch/tpu_setup.sh [--dry-run] NAME
#
# What git ignores (data, runs, environments) is not copied. While a run is going on there, nothing is changed.
# BUCKETS='mine other'   mounted on every worker first with gcsfuse, as /mnt/gs/mine and /mnt/gs/other
# MOUNT='sudo mkdir -p /mnt/shared && sudo mount 10.0.0.2:/share /mnt/shared'   run on every worker first, if given
# TPU_PYTHON=3.12     installed by uv: Google's images come with an older one than this project needs
# ZONE, PROJECT       default: those of `gcloud config`
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
name=${1:?expected the NAME of a TPU}
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# No cache of what is there: another worker may have written it.
# shellcheck disable=SC2016 # $ is the worker's
mount='set -e
for bucket in '"${BUCKETS:-}"'; do
  folder=/mnt/gs/$bucket
  if mountpoint -q "$folder"; then continue; fi
  if ! command -v gcsfuse >/dev/null; then
    key=/usr/share/keyrings/cloud.google.asc apt=https://packages.cloud.google.com/apt
    curl -fsSL $apt/doc/apt-key.gpg | sudo tee $key >/dev/null
    echo "deb [signed-by=$key] $apt gcsfuse-$(lsb_release -cs) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get -qq update
    sudo apt-get -qq -o DPkg::Lock::Timeout=300 install gcsfuse
  fi
  sudo mkdir -p "$folder"
  sudo chown "$(id -u)" "$folder"
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 "$bucket" "$folder"
done'

# shellcheck disable=SC2016 # $ is the worker's; in the home of each. The tree is replaced as a whole.
install='set -e
if [ -s ddrnet_run/pid ] && kill -0 "$(cat ddrnet_run/pid)" 2>/dev/null; then
  echo "a run is going on: left as it is" >&2; exit 0
fi
rm -rf ddrnet_run/code ddrnet_jax.new && mkdir ddrnet_jax.new && tar -xzf ddrnet_jax.tar.gz -C ddrnet_jax.new
if [ -d ddrnet_jax/.venv ]; then mv ddrnet_jax/.venv ddrnet_jax.new/; fi
rm -rf ddrnet_jax && mv ddrnet_jax.new ddrnet_jax && cd ddrnet_jax
python3 -m pip install --quiet --user uv
if [ ! -d .venv ]; then python3 -m uv venv --quiet --python '"${TPU_PYTHON:-3.12}"' .venv; fi
python3 -m uv pip install --quiet --python .venv/bin/python -e ".[tpu,gcs]"'

archive=${TMPDIR:-/tmp}/ddrnet_jax.$$.tar.gz
files=(git -C "$repo" ls-files -z --cached --others --exclude-standard)
# Files that were deleted, but not yet for git, are in its list: no error.
pack=(tar -czf "$archive" -C "$repo" --null --no-recursion --ignore-failed-read -T -)
trap 'rm -f "$archive"' EXIT
if ((dry_run)); then echo "$(show "${files[@]}") | $(show "${pack[@]}")"; else "${files[@]}" | "${pack[@]}"; fi
tpu tpu-vm scp "$archive" "$name:ddrnet_jax.tar.gz" --worker=all
[[ -z ${BUCKETS:-} ]] || tpu tpu-vm ssh "$name" --worker=all --command="$mount"
[[ -z ${MOUNT:-} ]] || tpu tpu-vm ssh "$name" --worker=all --command="$MOUNT"
tpu tpu-vm ssh "$name" --worker=all --command="$install"
