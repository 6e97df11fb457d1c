"""What a config describes, made: its data set, its sources, its model."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from ddrnet_jax.config import ConfigError
from ddrnet_jax.data.pipeline import Augment
from ddrnet_jax.data.sources import FolderPairs, Scenes
from ddrnet_jax.data.specs import CAMVID, SCENES, DatasetSpec, folder_spec
from ddrnet_jax.models.ddrnet import DDRNet

# None: compute in the parameters' own type, which is float32 (and float64 in tests of exactness).
_COMPUTE_DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}


def dataset_spec(config: ConfigDict) -> DatasetSpec:
    """The classes, colours and label values of the config's data set."""
    d = config.data
    if d.name == "folder":
        return folder_spec(
            d.classes, d.colors, d.label_values, d.ignore_values, image_folder=d.images, label_folder=d.labels
        )
    return {"scenes": SCENES, "camvid": CAMVID}[d.name]


def train_source(config: ConfigDict):
    """Random access to the training samples. Raises DataError if they are not there."""
    if config.data.name == "scenes":
        return Scenes(config.data.scenes_train, seed=0, size_hw=config.data.scenes_hw)
    return FolderPairs(config.data.root, config.data.train_split, dataset_spec(config))


def eval_source(config: ConfigDict):
    """Random access to the held-out samples. Raises DataError if they are not there."""
    if config.data.name == "scenes":
        return Scenes(config.data.scenes_eval, seed=1, size_hw=config.data.scenes_hw)
    return FolderPairs(config.data.root, config.data.eval_split, dataset_spec(config))


def augmentation(config: ConfigDict) -> Augment:
    """The training augmentation of the config."""
    return Augment(config.data.crop_hw, config.data.scale_range, config.data.flip)


def model_builder(config: ConfigDict) -> Callable[[nnx.Rngs], DDRNet]:
    """A function rngs -> DDRNet of the config."""
    num_classes = dataset_spec(config).num_classes

    def build(rngs: nnx.Rngs) -> DDRNet:
        return DDRNet(
            config.model.variant,
            task=config.task,
            num_classes=num_classes,
            aux_head=config.model.aux_head,
            dtype=_COMPUTE_DTYPES[config.model.dtype],
            rngs=rngs,
        )

    return build


def class_weights(config: ConfigDict) -> tuple[float, ...] | None:
    """The data set's class weights if the config asks for them. Raises ConfigError if it has none."""
    if not config.loss.class_weights:
        return None
    weights = dataset_spec(config).class_weights
    if weights is None:
        raise ConfigError(
            f"config.loss.class_weights: True given, but data set {config.data.name!r} has no class weights"
        )
    return weights
