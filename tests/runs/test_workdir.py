"""A workdir is one run's, from its start to its end; a folder of the user's is none."""

import json
import os
import shutil

import pytest

from ddrnet_jax import config as config_lib
from ddrnet_jax.config import ConfigError
from ddrnet_jax.config import files as config_files
from ddrnet_jax.runs.workdir import WorkdirLost, claimed


def config(**changes):
    values = config_lib.base()
    values.update(changes)
    return config_files.to_json(values)


def claim_once(folder, **changes):
    with claimed(folder, config(**changes)) as claim:
        claim.check()


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


FOREIGN = {
    "config.json": '{"model_type": "bert", "seed": 1}',
    "config.json ": "[]",
    "metrics.jsonl": '{"step": 1, "loss": 2}\n',
    "report.html": "<p>quarterly report",
    "checkpoints/model.pt": "weights",
    "checkpoints/1000/model.pt": "weights",
    ".lock": "12345",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_folder_is_refused_before_anything_is_written(tmp_path, name):
    path = tmp_path / name.strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(FOREIGN[name])
    before = content(tmp_path)
    with pytest.raises(ConfigError, match="choose another --workdir") as e:
        claim_once(tmp_path)
    assert "\n" not in str(e.value)
    assert content(tmp_path) == before


def test_a_folder_with_other_files_is_taken_and_taken_again(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    claim_once(tmp_path)
    claim_once(tmp_path, seed=3)  # it has done nothing yet
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 3
    assert (tmp_path / "notes.txt").read_text() == "mine"


def run_with_lines(folder, *lines):
    claim_once(folder)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


LOSS, FIRST, SECOND = {"step": 1, "loss": 2.0}, {"step": 2, "val/miou": 0.1}, {"step": 4, "val/miou": 0.2}


@pytest.mark.parametrize(
    "lose",
    [
        lambda folder: shutil.rmtree(folder / "checkpoints"),
        lambda folder: (folder / "report.html").write_text("of the run"),
        lambda folder: (folder / "metrics.jsonl").write_text(f"{json.dumps(FIRST)}\n{json.dumps(SECOND)}\n"),
    ],
)
def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(tmp_path, lose):
    run_with_lines(tmp_path, LOSS, FIRST)
    lose(tmp_path)
    before = content(tmp_path)
    with pytest.raises(ConfigError, match="checkpoints: the checkpoints are gone, though .* goes on to step"):
        claim_once(tmp_path)
    assert content(tmp_path) == before


def test_a_run_that_was_killed_before_its_first_save_begins_again_with_its_own_config_alone(tmp_path):
    run_with_lines(tmp_path, LOSS, FIRST)
    claim_once(tmp_path)
    with pytest.raises(ConfigError, match="another config.*: seed: 0 -> 1"):
        claim_once(tmp_path, seed=1)


def lose_and_make(folder):
    folder.rename(folder.with_name("unmounted"))
    folder.mkdir()


@pytest.mark.parametrize("lose", [shutil.rmtree, lambda f: f.rename(f.with_name("moved")), lose_and_make])
def test_a_workdir_that_is_lost_is_noticed(tmp_path, lose):
    folder = tmp_path / "run"
    with claimed(folder, config()) as claim:
        lose(folder)
        with pytest.raises(WorkdirLost, match="no longer the folder that this run began in"):
            claim.check()
    assert not folder.exists() or not any(folder.iterdir())


def test_a_removed_lock_is_taken_again(tmp_path):
    with claimed(tmp_path, config()) as claim:
        (tmp_path / ".lock").unlink()
        claim.check()
        with pytest.raises(ConfigError, match="another run is writing there"):
            claim_once(tmp_path)
        claim.check()


def test_of_two_runs_that_a_removed_lock_let_in_the_first_ends(tmp_path):
    with claimed(tmp_path, config()) as first:
        (tmp_path / ".lock").unlink()
        with claimed(tmp_path, config()) as second:
            with pytest.raises(WorkdirLost, match="another run has begun there"):
                first.check()
            second.check()


def test_a_lock_that_is_a_pipe_is_named(tmp_path):
    claim_once(tmp_path)
    (tmp_path / ".lock").unlink(missing_ok=True)
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(ConfigError, match=rf"cannot be written \(not a regular file: {tmp_path}/\.lock\)"):
        claim_once(tmp_path)
