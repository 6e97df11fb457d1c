"""A trained network with its config, from wherever a person says that it is: see `places`."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from ddrnet_jax import build
from ddrnet_jax.models import variables
from ddrnet_jax.models.ddrnet import DDRNet
from ddrnet_jax.runs import checkpoints
from ddrnet_jax.runs.checkpoints import Loaded
from ddrnet_jax.runs.metrics_file import SCORES
from ddrnet_jax.weights import files as weight_files
from ddrnet_jax.weights import places, pretrained
from ddrnet_jax.weights.card import score_entry
from ddrnet_jax.weights.importing import config_in, config_of
from ddrnet_jax.weights.pretrained import PretrainedError


def load_checkpoint(place: str | Path) -> tuple[DDRNet, ConfigDict]:
    """A trained model on whatever devices this machine has, however many it was saved on.

    place    a workdir (its best, else latest step), one step's directory, anywhere it was copied to, or a weights file;
             or its address
    Returns  (model in eval mode, its config); the moving average of the weights where the run kept one
    Raises   CheckpointError, WeightsFileError, PretrainedError or DownloadError if there is none or it cannot be read.
    """
    loaded = load_weights(place)
    model = variables.merge(loaded.graphdef, *jax.tree.map(jnp.asarray, (loaded.params, loaded.batch_stats)))
    model.eval()
    return model, loaded.config


def load_weights(
    place: str | Path, *, averaged: bool = True, network: Callable[[nnx.Rngs], nnx.Module] | None = None
) -> Loaded:
    """The weights of a checkpoint, or of a file of anyone's, and what they are the weights of; see load_checkpoint.

    averaged  the moving average where the run kept one; False: the weights themselves. A file has one of the two
    network   makes what a checkpoint's weights are of; None: the network of its config
    """
    path = places.local(place)
    if not path.is_file():
        return checkpoints.load_weights(path, averaged=averaged, network=network)
    if network is not None:
        raise PretrainedError(f"{place}: a file is of a DDRNet; of a network of your own give a checkpoint")
    return _of_file(path)


def _of_file(path: Path) -> Loaded:
    weights = pretrained.read(path)
    config = (config_in(path) or config_of(weights)).copy_and_resolve_references()
    if config.task != weights.task:
        raise PretrainedError(f"{path}: holds {weights.describe()}, but the config in it is of {config.task}")
    config.model.aux_head = weights.has_aux_head
    graphdef, *shapes = variables.shapes(build.experiment(config).network)
    moved = pretrained.transfer(weights, variables.merge(graphdef, *shapes)).moved
    params, batch_stats = (
        variables.from_paths({name: moved[name] for name in variables.paths(tree)}) for tree in shapes
    )
    metric = SCORES[config.task]
    return Loaded(graphdef, params, batch_stats, config, metric, _score_in(path, metric), step=None, is_averaged=False)


def _score_in(path: Path, metric: str) -> float | None:
    """The score that a .safetensors file of our `export` carries, None where there is none."""
    with contextlib.suppress(KeyError, ValueError):
        score = float(weight_files.read_metadata(path)[score_entry(metric)])
        return score if 0 <= score <= 1 else None
    return None
