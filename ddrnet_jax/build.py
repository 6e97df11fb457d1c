"""What a config describes, made: its data set, its sources, its model."""

from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from ddrnet_jax.config import ConfigError
from ddrnet_jax.data.pipeline import Augment, AugmentImage, CentreCrop
from ddrnet_jax.data.records import prepare
from ddrnet_jax.data.records.array_records import ArrayRecords
from ddrnet_jax.data.samples import Source
from ddrnet_jax.data.sets import layouts
from ddrnet_jax.data.sets import scenes as scene_sets
from ddrnet_jax.data.sets.folder import folder_spec
from ddrnet_jax.data.sets.imagenet import imagenet_spec
from ddrnet_jax.data.sets.known import SPECS
from ddrnet_jax.data.sets.specs import DatasetSpec
from ddrnet_jax.data.sources import FolderPairs, SceneImages, Scenes
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
    if d.name == "imagenet":
        return imagenet_spec(d.classes)
    return scene_sets.IMAGES if d.name == "scenes" and config.task == "classification" else SPECS[d.name]


def train_source(config: ConfigDict) -> Source:
    """Random access to the training samples. Raises ConfigError or DataError if they are not there."""
    return _source(config, config.data.train_split, scenes=_train_scenes)


def eval_source(config: ConfigDict) -> Source:
    """Random access to the held-out samples. Raises ConfigError or DataError if they are not there."""
    return _source(config, config.data.eval_split, scenes=_eval_scenes)


def sources_to_prepare(config: ConfigDict) -> dict[str, FolderPairs | Scenes]:
    """{split: source} of every split that the config names, from its folders. Raises DataError if one is not there."""
    d = config.data
    if d.name == "scenes":
        return {d.train_split: _train_scenes(config), d.eval_split: _eval_scenes(config)}
    _check_root(config)
    if d.storage != "folder":
        raise ConfigError(f"config.data.storage: {d.storage!r} given, but prepare_data reads folders")
    splits = dict.fromkeys((*layouts.split_parts(d.train_split), *layouts.split_parts(d.eval_split)))
    return {split: FolderPairs(d.root, split, dataset_spec(config)) for split in splits}


def prepare_data(
    config: ConfigDict, output: str | Path, say: Callable[[str], None] = lambda message: None
) -> dict[str, int]:
    """Write the config's data set as ArrayRecords into `output`; {split: number of samples}. Raises DataError."""
    d = config.data
    sources = sources_to_prepare(config)
    return prepare.prepare(
        sources, output, name=d.name, num_threads=d.num_threads, jpeg_quality=d.jpeg_quality, say=say
    )


def _source(config: ConfigDict, split: str, scenes: Callable[[ConfigDict], Scenes]) -> Source:
    _check_root(config)
    if config.data.storage == "array_record":
        return ArrayRecords(config.data.root, split, dataset_spec(config))
    if config.data.name == "scenes":
        return scenes(config)
    return FolderPairs(config.data.root, split, dataset_spec(config))


def _check_root(config: ConfigDict) -> None:
    if not config.data.root and (config.data.name != "scenes" or config.data.storage != "folder"):
        raise ConfigError("config.data.root: '' given, expected the folder of the data set")
    if "://" in config.data.root:
        raise ConfigError(
            f"config.data.root: {config.data.root!r} given, expected a folder; mount the bucket and give it"
        )


def _train_scenes(config: ConfigDict) -> Scenes:
    return _scenes(config, config.data.scenes_train, seed=0)


def _eval_scenes(config: ConfigDict) -> Scenes:
    return _scenes(config, config.data.scenes_eval, seed=1)


def _scenes(config: ConfigDict, count: int, seed: int) -> Scenes:
    kind = SceneImages if config.task == "classification" else Scenes
    return kind(count, seed=seed, size_hw=config.data.scenes_hw)


def augmentation(config: ConfigDict) -> Augment | AugmentImage:
    """The training augmentation of the config."""
    d = config.data
    if config.task == "classification":
        return AugmentImage(d.crop_hw, d.area_range, d.flip)
    return Augment(d.crop_hw, d.scale_range, d.flip)


def evaluation_view(config: ConfigDict) -> CentreCrop | None:
    """What is done to an image before it is evaluated: a classifier sees its centre, a segmenter all of it."""
    return CentreCrop(config.eval.size_hw or config.data.crop_hw) if config.task == "classification" else None


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
