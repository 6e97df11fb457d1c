"""Trackers get what TensorBoard gets, of one run however often it is resumed; none ends a run or outlives it."""

import importlib.util
import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

from ddrnet_jax.config import ConfigError
from ddrnet_jax.data.sets.scenes import SPEC as SCENES
from ddrnet_jax.evaluation import metrics
from ddrnet_jax.evaluation.gallery import Seen
from ddrnet_jax.training import tracker_process, trackers
from ddrnet_jax.training.run_log import open_log

SCORES = metrics.scores(np.eye(SCENES.num_classes, dtype=int))
CONFIG = {"seed": 3, "data": {"root": "", "crop_hw": [64, 64]}}
LINE = {"loss": 1.5, "images_per_s": 2.0, "input_wait": 0.0}
# In the place of Weights & Biases: writes down what it is told, fails or waits where FAKE says so.
FAKE = """
import json, os, time

def note(*what):
    with open(os.environ["FAKE_NOTES"], "a") as file:
        file.write(json.dumps([os.getpid(), *what]) + chr(10))
    if os.environ.get("FAKE") == f"{what[0]} fails":
        raise RuntimeError(f"https://me:a/b@host/r?k=3 says no to {os.environ['WANDB_API_KEY']}" + chr(10) + "at all")
    if os.environ.get("FAKE") == f"{what[0]} hangs":
        time.sleep(600)
    if os.environ.get("FAKE") == f"{what[0]} dies":
        os._exit(7)

class Run:
    step = 0

    def log(self, values, step):
        note("log", step, {n: v if isinstance(v, float) else str(v) for n, v in values.items()})

    def finish(self):
        note("finish")

class Settings:
    def __init__(self, **settings):
        pass

def Image(picture, file_type):
    return f"{file_type} of {picture.size}"

def init(*, settings, **given):
    note("init", given)
    return Run()

def teardown():
    note("teardown")

note("import")
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """fake() -> what the fake was told, without the import"""
    (tmp_path / "fakes" / "wandb").mkdir(parents=True)
    (tmp_path / "fakes" / "wandb" / "__init__.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fakes"))
    monkeypatch.setenv("FAKE_NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    for name in ("WANDB_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)

    def notes():
        lines = (tmp_path / "notes").read_text().splitlines() if (tmp_path / "notes").exists() else []
        return [json.loads(line) for line in lines]

    return notes


def run(workdir, names, *, resumed_step=0, steps=(5, 10)):
    """A run's log, from the step after `resumed_step` to its end."""
    workdir.mkdir(exist_ok=True)
    log = open_log(workdir, names, CONFIG, resumed_step=resumed_step, total_steps=10, eval_every_steps=5)
    image = np.zeros((16, 24, 3), np.uint8)
    seen = Seen("val/a.png", 0.5, np.zeros(SCENES.num_classes), image, image[..., 0], image[..., 0])
    for step in steps:
        log.train(step, LINE, seconds_left=1)
        log.evaluation(step, SCORES, SCENES, [seen])
    log.close()
    return log


def is_running(pid):
    """True of a process that is none that only waits to be asked for its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def ends(pid, seconds=10):
    """True if a process ends within this time."""
    deadline = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


def test_a_tracker_is_told_what_run_it_is_and_what_tensorboard_gets(tmp_path, fake, said):
    run(tmp_path / "mine", ["wandb"])
    told = [note[1:] for note in fake()]
    assert [what for what, *_ in told] == ["import", "init", *["log"] * 6, "finish", "teardown"]
    given = told[1][1]
    assert (given["name"], given["project"], given["config"]) == ("mine", "ddrnet_jax", CONFIG)
    assert given["id"] == (tmp_path / "mine" / "tracker_id.txt").read_text().strip()
    assert told[2][1:] == [5, {"train/loss": 1.5, "train/images_per_s": 2.0, "train/input_wait": 0.0}]
    assert told[3][1:] == [5, SCORES.values(SCENES.classes)]
    step, pictures = told[4][1:]
    assert (step, list(pictures)) == (5, ["image, label, prediction/1 a"])
    assert pictures["image, label, prediction/1 a"].startswith("jpg of (80, ")
    assert not any("warning" in line for line in said)


def test_a_resumed_run_is_the_same_to_a_tracker(tmp_path, fake):
    for _ in range(2):
        run(tmp_path / "run", ["wandb"], steps=())
    run(tmp_path / "other", ["wandb"], steps=())
    first, second, other = (told["id"] for _, what, *rest in fake() if what == "init" for told in rest)
    assert first == second != other


def test_a_file_that_holds_no_id_is_made_again(tmp_path):
    (tmp_path / trackers.TRACKER_ID).write_text("of somebody else; or '1=1'")
    assert trackers._run_id(tmp_path) == trackers._run_id(tmp_path)


@pytest.mark.parametrize("fails", ["import", "init", "log", "finish", "teardown"])
def test_a_tracker_that_fails_is_one_warning_without_secrets(tmp_path, fake, said, monkeypatch, fails):
    monkeypatch.setenv("FAKE", f"{fails} fails")
    run(tmp_path / "run", ["wandb"])
    warnings = [line for line in said if line.startswith("warning")]
    assert warnings == ["warning: wandb is left out of this run: RuntimeError: https://host/r says no to ***"]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4
    assert [what for _, what, *_ in fake()].count(fails) == 1
    assert all(ends(pid) for pid, *_ in fake())


def test_a_tracker_whose_process_dies_is_one_warning(tmp_path, fake, said, monkeypatch):
    monkeypatch.setenv("FAKE", "log dies")
    run(tmp_path / "run", ["wandb"])
    warnings = [line for line in said if line.startswith("warning")]
    assert warnings == ["warning: wandb is left out of this run: its process was ended"]


@pytest.mark.parametrize("hangs", ["import", "init", "log", "finish"])
def test_a_tracker_that_hangs_holds_up_nothing(tmp_path, fake, said, monkeypatch, hangs):
    monkeypatch.setenv("FAKE", f"{hangs} hangs")
    monkeypatch.setattr(trackers, "_PATIENCE_S", 1.0)
    start = time.monotonic()
    run(tmp_path / "run", ["wandb"])
    assert time.monotonic() - start < 5
    (warning,) = (line for line in said if line.startswith("warning"))
    assert "what it had not sent 1 s after the run's last step is not waited for" in warning
    assert all(ends(pid) for pid, *_ in fake())


def test_trackers_that_hang_are_waited_for_together(tmp_path, fake, said, monkeypatch):
    """A run that ends by SIGTERM has 30 s."""
    monkeypatch.setenv("FAKE", "finish hangs")
    monkeypatch.setattr(trackers, "_PATIENCE_S", 2.0)
    (tmp_path / "run").mkdir()
    log = open_log(tmp_path / "run", ["wandb"] * 2, CONFIG, resumed_step=0, total_steps=10, eval_every_steps=5)
    start = time.monotonic()
    log.close()
    assert time.monotonic() - start < 3.5
    assert sum(line.startswith("warning") for line in said) == 2


def test_a_log_that_cannot_be_opened_leaves_no_process(tmp_path, fake):
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(OSError, match="tensorboard"):
        open_log(tmp_path, ["wandb"], CONFIG, resumed_step=0, total_steps=10, eval_every_steps=5)
    assert fake() == []
    assert not (tmp_path / trackers.TRACKER_ID).exists()


def test_a_process_that_cannot_be_started_is_one_warning(tmp_path, said, monkeypatch):
    monkeypatch.setattr(trackers.sys, "executable", str(tmp_path / "nothing"))
    run(tmp_path / "run", ["wandb"])
    (warning,) = (line for line in said if line.startswith("warning"))
    assert warning.startswith("warning: wandb is left out of this run: ")
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4


KILLED = """
import os, sys, time
from pathlib import Path
from ddrnet_jax.training import trackers
(tracker,) = trackers.started(["wandb"], Path(sys.argv[1]), {}, 10)
tracker.write_scalars(1, {"train/loss": 1.0})
print(tracker._process.pid, flush=True)
time.sleep(float(sys.argv[2]))
os.kill(os.getpid(), 9)
"""


def test_no_tracker_outlives_a_run_that_is_killed(tmp_path, fake, monkeypatch, repo):
    """Even one that is waiting for its server."""
    monkeypatch.setenv("FAKE", "init hangs")
    paths = f"{tmp_path / 'fakes'}{os.pathsep}{repo}"
    command = [sys.executable, "-c", KILLED, str(tmp_path), "1"]
    killed = subprocess.run(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": paths}, timeout=60)
    assert killed.returncode == -9
    assert ends(int(killed.stdout))


def test_a_package_that_is_missing_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"'wandb' is not installed: pip install 'ddrnet-jax\[wandb\]'"):
        trackers.require(["wandb"])
    # A folder wandb/, in which Weights & Biases keeps its files, is no package.
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: types.SimpleNamespace(origin=None))
    with pytest.raises(ConfigError, match="not installed"):
        trackers.require(["wandb"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: types.SimpleNamespace(origin="wandb/__init__.py"))
    trackers.require(["wandb"])


def test_the_process_knows_every_tracker_that_a_config_may_name():
    from ddrnet_jax.config import schema

    assert tuple(tracker_process._KINDS) == schema.TRACKERS


@pytest.fixture
def offline(monkeypatch):
    """No network, and nothing of the user's."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setattr(trackers, "_PATIENCE_S", 120.0)  # a busy machine takes long to import them


def test_mlflow_keeps_a_run_in_the_workdir(tmp_path, offline, said):
    """Resumed, with steps that were kept before, after the workdir has moved."""
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
    run(tmp_path / "run", ["mlflow"], steps=(5, 10))
    (tmp_path / "run").rename(tmp_path / "moved")
    run(tmp_path / "moved", ["mlflow"], resumed_step=5, steps=(10, 15))
    assert [line for line in said if line.startswith("warning")] == []

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        client = mlflow.MlflowClient((tmp_path / "moved" / "mlruns").as_uri())
        experiment = client.get_experiment_by_name("ddrnet_jax")
        (found,) = client.search_runs([experiment.experiment_id])
        for name, value in (("train/loss", 1.5), ("val/miou", 1.0)):
            history = client.get_metric_history(found.info.run_id, name)
            assert [(m.step, m.value) for m in history] == [(5, value), (10, value), (15, value)]
    assert found.info.run_name == "run"
    assert found.info.status == "KILLED"  # its last step is not that of the config
    assert found.data.params == {"seed": "3", "data.root": "", "data.crop_hw": "[64, 64]"}
    pictures = [path.name for path in (tmp_path / "moved" / "mlruns").glob("*/*/artifacts/images/*.png")]
    assert sorted(step for name in pictures for step in (5, 10, 15) if f"+step+{step}+" in name) == [5, 10, 10, 15]
    assert not (tmp_path / "run").exists()


def test_weights_and_biases_keeps_a_run_offline(tmp_path, offline, said):
    pytest.importorskip("wandb", reason="needs the extra wandb")
    for resumed_step in (0, 5):
        run(tmp_path / "run", ["wandb"], resumed_step=resumed_step, steps=(resumed_step + 5,))
    assert [line for line in said if line.startswith("warning")] == []
    known = (tmp_path / "run" / "tracker_id.txt").read_text().strip()
    kept = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{known}"))
    assert len(kept) == 2  # `wandb sync` makes one run of them
    for step, folder in zip((5, 10), kept, strict=True):
        records = (folder / f"run-{known}.wandb").read_bytes()
        assert b"train/loss" in records
        assert b"val/miou" in records
        assert b"crop_hw" in records
        (picture,) = folder.glob("files/media/images/**/*.jpg")
        assert f"_{step}_" in picture.name
