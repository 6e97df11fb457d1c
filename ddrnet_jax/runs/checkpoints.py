"""One checkpoint for use anywhere: found, loaded on whatever devices there are; weights written as one.

A checkpoint is one directory: of a run's step (runs/save.py), or of weights alone.
"""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from flax import nnx
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from ddrnet_jax import build
from ddrnet_jax.build import Experiment
from ddrnet_jax.config import ConfigError
from ddrnet_jax.config import files as config_files
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.models import variables
from ddrnet_jax.runs import step_files, step_folders
from ddrnet_jax.runs.find import find_step, named
from ddrnet_jax.runs.metrics_file import SCORES
from ddrnet_jax.runs.step_files import CheckpointError, first_line

__all__ = ["CheckpointError", "Loaded", "find_step", "load_weights", "save_weights"]


class Loaded(NamedTuple):
    """The content of a checkpoint, the leaves as numpy arrays."""

    graphdef: nnx.GraphDef
    params: dict
    batch_stats: dict
    config: ConfigDict
    metric: str  # what the score is: "val/miou", "val/top1"
    score: float | None  # 0..1, on the config's eval split; None if it was not evaluated there
    step: int | None  # of the run; None of weights that no run of ours made
    is_averaged: bool  # whether the weights are the run's moving average

    @property
    def experiment(self) -> Experiment:
        """The experiment of the config."""
        return build.experiment(self.config)

    @property
    def miou(self) -> float | None:
        """The score of a segmenter, None of a classifier."""
        return self.score if self.metric == SCORES["segmentation"] else None


def load_weights(
    path: str | Path, *, averaged: bool = True, network: Callable[[nnx.Rngs], nnx.Module] | None = None
) -> Loaded:
    """The weights of a checkpoint, and what they are the weights of.

    path      a workdir (its best, else latest step), or one step's directory, anywhere it was copied to
    averaged  the moving average where the run kept one; False: the weights themselves
    network   makes what the weights are of; None: the network of the checkpoint's config
    Raises CheckpointError if there is no checkpoint or it cannot be read.
    """
    folder = find_step(path)
    with named():
        return _loaded(folder, averaged=averaged, network=network)


def _loaded(folder: Path, *, averaged: bool, network: Callable[[nnx.Rngs], nnx.Module] | None) -> Loaded:
    metadata = step_files.read_metadata(folder)
    tree = metadata.metadata
    is_averaged = averaged and "ema" in tree
    names = ("ema",) if is_averaged else ("params", "batch_stats")
    try:
        loaded = step_files.read(folder, {name: tree[name] for name in (*names, "step") if name in tree})
    except CheckpointError as e:
        raise CheckpointError(f"{e}{step_folders.beside(folder)}") from e
    weights = loaded["ema"] if is_averaged else loaded
    try:
        config = config_files.from_json(metadata.custom_metadata["config"])
        experiment = build.experiment(config)
        model = variables.shapes(network or experiment.network)
    except (ConfigError, DataError) as e:
        raise CheckpointError(f"{folder}: its config cannot be used ({e})") from e
    _check_fits(folder, weights, {"params": model[1], "batch_stats": model[2]})
    metric = SCORES[config.task]
    return Loaded(
        model[0],
        weights["params"],
        weights["batch_stats"],
        config,
        metric,
        metadata.custom_metadata.get(metric),
        int(loaded["step"]) if "step" in loaded else None,
        is_averaged,
    )


def save_weights(folder: str | Path, params: dict, batch_stats: dict, config: dict) -> None:
    """Write weights alone as one step's directory that load_weights reads; the config as JSON values.

    Raises CheckpointError if there is something already, or it cannot be written.
    """
    folder = Path(folder).resolve()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise CheckpointError(f"--output {folder}: exists already; choose a new folder")
        folder.mkdir(parents=True, exist_ok=True)  # Orbax would find out late, and wait for itself
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
        state = {"params": params, "batch_stats": batch_stats}
        description = step_files.described(state, {"config": config})
        partial = step_files.plainly_named(folder.parent) / f"{secrets.token_hex(6)}.partial"
        with step_files.saving_context(is_renamed=step_folders.is_renamed(folder)):
            ocp.save(partial, state, custom_metadata=description)
        step_folders.rename(partial, folder)  # the empty folder
        step_files.check_saved(folder, len(jax.tree.leaves(state)), "")
    except OSError as e:
        raise CheckpointError(f"--output {folder}: cannot be written ({e.strerror or first_line(e)})") from e


def _check_fits(folder: Path, weights: dict, model: dict) -> None:
    found, wanted = (
        {k: tuple(v.shape) for part in ("params", "batch_stats") for k, v in variables.paths(tree[part]).items()}
        for tree in (weights, model)
    )
    wrong = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
    if wrong:
        raise CheckpointError(
            f"{folder}: its weights are not those of its config's model, {len(wrong)} differ, first {wrong[0]}: "
            f"{found.get(wrong[0], 'missing')} where {wanted.get(wrong[0], 'nothing')} is expected"
        )
