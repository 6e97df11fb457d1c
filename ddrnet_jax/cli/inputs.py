"""What the flags name: a config, its experiment, a checkpoint.

What loads jax is imported where it is needed.
"""

import argparse
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ddrnet_jax.cli.flags import UsageError
from ddrnet_jax.weights import shipped

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from ddrnet_jax.build import Experiment

_log = logging.getLogger(__name__)


def run_name(arguments: argparse.Namespace) -> str:
    """cityscapes_39 of configs/cityscapes.py:39"""
    path, _, argument = arguments.config.rpartition(".py")
    return Path(path).name + argument.replace(":", "_")


def checkpoint(arguments: argparse.Namespace) -> str:
    """Of --checkpoint, else of --workdir. Raises UsageError without either."""
    path = arguments.checkpoint or arguments.workdir
    if not path:
        instead = f"; or --input alone, which {shipped.DEFAULT} predicts" if arguments.mode == "predict" else ""
        raise UsageError(f"--mode {arguments.mode} needs --checkpoint: a workdir or one step's directory{instead}")
    return path


def checkpoint_or_shipped(arguments: argparse.Namespace) -> str:
    """The checkpoint, else the weights that come with the project, which a line of the log says."""
    if arguments.checkpoint or arguments.workdir:
        return checkpoint(arguments)
    _log.info(f"no --checkpoint: by {shipped.DEFAULT}, {shipped.NAMES[shipped.DEFAULT]}")
    is_hidden = os.path.lexists(shipped.DEFAULT)  # by what this folder calls so, which nobody asked for
    return str(shipped.path(shipped.DEFAULT)) if is_hidden else shipped.DEFAULT


def needed(arguments: argparse.Namespace, name: str) -> str:
    """The value of a flag that the mode cannot do without. Raises UsageError."""
    value = getattr(arguments, name)
    if not value:
        raise UsageError(f"--mode {arguments.mode} needs --{name}")
    return value


def read_config(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """The config of the flags, if they name one, kept in `arguments`. Raises UserError; loads no jax."""
    if arguments.config:
        from ddrnet_jax.config import files as config_files

        arguments.read_config = config_files.load(arguments.config, overrides)


def config(arguments: argparse.Namespace, overrides: list[str]) -> "ConfigDict":
    """The config of the flags. Raises UsageError without --config."""
    if not arguments.config:
        raise UsageError(f"--mode {arguments.mode} needs --config: a file like configs/demo.py")
    if not hasattr(arguments, "read_config"):
        read_config(arguments, overrides)
    return arguments.read_config


def optional_config(arguments: argparse.Namespace, overrides: list[str]) -> "ConfigDict | None":
    """The config of the flags, None without --config. Raises UsageError for overrides of none."""
    if overrides and not arguments.config:
        raise UsageError(f"--config.{overrides[0]}: overrides need --config")
    return config(arguments, overrides) if arguments.config else None


def experiment(arguments: argparse.Namespace, overrides: list[str]) -> "Experiment":
    """The experiment of the config. Raises UsageError without --config."""
    wanted = config(arguments, overrides)  # first: a config file may change what `build` has
    from ddrnet_jax import build

    return build.experiment(wanted)


def optional_experiment(arguments: argparse.Namespace, overrides: list[str]) -> "Experiment | None":
    """The experiment of the config, None without --config."""
    return experiment(arguments, overrides) if optional_config(arguments, overrides) else None
