"""One DatasetSpec per data set: classes, colours, what raw label values mean, where files lie, class weights."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ddrnet_jax.data import scenes
from ddrnet_jax.data.errors import DataError

IGNORE = 255  # the train id of pixels that count nowhere
Color = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """What the labels of a data set mean, and where its files lie below the root.

    classes        names by train id
    colors         RGB (0..255) by train id, for pictures
    values         raw label values -> train id or IGNORE; a value not in it is an error.
                   Keys are integers (index masks) or RGB triples (colour masks).
    image_folder   relative folder of a split's images; "{split}" is replaced
    class_weights  loss weights by train id, or None where the data set publishes none
    """

    name: str
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    values: dict
    image_folder: str = ""
    label_folder: str = ""
    class_weights: tuple[float, ...] | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def has_color_masks(self) -> bool:
        return any(isinstance(value, tuple) for value in self.values)

    def palette(self) -> np.ndarray:
        """u8[256,3] RGB by train id; black for IGNORE and unused ids."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self.colors)] = self.colors
        return table


SCENES = DatasetSpec(
    name="scenes",
    classes=scenes.CLASSES,
    colors=scenes.COLORS,
    values={**{i: i for i in range(len(scenes.CLASSES))}, IGNORE: IGNORE},
)

CAMVID = DatasetSpec(
    name="camvid",
    classes=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    colors=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (0, 0, 192),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    values={**{i: i for i in range(11)}, 11: IGNORE, IGNORE: IGNORE},
    image_folder="{split}",
    label_folder="{split}annot",
)


def folder_spec(
    classes: Sequence[str],
    colors: Sequence[Color] = (),
    label_values: Sequence[int] = (),
    ignore_values: Sequence = (IGNORE,),
    image_folder: str = "images/{split}",
    label_folder: str = "labels/{split}",
) -> DatasetSpec:
    """The spec of the user's own folder.

    colors         RGB of each class in colour masks; empty: the masks hold indices
    label_values   raw index of each class; empty: 0, 1, 2, ...
    ignore_values  raw indices (or RGB triples) that count nowhere
    Raises DataError where these disagree.
    """
    _check_folder(classes, colors, label_values)
    keys = [tuple(c) for c in colors] or list(label_values) or list(range(len(classes)))
    values = {key: train_id for train_id, key in enumerate(keys)}
    for value in ignore_values:
        key = tuple(value) if isinstance(value, list | tuple) else value
        if key in values:
            raise DataError(f"data.ignore_values has {key}, which is also the value of class {classes[values[key]]!r}")
        if isinstance(key, tuple) == bool(colors):
            values[key] = IGNORE
    display = tuple(tuple(c) for c in colors) or _distinct_colors(len(classes))
    return DatasetSpec("folder", tuple(classes), display, values, image_folder=image_folder, label_folder=label_folder)


def _check_folder(classes, colors, label_values) -> None:
    if not classes:
        raise DataError("data.classes is empty; data.name='folder' needs the names of the classes in train-id order")
    if len(classes) > IGNORE:
        raise DataError(f"data.classes has {len(classes)} names; at most {IGNORE} are possible in 8-bit masks")
    for name, given in (("classes", classes), ("colors", colors), ("label_values", label_values)):
        if len(set(map(str, given))) != len(given):
            raise DataError(f"data.{name} has the same entry twice: {tuple(given)}")
        if given and len(given) != len(classes):
            raise DataError(f"data.{name} has {len(given)} entries for {len(classes)} classes; one each is needed")
    if colors and label_values:
        raise DataError("data.colors and data.label_values are both set; masks hold colours or indices, not both")


def _distinct_colors(count: int) -> tuple[Color, ...]:
    """Well separated display colours: the bits of the id spread over the high bits of R, G, B (as PASCAL VOC)."""

    def color(index: int) -> Color:
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= (index >> channel & 1) << (7 - bit)
            index >>= 3
        return tuple(rgb)

    return tuple(color(i + 1) for i in range(count))
