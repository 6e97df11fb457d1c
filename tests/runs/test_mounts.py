"""A workdir where gcsfuse has mounted a bucket: no folder is renamed, and a step is one by its marker."""

import errno
import os
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ddrnet_jax import config as config_lib
from ddrnet_jax.bucket import MARKER
from ddrnet_jax.config import files as config_files
from ddrnet_jax.runs import checkpoints, find, mounts, step_files, step_folders
from ddrnet_jax.runs.save import Checkpoints
from ddrnet_jax.runs.step_files import CheckpointError

TABLE = r"""proc /proc proc rw 0 0
/dev/sda1 / ext4 rw,relatime 0 0
mine /mnt/gs/mine fuse.gcsfuse rw,nosuid,nodev,user_id=0 0 0
mine /mnt/my\040data gcsfuse rw 0 0
theirs /mnt/gke fuse rw,nosuid,nodev 0 0
tmpfs /mnt/gs/mine/scratch tmpfs rw 0 0
me@there: /mnt/ssh fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/mnt/gs/mine", True),
        ("/mnt/gs/mine/run/checkpoints", True),
        ("/mnt/my data/run", True),
        ("/mnt/gs/mine/../mine/run", True),
        ("/mnt/gke/run", True),
        ("/mnt/gs/mine/scratch/run", False),
        ("/mnt/gs/mine2/run", False),
        ("/mnt/ssh/run", False),
        ("/home/run", False),
    ],
)
def test_a_mounted_bucket_is_known_by_the_type_of_its_file_system(tmp_path, path, expected):
    table = tmp_path / "mounts"
    table.write_text(TABLE)
    assert mounts.is_bucket(Path(path), table) is expected
    assert not mounts.is_bucket(Path(path), tmp_path / "no_such_table")


def config():
    return config_files.to_json(config_lib.base())


def state_of(step):
    return {"step": jnp.int32(step), "params": {"kernel": np.random.default_rng(step).normal(size=(30, 40))}}


@pytest.fixture
def mount(tmp_path, monkeypatch):
    """A folder that is taken for a mounted bucket, and refuses to rename folders as one without a hierarchy does."""
    folder = tmp_path / "mount"
    folder.mkdir()
    (tmp_path / "mounts").write_text(f"runs {folder} fuse.gcsfuse rw 0 0\n")
    monkeypatch.setattr(mounts, "_TABLE", tmp_path / "mounts")

    def refusing(rename):
        def of_files_alone(source, target, **options):
            if os.path.isdir(source) and folder in Path(source).parents:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), os.fspath(source))
            return rename(source, target, **options)

        return of_files_alone

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    return folder


def checkpoints_in(workdir):
    return Checkpoints(workdir, config(), keep=3)


@pytest.fixture
def run(mount):
    """A workdir with steps 1, 2 (the best) and 3."""
    workdir = mount / "run"
    (workdir / "checkpoints").mkdir(parents=True)
    manager = checkpoints_in(workdir)
    for step, miou in ((1, 0.3), (2, 0.5), (3, None)):
        manager.save(step, state_of(step), miou)
    manager.close()
    return workdir


def resume(workdir):
    return checkpoints_in(workdir).resume(like=state_of(0))


def assert_is_step(resumed, step):
    assert resumed.step == step
    np.testing.assert_array_equal(resumed.state["params"]["kernel"], state_of(step)["params"]["kernel"])


def names_in(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def test_best_and_latest_are_saved_kept_and_resumed(run):
    assert names_in(run) == ["1", "2", "3"]
    assert_is_step(resume(run), 3)
    manager = checkpoints_in(run)
    for step in (4, 5):
        manager.save(step, state_of(step), 0.1)
    manager.close()
    assert names_in(run) == ["2", "3", "4", "5"]
    assert find.find_step(run).name == "2"
    assert_is_step(resume(run), 5)


def test_a_late_score_replaces_a_step_and_a_damaged_one_is_set_aside(run):
    manager = checkpoints_in(run)
    manager.save(3, state_of(3), 0.9)
    manager.close()
    assert find.find_step(run).name == "3"
    assert names_in(run) == ["1", "2", "3"]
    (run / "checkpoints" / "3" / "_CHECKPOINT_METADATA").write_text("{")
    resumed = resume(run)
    assert_is_step(resumed, 2)
    assert "kept as 3.damaged, going on from step 2" in resumed.warnings[0]
    assert names_in(run) == ["1", "2", "3.damaged"]


def test_a_step_without_its_marker_is_none_and_is_cleared_away(run):
    """A kill in a save leaves the step's final name with all but the marker in it."""
    (run / "checkpoints" / "2" / MARKER).unlink()
    assert find.find_step(run).name == "1"
    with pytest.raises(CheckpointError, match="2: no checkpoint here"):
        find.find_step(run / "checkpoints" / "2")
    assert resume(run).warnings == []
    assert names_in(run) == ["1", "3"]


def test_a_replacement_that_was_cut_short_is_finished(run):
    step, aside = run / "checkpoints" / "3", run / "checkpoints" / "3.replaced"
    cuts = {
        "the copy": lambda: (aside / MARKER).unlink(),
        "the removal of the original": lambda: (step / MARKER).unlink(),
        "the replacement": lambda: shutil.rmtree(step),
        "nothing but the removal of the copy": lambda: None,
    }
    for cut in cuts.values():
        shutil.copytree(step, aside)
        cut()
        assert find.find_step(run).name == "2"
        assert_is_step(resume(run), 3)
        assert names_in(run) == ["1", "2", "3"]


def test_a_step_that_was_copied_to_a_disk_is_read_there(run, tmp_path):
    copied = shutil.copytree(run / "checkpoints" / "2", tmp_path / "copied")
    assert step_folders.is_step(copied)
    assert step_files.read(find.find_step(copied), state_of(0))["step"] == 2


def test_weights_alone_are_written_there(mount):
    """As --mode import_weights does."""
    state = {"params": state_of(1)["params"], "batch_stats": {"mean": np.ones(30, np.float32)}}
    for folder in (mount / "weights", mount / "its [name] is a pattern*"):
        checkpoints.save_weights(folder, state["params"], state["batch_stats"], config())
        assert find.find_step(folder) == folder
        assert (folder / MARKER).is_file()
        read = step_files.read(folder, state)
        np.testing.assert_array_equal(read["params"]["kernel"], state["params"]["kernel"])
    assert sorted(path.name for path in mount.iterdir()) == ["its [name] is a pattern*", "weights"]
