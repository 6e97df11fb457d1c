"""launch/slurm.sbatch with stand-ins for srun and scontrol."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from launchers import ARGUMENTS, ENDLESS, SRUN, TRAINING, lines, stand_in, stand_in_with_codes, wait_for


@pytest.fixture
def spool(repo, tmp_path) -> Path:
    """The copy that SLURM runs."""
    return Path(shutil.copy(repo / "launch" / "slurm.sbatch", tmp_path / "slurm_script"))


@pytest.mark.parametrize(
    ("codes", "runs", "requeued", "code"),
    [
        ([0], 1, False, 0),
        ([1], 1, False, 1),
        ([75], 1, True, 75),
        ([137, 134, 0], 3, False, 0),
        ([137, 75], 2, True, 75),
        ([137, 137, 137, 137], 4, False, 137),
    ],
)
def test_slurm_requeues_what_was_told_to_stop(bin_folder, spool, codes, runs, requeued, code):
    calls = stand_in_with_codes(bin_folder / "srun", codes)
    requeues = stand_in_with_codes(bin_folder / "scontrol", [0])
    result = subprocess.run(
        ["bash", spool, *ARGUMENTS], env={**os.environ, "SLURM_JOB_ID": "7"}, cwd="/", capture_output=True, timeout=120
    )
    assert result.returncode == code
    assert lines(calls) == [f"{SRUN} python {TRAINING} --distributed auto"] * runs
    assert lines(requeues) == ["requeue 7"] * requeued


def test_slurm_wants_a_task_for_every_gpu(bin_folder, spool):
    srun = stand_in_with_codes(bin_folder / "srun", [0])
    environment = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "4", "SLURM_NTASKS_PER_NODE": "1"}
    result = subprocess.run(["bash", spool, *ARGUMENTS], env=environment, capture_output=True, text=True)
    assert (result.returncode, lines(srun)) == (1, [])
    assert result.stderr.startswith("error: 4 GPUs and 1 tasks on a node")


def test_slurm_passes_sigterm_on_to_the_step(bin_folder, spool, tmp_path):
    stand_in(bin_folder / "srun", f"trap 'touch {tmp_path}/saved; exit 75' TERM; touch {tmp_path}/up; {ENDLESS}")
    requeues = stand_in_with_codes(bin_folder / "scontrol", [0])
    process = subprocess.Popen(["bash", spool, *ARGUMENTS], env={**os.environ, "SLURM_JOB_ID": "7"})
    wait_for((tmp_path / "up").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 75
    assert (tmp_path / "saved").exists()
    assert lines(requeues) == ["requeue 7"]
