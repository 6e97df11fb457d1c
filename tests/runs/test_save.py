"""A run's checkpoints on a disk that damages, loses or has no room for them; states without a model save in no time."""

import itertools
import os
import resource
import shutil
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from damage import arrays_file, flip_bit

from ddrnet_jax import config as config_lib
from ddrnet_jax.config import files as config_files
from ddrnet_jax.runs import checkpoints, step_files
from ddrnet_jax.runs.save import Checkpoints, OtherRun
from ddrnet_jax.runs.step_files import CheckpointError
from ddrnet_jax.runs.workdir import WorkdirLost


def tiny_checkpoints(workdir, **options):
    config = config_lib.base()
    config.checkpoint.keep = 3
    (workdir / "checkpoints").mkdir(parents=True, exist_ok=True)
    return Checkpoints(workdir, config_files.to_json(config), keep=config.checkpoint.keep, **options)


def tiny_state(step):
    rng = np.random.default_rng(step)
    return {
        "step": jnp.int32(step),
        "params": {"kernel": jnp.asarray(rng.normal(size=(3, 40, 50)).astype(np.float32)), "bias": jnp.arange(3.0)},
        "opt_state": (jnp.asarray(rng.normal(size=(7,)).astype(np.float32)), ()),
    }


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """A workdir with steps 1, 2 (the best) and 3."""
    workdir = tmp_path_factory.mktemp("tiny")
    manager = tiny_checkpoints(workdir)
    for step, miou in ((1, 0.3), (2, 0.5), (3, None)):
        manager.save(step, tiny_state(step), miou)
    manager.close()
    return workdir


@pytest.fixture
def run(tiny_run, tmp_path):
    """A copy to damage."""
    return shutil.copytree(tiny_run, tmp_path / "run")


def steps_in(workdir):
    return sorted(p.name for p in (workdir / "checkpoints").iterdir() if p.name[0].isdigit())


def resume(workdir):
    return tiny_checkpoints(workdir).resume(like=tiny_state(0))


def assert_is_step(resumed, step):
    assert resumed.step == step
    for a, b in zip(jax.tree.leaves(resumed.state), jax.tree.leaves(tiny_state(step)), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


DAMAGES = {
    "flipped bit": lambda folder: flip_bit(arrays_file(folder), 3000),
    "truncated": lambda folder: os.truncate(arrays_file(folder), arrays_file(folder).stat().st_size // 2),
    "emptied file": lambda folder: os.truncate(arrays_file(folder), 0),
    "missing arrays": lambda folder: arrays_file(folder).unlink(),
    "missing description": lambda folder: (folder / "_CHECKPOINT_METADATA").unlink(),
    "garbled description": lambda folder: (folder / "_CHECKPOINT_METADATA").write_text("{"),
    "emptied directory": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_step_is_passed_over_kept_and_saved_again(run, damage):
    DAMAGES[damage](run / "checkpoints" / "3")
    manager = tiny_checkpoints(run)
    resumed = manager.resume(like=tiny_state(0))
    assert_is_step(resumed, 2)
    (warning,) = resumed.warnings
    assert "\n" not in warning
    assert f"{run / 'checkpoints' / '3'}: the checkpoint cannot be read" in warning
    assert "kept as 3.damaged, going on from step 2" in warning
    assert steps_in(run) == ["1", "2", "3.damaged"]
    manager.save(3, tiny_state(3))
    manager.close()
    assert_is_step(resume(run), 3)

    DAMAGES[damage](run / "checkpoints" / "3")
    assert_is_step(resume(run), 2)
    assert "3.damaged-2" in steps_in(run)


def test_no_flipped_bit_changes_a_number(run):
    """One flip in each file, one after another: the step is whole, bit for bit, or it is passed over."""
    rng = np.random.default_rng(0)
    passed_over = []
    for path in sorted(p for p in (run / "checkpoints" / "3").rglob("*") if p.is_file() and p.stat().st_size):
        data = path.read_bytes()
        flip_bit(path, int(rng.integers(len(data))), int(rng.integers(8)))
        resumed = resume(run)
        assert_is_step(resumed, 2 if resumed.warnings else 3)
        if resumed.warnings:
            passed_over.append(path.name)
            (run / "checkpoints" / "3.damaged").rename(run / "checkpoints" / "3")
        path.write_bytes(data)
    assert "_METADATA" in passed_over
    assert_is_step(resume(run), 3)


@pytest.mark.parametrize("name", ["exp[1]", "[!a]*?", "a\\b", "caf\udce9"])
def test_a_folder_of_any_name_is_saved_into_read_and_ranked(tmp_path, name):
    workdir = tmp_path / name / "run"
    manager = tiny_checkpoints(workdir)
    for step in (1, 2):
        manager.save(step, tiny_state(step), step / 10)
    manager.close()
    assert_is_step(resume(workdir), 2)
    assert checkpoints.find_step(workdir) == workdir / "checkpoints" / "2"
    copied = shutil.copytree(workdir / "checkpoints" / "1", tmp_path / f"copied-{name}")
    assert step_files.read_metadata(copied).custom_metadata["val/miou"] == 0.1


def test_a_save_that_nobody_finds_again_is_said(run):
    manager = tiny_checkpoints(run)
    manager.save(4, tiny_state(4))
    step, saving, arrays = manager._saving

    class Forgetful:
        def result(self, timeout_s):
            saving.result(timeout_s)
            shutil.rmtree(run / "checkpoints" / "4" / "state")

    manager._saving = step, Forgetful(), arrays
    with pytest.raises(CheckpointError, match=r"4: the checkpoint cannot be read .*, though it was just saved"):
        manager.close()


def test_checkpoints_of_another_run_are_refused_and_stay(run):
    config = config_lib.base()
    config.seed, config.total_steps, config.log_every_steps = 1, 7, 3
    other = Checkpoints(run, config_files.to_json(config))
    for newest in (3, 2):  # damaged or not, one older step is enough
        with pytest.raises(
            OtherRun, match=rf"{newest}: is of a run with another config.*: seed: 0 -> 1; total_steps:"
        ) as e:
            other.resume(like=tiny_state(0))
        assert "\n" not in str(e.value)
        assert "log_every_steps" not in str(e.value)
        shutil.rmtree(run / "checkpoints" / str(newest))
    (run / "checkpoints" / "3").mkdir()
    with pytest.raises(OtherRun, match="1: is of a run"):
        other.resume(like=tiny_state(0))
    assert steps_in(run) == ["1", "3"]


def test_nothing_is_saved_into_a_workdir_that_is_lost(run):
    lost = []

    def check_claim():
        if lost:
            raise WorkdirLost("gone")

    manager = tiny_checkpoints(run, check_claim=check_claim)
    manager.save(4, tiny_state(4))
    manager.check()
    lost.append(True)
    with pytest.raises(WorkdirLost):
        manager.save(5, tiny_state(5))
    (run / "checkpoints" / "6.orbax-checkpoint-tmp").mkdir()  # by now somebody else's
    manager.close()
    assert "6.orbax-checkpoint-tmp" in steps_in(run)
    assert "5" not in steps_in(run)


def test_what_is_not_known_to_be_the_disk_is_not_called_the_disk(run, monkeypatch):
    def fail(*_, **__):
        raise ValueError("Deadline of 600 s exceeded")

    manager = tiny_checkpoints(run)
    monkeypatch.setattr(manager._orbax(), "save_async", fail)
    with pytest.raises(CheckpointError, match=r"4: the checkpoint cannot be saved \(Deadline of 600 s exceeded\)") as e:
        manager.save(4, tiny_state(4))
    assert "GB free" not in str(e.value)
    assert "room" not in str(e.value)
    assert "run the same command again" in str(e.value)


def test_a_clock_that_jumps_costs_no_save(run, monkeypatch):
    """As after a night with the lid closed, or when a board gets the time from the network."""
    days = itertools.count(1)
    clock = types.SimpleNamespace(time=lambda: 1e9 + next(days) * 86_400)
    monkeypatch.setattr("orbax.checkpoint._src.futures.future.time", clock)  # by which it limits a save
    manager = tiny_checkpoints(run)
    manager.save(4, tiny_state(4))
    manager.close()
    assert next(days) > 5
    assert_is_step(resume(run), 4)


def test_a_removed_step_is_saved_again(run):
    shutil.rmtree(run / "checkpoints" / "3")
    resumed = resume(run)
    assert_is_step(resumed, 2)
    assert resumed.warnings == []


def test_without_a_readable_step_nothing_is_touched_and_the_run_refused(run):
    for step in "123":
        DAMAGES["truncated"](run / "checkpoints" / step)
    with pytest.raises(CheckpointError, match=r"none of its 3 checkpoint\(s\) can be read, the newest") as e:
        resume(run)
    assert "\n" not in str(e.value)
    assert steps_in(run) == ["1", "2", "3"]


@pytest.mark.parametrize("text", ["", "{", '{"val/miou": 0.9}'])
def test_an_older_step_whose_score_is_damaged_is_set_aside(run, text):
    (run / "checkpoints" / "2" / "metrics" / "metrics").write_text(text)
    manager = tiny_checkpoints(run)
    resumed = manager.resume(like=tiny_state(0))
    assert_is_step(resumed, 3)
    assert "kept as 2.damaged" in resumed.warnings[0]
    manager.save(4, tiny_state(4), 0.1)
    manager.close()
    assert steps_in(run) == ["1", "2.damaged", "3", "4"]  # 1 is the best of those that are left


@pytest.mark.parametrize("text", ["", '{"val/miou": 0.9}'])
def test_a_newest_step_whose_score_is_damaged_is_set_aside(run, text):
    score = run / "checkpoints" / "3" / "metrics" / "metrics"
    score.parent.mkdir(exist_ok=True)
    score.write_text(text)
    resumed = resume(run)
    assert_is_step(resumed, 2)
    assert "kept as 3.damaged" in resumed.warnings[0]


def test_a_renamed_step_is_set_aside(run):
    (run / "checkpoints" / "3").rename(run / "checkpoints" / "7")
    assert_is_step(resume(run), 2)


def test_a_best_whose_replacement_was_cut_short_still_stands_for_the_run(run):
    (run / "checkpoints" / "2").rename(run / "checkpoints" / "2.replaced")
    assert checkpoints.find_step(run).name == "2.replaced"


def test_what_a_kill_left_is_cleared_away(run):
    root = run / "checkpoints"
    (root / "4.orbax-checkpoint-tmp").mkdir()
    (root / "3").rename(root / "3.replaced")  # its replacement with a score was not complete
    assert_is_step(resume(run), 3)
    assert steps_in(run) == ["1", "2", "3"]
    shutil.copytree(root / "3", root / "3.replaced")  # it was
    assert_is_step(resume(run), 3)
    assert steps_in(run) == ["1", "2", "3"]


def test_folders_that_are_no_steps_are_left_alone(run):
    """Whatever their names look like to Python: isdigit() is true of the first."""
    others = ["²", "٣", "007", "1-old.replaced", "x.replaced", "9" * 200, "3 copy", "-1", "1.0"]
    for name in others:
        shutil.copytree(run / "checkpoints" / "1", run / "checkpoints" / name)
    assert checkpoints.find_step(run).name == "2"
    manager = tiny_checkpoints(run)
    assert_is_step(manager.resume(like=tiny_state(0)), 3)
    manager.save(4, tiny_state(4), 0.1)
    manager.save(5, tiny_state(5), 0.1)
    manager.close()
    assert set(others) <= {path.name for path in (run / "checkpoints").iterdir()}


def test_a_late_score_replaces_a_step_only_once_it_is_complete(run, monkeypatch):
    manager = tiny_checkpoints(run)
    with monkeypatch.context() as patched:
        patched.setattr(manager._orbax(), "save_async", lambda *_, **__: 1 / 0)
        with pytest.raises(CheckpointError, match="cannot be saved"):
            manager.save(3, tiny_state(3), 0.9)
    assert_is_step(resume(run), 3)
    manager = tiny_checkpoints(run)
    manager.save(3, tiny_state(3), 0.9)
    manager.close()
    assert checkpoints.find_step(run).name == "3"
    assert steps_in(run) == ["1", "2", "3"]


def test_a_full_disk_is_one_line_and_costs_no_earlier_step(run):
    manager = tiny_checkpoints(run)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # what a disk quota does, without being root
    try:
        with pytest.raises(CheckpointError) as caught:  # noqa: PT012
            manager.save(4, tiny_state(4))
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                manager.check()
                time.sleep(0.01)
        manager.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{run / 'checkpoints' / '4'}: the checkpoint cannot be saved (File too large; ")
    assert "GB free" in message
    assert steps_in(run) == ["1", "2", "3"]
    assert_is_step(resume(run), 3)


def test_a_failed_last_save_is_said_when_closing(run):
    manager = tiny_checkpoints(run)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        manager.save(4, tiny_state(4))
        with pytest.raises(CheckpointError, match="4: the checkpoint cannot be saved"):
            manager.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    manager.close()
    assert_is_step(resume(run), 3)
