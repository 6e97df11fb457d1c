"""A run killed between two checkpoints ends bit-identical to one that never was.

Killed in a save, and resumed from the one before, is a run of test_faults.py, which is fast.
"""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tiny
from orbax.checkpoint import v1 as ocp

STEPS = 40
FLAGS = [
    "--config.batch_size=4",
    f"--config.total_steps={STEPS}",
    "--config.log_every_steps=2",
    "--config.data.crop_hw=(64, 64)",
    "--config.data.scenes_hw=(64, 96)",
    "--config.data.scenes_train=32",
    "--config.data.scenes_eval=4",
    "--config.eval.every_steps=0",
    "--config.checkpoint.every_steps=10",
    "--config.optimizer.warmup_steps=2",
]


def start(workdir, log):
    command = [sys.executable, "-m", "ddrnet_jax.main", "--config", tiny.CONFIG, "--workdir", str(workdir), *FLAGS]
    return subprocess.Popen(command, cwd=tiny.REPO, stdout=log, stderr=subprocess.STDOUT, env=dict(os.environ))


def lines(workdir):
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def final_state(workdir):
    """Every array of the last checkpoint, by path, whatever the devices here."""
    folder = workdir / "checkpoints" / str(STEPS)
    like = jax.tree.map(lambda m: np.zeros(m.shape, m.dtype), ocp.metadata(folder).metadata)
    flat, _ = jax.tree_util.tree_flatten_with_path(ocp.load(folder, like))
    return {jax.tree_util.keystr(path): leaf for path, leaf in flat}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    with (workdir / "log.txt").open("w") as log:
        assert start(workdir, log).wait(timeout=300) == 0, (workdir / "log.txt").read_text()
    return workdir


@pytest.mark.slow
def test_sigkill_between_checkpoints_changes_nothing(tmp_path, uninterrupted):
    log_path = tmp_path / "log.txt"
    with log_path.open("w") as log:
        process = start(tmp_path, log)
        while process.poll() is None and not (
            any(line["step"] >= 14 for line in lines(tmp_path)) and (tmp_path / "checkpoints" / "10").exists()
        ):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    reached = lines(tmp_path)[-1]["step"]
    assert 14 <= reached < STEPS, f"the kill came at step {reached}: {log_path.read_text()}"
    assert not (tmp_path / "checkpoints" / str(STEPS)).exists()

    with log_path.open("w") as log:
        assert start(tmp_path, log).wait(timeout=300) == 0, log_path.read_text()
    assert "resuming after step" in log_path.read_text()

    whole, resumed = final_state(uninterrupted), final_state(tmp_path)
    assert whole.keys() == resumed.keys()
    kinds = "".join(whole)
    assert all(part in kinds for part in ("params", "batch_stats", "opt_state", "ema"))
    for path, leaf in whole.items():
        np.testing.assert_array_equal(resumed[path], leaf, err_msg=path)

    def sequence(workdir):
        return [(line["step"], line["loss"]) for line in lines(workdir) if "loss" in line]

    assert sequence(tmp_path) == sequence(uninterrupted)
    assert [step for step, _ in sequence(tmp_path)] == list(range(2, STEPS + 1, 2))
