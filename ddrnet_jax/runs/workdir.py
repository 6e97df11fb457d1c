"""The folder a run lives in: made, tried, and kept for one config."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import filelock
import jax

from ddrnet_jax import atomic, regular_files
from ddrnet_jax.config import ConfigError
from ddrnet_jax.config import files as config_files
from ddrnet_jax.runs.step_files import FOLDER
from ddrnet_jax.runtime import devices


@contextlib.contextmanager
def claimed(workdir: Path, config: dict) -> Iterator[None]:
    """The workdir, made, of this config (JSON values), and no other run's as long as the context lasts.

    Of several processes the first claims it, and the others look whether they see the same folder.
    Raises ConfigError if it cannot be written, belongs to another config, or another run is in it.
    """
    if jax.process_index():
        _check_shared(workdir)
        yield
        return
    with _locked(workdir):
        _claim(workdir, config)
        _check_shared(workdir)
        yield


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(workdir / ".lock")
        lock.acquire(timeout=0)
    except filelock.Timeout as e:
        raise ConfigError(f"--workdir {workdir}: another run is writing there; wait for it or choose another") from e
    except OSError as e:
        raise ConfigError(f"--workdir {workdir}: cannot be written ({e.strerror})") from e
    try:
        yield
    finally:
        lock.release()


def _claim(workdir: Path, config: dict) -> None:
    """Write config.json; once the workdir has checkpoints, only a config of the same run may use it."""
    path = workdir / "config.json"
    if (workdir / "_CHECKPOINT_METADATA").exists():
        raise ConfigError(f"--workdir {workdir}: is a checkpoint itself; choose another folder")
    try:
        (workdir / FOLDER).mkdir(exist_ok=True)
        if any((workdir / FOLDER).glob("[0-9]*")):
            if not path.exists():
                raise ConfigError(f"{path}: gone, but there are checkpoints; restore it, or choose another --workdir")
            _check_same_run(path, config)
        atomic.write_text(path, json.dumps(config, indent=2) + "\n")
    except OSError as e:
        raise ConfigError(f"--workdir {workdir}: cannot be written ({e.strerror})") from e
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as e:
        raise ConfigError(f"{path}: not a config in JSON; restore it, or choose another --workdir") from e


def _check_shared(workdir: Path) -> None:
    """Every process calls it. Raises ConfigError in those that do not see what the first one writes into the folder."""
    if jax.process_count() == 1:
        return
    number = time.time_ns()  # a name that no file system's cache knows
    if jax.process_index() == 0:
        (workdir / f".shared-{number}").touch()
    path = workdir / f".shared-{devices.from_first_process(number)}"
    is_shared = path.exists()
    devices.wait_for_all("workdir")
    if jax.process_index() == 0:
        path.unlink()
    elif not is_shared:
        raise ConfigError(
            f"--workdir {workdir}: process {jax.process_index()} does not see what process 0 wrote there; "
            "it has to be one folder for all processes, as on a network file system"
        )


def _check_same_run(path: Path, given: dict) -> None:
    try:
        before = config_files.to_json(config_files.from_json(json.loads(regular_files.read_text(path))))
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}; restore it, or choose another --workdir") from e
    changed = config_files.changed_keys(before, given)
    if changed:
        raise ConfigError(
            f"{path}: this workdir was made with another config; choose another --workdir or restore: "
            + "; ".join(changed)
            + _road_on(path.parent, changed)
        )


def _road_on(workdir: Path, changed: list[str]) -> str:
    """What to do instead, where a run is to be of another length."""
    if not any(key.startswith("total_steps:") for key in changed):
        return ""
    return f". The learning rate falls over total_steps, so a run keeps its length; {train_longer(workdir)}"


def train_longer(workdir: Path) -> str:
    """How to go on from where a run has ended."""
    return f"to train longer, start from its weights: --config.init_from={workdir} and another --workdir"
