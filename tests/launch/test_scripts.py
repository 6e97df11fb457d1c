"""Every launcher: lint, --help, what --dry-run prints, one line for what is wrong."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from launchers import ARGUMENTS, REMOTE, SRUN, TRAINING, launch, stand_in

SCRIPTS = ("local.sh", "gpu_node.sh", "slurm.sbatch", "tpu_create.sh", "tpu_setup.sh", "tpu_run.sh", "gke_xpk.sh")


def test_shellcheck_finds_nothing(repo):
    shellcheck = Path(sys.executable).parent / "shellcheck"
    scripts = sorted(str(p) for p in (repo / "launch").iterdir() if p.suffix in (".sh", ".sbatch"))
    result = subprocess.run([str(shellcheck), "--external-sources", *scripts], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("script", [*SCRIPTS, "tpu_worker.sh"])
def test_a_script_is_executable_strict_and_says_what_was_not_run(repo, script):
    text = (repo / "launch" / script).read_text()
    assert text.startswith("#!/usr/bin/env bash\n# ")
    assert "\nset -euo pipefail" in text
    if script not in ("local.sh", "tpu_worker.sh"):
        assert "BY US" in text.partition("set -euo")[0]
    if script.endswith(".sh"):
        assert os.access(repo / "launch" / script, os.X_OK)


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s.endswith(".sh")])
def test_help_is_the_head_of_the_script(repo, script):
    result = launch(repo, script, "--help")
    assert result.returncode == 0
    assert f"launch/{script} [--dry-run]" in result.stdout
    assert "set -euo" not in result.stdout


DRY_RUNS = {
    "local.sh": ({}, ARGUMENTS, [f"python {TRAINING}"]),
    "local.sh of two processes": (
        {"PROCESSES": "2"},
        ARGUMENTS,
        [f"python {TRAINING} --distributed localhost:PORT,2,{i}" for i in (0, 1)],
    ),
    "gpu_node.sh": (
        {},
        ARGUMENTS,
        [
            "env JAX_PLATFORMS=cuda,cpu XLA_PYTHON_CLIENT_MEM_FRACTION=0.92 {launch}/local.sh "
            "--config configs/demo.py --workdir w",
            f"python {TRAINING}",
        ],
    ),
    "slurm.sbatch": (
        {"SLURM_JOB_ID": "7"},
        ARGUMENTS,
        [
            f"srun {SRUN} python {TRAINING} --distributed auto",
            "# on exit code 75: scontrol requeue 7",
        ],
    ),
    "tpu_create.sh": (
        {"ZONE": "a-zone", "TPU_TYPE": "v6e-16", "SPOT": "1", "PROJECT": "p"},
        ["pod"],
        [
            "gcloud compute tpus queued-resources describe pod --format=value(state.state) "
            "--zone=a-zone --project=p --quiet",
            "gcloud compute tpus queued-resources delete pod --force --zone=a-zone --project=p --quiet",
            "gcloud compute tpus queued-resources create pod --node-id=pod --accelerator-type=v6e-16 "
            "--runtime-version=v2-alpha-tpuv6e --spot --zone=a-zone --project=p --quiet",
        ],
    ),
    "tpu_create.sh by flex-start": (
        {"ZONE": "a-zone", "TPU_TYPE": "v5litepod-16", "FLEX": "24h"},
        ["pod"],
        [
            "gcloud compute tpus queued-resources describe pod --format=value(state.state) --zone=a-zone --quiet",
            "gcloud compute tpus queued-resources delete pod --force --zone=a-zone --quiet",
            "gcloud alpha compute tpus queued-resources create pod --node-id=pod --accelerator-type=v5litepod-16 "
            "--runtime-version=v2-alpha-tpuv5-lite --provisioning-model=flex-start --max-run-duration=24h "
            "--zone=a-zone --quiet",
        ],
    ),
    "gke_xpk.sh": (
        {"CLUSTER": "c", "TPU_TYPE": "v5litepod-16"},
        ["job", *REMOTE],
        [
            "xpk workload create --workload=job --cluster=c --tpu-type=v5litepod-16 --num-slices=1 "
            "--base-docker-image=python:3.12 --script-dir={root} --max-restarts=50 --restart-on-exit-codes=75 "
            "--termination-grace-period-seconds=120 --command=pip install --quiet '.[tpu,gcs]' && exec python "
            "-m ddrnet_jax.main --config configs/demo.py --workdir /mnt/shared/run --distributed auto"
        ],
    ),
}


def unquoted(line: str) -> str:
    """A printed command as the shell would pass it on; comments as they are."""
    head, mark, command = line.rpartition("# on exit code 75: ")
    return head + mark + " ".join(shlex.split(command))


@pytest.mark.parametrize("name", DRY_RUNS)
def test_dry_run_prints_the_commands_and_runs_none(repo, bin_folder, name):
    for program in ("python", "gcloud", "srun", "scontrol", "xpk", "nvidia-smi"):
        stand_in(bin_folder / program, f"touch {bin_folder}/ran; exit 9")
    environment, arguments, expected = DRY_RUNS[name]
    result = launch(repo, name.split()[0], "--dry-run", *arguments, **environment)
    assert (result.returncode, result.stderr) == (0, "")
    expected = [e.replace("{launch}", str(repo / "launch")).replace("{root}", str(repo)) for e in expected]
    assert [unquoted(line) for line in result.stdout.splitlines()] == expected
    assert not (bin_folder / "ran").exists()


def test_dry_run_of_a_pod_prints_every_step_on_every_worker(repo, bin_folder):
    stand_in(bin_folder / "gcloud", f"touch {bin_folder}/ran; exit 9")
    result = launch(repo, "tpu_run.sh", "--dry-run", "pod", *REMOTE, ZONE="a-zone", TPU_TYPE="v4-16")
    assert (result.returncode, result.stderr) == (0, "")
    describe, delete, create, pack, copy, install, train = result.stdout.splitlines()
    assert "describe pod" in describe
    assert "delete pod --force" in delete
    assert "--runtime-version=tpu-ubuntu2204-base" in create
    assert "--spot" not in create
    assert pack.startswith("git -C ")
    assert "tpu-vm scp" in copy
    assert "uv pip install" in install
    assert shlex.split(train)[-3].endswith(
        "launch/tpu_worker.sh .venv/bin/python -m ddrnet_jax.main --config configs/demo.py "
        "--workdir /mnt/shared/run --distributed auto"
    )
    assert all("--worker=all" in line for line in (copy, install, train))
    assert not (bin_folder / "ran").exists()


@pytest.mark.parametrize(
    ("script", "arguments", "environment", "message"),
    [
        ("local.sh", ARGUMENTS, {"PROCESSES": "two"}, "PROCESSES=two"),
        ("tpu_create.sh", ["pod"], {"TPU_TYPE": "tpu7x-16"}, "launch/gke_xpk.sh"),
        ("tpu_create.sh", ["pod"], {"TPU_TYPE": "v6e-8", "SPOT": "1", "FLEX": "1h"}, "expected one of the two"),
        ("local.sh", ["--distributed", "auto"], {"PROCESSES": "2"}, "leave one out"),
        ("gpu_node.sh", ARGUMENTS, {"PROCESSES": "2"}, "one process drives all GPUs"),
        ("gpu_node.sh", ARGUMENTS, {}, "nvidia-smi finds no GPU"),
        ("tpu_create.sh", ["Pod"], {"TPU_TYPE": "v4-8"}, "'Pod'"),
        ("tpu_create.sh", ["pod"], {}, "TPU_TYPE"),
        ("tpu_run.sh", ["pod", *ARGUMENTS], {"TPU_TYPE": "v4-8"}, "expected --workdir gs://BUCKET/RUN, or /mnt/SHARED"),
        (
            "gke_xpk.sh",
            ["job", *ARGUMENTS],
            {"TPU_TYPE": "v4-8", "CLUSTER": "c"},
            "gs://BUCKET/RUN, or /mnt/SHARED/RUN",
        ),
    ],
)
def test_what_is_wrong_ends_in_one_line(repo, bin_folder, script, arguments, environment, message):
    for program in ("python", "gcloud", "xpk"):
        stand_in(bin_folder / program, f"touch {bin_folder}/ran")
    stand_in(bin_folder / "nvidia-smi", "exit 9")
    result = launch(repo, script, *arguments, **environment)
    assert result.returncode == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (bin_folder / "ran").exists()
