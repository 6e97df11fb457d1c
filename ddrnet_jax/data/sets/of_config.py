"""The data set that a config describes; loads no JAX, so that whoever has a mask can name its classes."""

import dataclasses
from collections.abc import Sequence

from ml_collections import ConfigDict

from ddrnet_jax.data.sets import scenes
from ddrnet_jax.data.sets.folder import Folder, folder_spec
from ddrnet_jax.data.sets.imagenet import imagenet_spec
from ddrnet_jax.data.sets.known import SPECS
from ddrnet_jax.data.sets.specs import DatasetSpec


def dataset_spec(config: ConfigDict) -> DatasetSpec:
    """The classes, colours and label values of the config's data set. Raises DataError if they disagree."""
    return dataclasses.replace(_labels_spec(config), value_range=tuple(config.data.value_range))


def _labels_spec(config: ConfigDict) -> DatasetSpec:
    d = config.data
    if d.name == "folder":
        return own_folder(config, d.classes)
    if d.name == "imagenet":
        return imagenet_spec(d.classes)
    return scenes.IMAGES if d.name == "scenes" and config.task == "classification" else SPECS[d.name]


def own_folder(config: ConfigDict, classes: Sequence[str]) -> Folder:
    """The user's own folder with these classes. Raises DataError if the settings disagree."""
    d = config.data
    ways = {"image_folder": d.images, "label_folder": d.labels, "lists": d.lists}
    shares = {"val_share": d.val_share, "val_split": d.eval_split}
    return folder_spec(classes, d.colors, d.label_values, d.ignore_values, **ways, **shares)
