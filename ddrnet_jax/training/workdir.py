"""The folder a run lives in: made, tried, and kept for one config."""

import json
import os
from pathlib import Path

from ml_collections import ConfigDict

from ddrnet_jax import config_files
from ddrnet_jax.checkpoints import FOLDER
from ddrnet_jax.config import ConfigError


def claim(workdir: Path, config: ConfigDict) -> None:
    """Make the workdir and its config.json; once it has checkpoints, only a config of the same run may use it.

    Raises ConfigError if it cannot be written or belongs to another config.
    """
    path = workdir / "config.json"
    if (workdir / "_CHECKPOINT_METADATA").exists():
        raise ConfigError(f"--workdir {workdir}: is a checkpoint itself; choose another folder")
    given = config_files.to_json(config)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / FOLDER).mkdir(exist_ok=True)
        if path.exists() and any((workdir / FOLDER).glob("[0-9]*")):
            _check_same_run(path, given)
        temporary = workdir / "config.json.tmp"
        temporary.write_text(json.dumps(given, indent=2) + "\n")
        os.replace(temporary, path)
    except OSError as e:
        raise ConfigError(f"--workdir {workdir}: cannot be written ({e.strerror})") from e
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as e:
        raise ConfigError(f"{path}: not a config in JSON; remove it, or choose another --workdir") from e


def _check_same_run(path: Path, given: dict) -> None:
    try:
        before = config_files.to_json(config_files.from_json(json.loads(path.read_text())))
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}; remove it, or choose another --workdir") from e
    changed = config_files.changed_keys(before, given)
    if changed:
        raise ConfigError(
            f"{path}: this workdir was made with another config; choose another --workdir or restore: "
            + "; ".join(changed)
        )
