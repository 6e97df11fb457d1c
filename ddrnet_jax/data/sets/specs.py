"""One DatasetSpec per data set: classes, colours, what raw label values mean, where files lie, class weights."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.scenes import scenes
from ddrnet_jax.data.sets import class_tables

Color = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class HiddenTest:
    """A test split whose labels only a server has.

    images   how many the split has, all of size_hw (pixels)
    """

    split: str
    images: int
    size_hw: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """The meaning of a data set's labels, and where its files lie below the root.

    classes        names by train id
    colors         RGB (0..255) by train id, for pictures
    values         raw label values -> train id or IGNORE; a value not in it is an error.
                   Keys are integers (index masks) or RGB triples (colour masks);
                   empty: a sample has a class number instead of a mask.
    image_folder   relative folder of a split's images; "{split}" is replaced
    class_weights  loss weights by train id, or None where the data set has none
    hidden_test    the split that a test server evaluates, or None
    """

    name: str
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    values: dict
    image_folder: str = ""
    label_folder: str = ""
    class_weights: tuple[float, ...] | None = None
    hidden_test: HiddenTest | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def has_color_masks(self) -> bool:
        return any(isinstance(value, tuple) for value in self.values)

    @property
    def has_masks(self) -> bool:
        return bool(self.values)

    def palette(self) -> np.ndarray:
        """u8[256,3] RGB by train id; black for IGNORE and unused ids."""
        table = np.zeros((256, 3), np.uint8)
        if self.colors:
            table[: len(self.colors)] = self.colors
        return table


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


SCENES = DatasetSpec(
    name="scenes",
    classes=scenes.CLASSES,
    colors=scenes.COLORS,
    values={**{i: i for i in range(len(scenes.CLASSES))}, IGNORE: IGNORE},
)

SCENE_IMAGES = DatasetSpec(name="scenes", classes=scenes.IMAGE_CLASSES, colors=(), values={})

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
    # Median-frequency balancing, counted over the 367 training labels at 480x360.
    class_weights=(0.2794, 0.2018, 4.7889, 0.1491, 1.0, 0.4235, 3.8464, 1.9798, 0.789, 6.3847, 8.8193),
)


# The same classes in the 32 colours of the original 960x720 labels.
CAMVID_COLOR = dataclasses.replace(
    CAMVID,
    values={
        color: IGNORE if group is None else CAMVID.classes.index(group)
        for color, (_, group) in class_tables.CAMVID_COLORS.items()
    },
    image_folder="701_StillsRaw_full",
    label_folder="LabeledApproved_full",
)

_CITYSCAPES_TRAINED = [label for label in class_tables.CITYSCAPES_LABELS if label[2] is not None]

CITYSCAPES = DatasetSpec(
    name="cityscapes",
    classes=tuple(name for _, name, _, _ in _CITYSCAPES_TRAINED),
    colors=tuple(color for _, _, _, color in _CITYSCAPES_TRAINED),
    values={
        **{label: IGNORE if train_id is None else train_id for label, _, train_id, _ in class_tables.CITYSCAPES_LABELS},
        255: IGNORE,  # -1 in eight bits
    },
    class_weights=class_tables.CITYSCAPES_CLASS_WEIGHTS,
    hidden_test=HiddenTest("test", images=1525, size_hw=(1024, 2048)),
)


def _coco_stuff(name: str, first_label: int, unlabelled: int) -> DatasetSpec:
    """first_label: what the files of this release call label 1."""
    labels = enumerate(class_tables.COCO_STUFF_LABELS, start=1)
    used = {label: title for label, title in labels if label not in class_tables.COCO_STUFF_UNUSED}
    return DatasetSpec(
        name=name,
        classes=tuple(used.values()),
        colors=_distinct_colors(len(used)),
        values={
            unlabelled: IGNORE,
            **{label - 1 + first_label: IGNORE for label in class_tables.COCO_STUFF_UNUSED},
            **{label - 1 + first_label: train_id for train_id, label in enumerate(used)},
        },
    )


COCO_STUFF_10K = _coco_stuff("coco_stuff_10k", first_label=1, unlabelled=0)
COCO_STUFF_164K = _coco_stuff("coco_stuff_164k", first_label=0, unlabelled=255)


def imagenet_spec(classes: Sequence[str] = ()) -> DatasetSpec:
    """Image classes instead of masks.

    classes  the folders' names in the order of the class numbers; empty: ImageNet's 1000 folders in their own order
    Raises DataError if a class is named twice.
    """
    if len(set(classes)) != len(classes):
        raise DataError(f"data.classes has the same entry twice: {tuple(classes)}")
    return DatasetSpec("imagenet", tuple(classes) or IMAGENET_CLASSES, colors=(), values={})


IMAGENET_CLASSES = tuple(f"class {i}" for i in range(1000))
IMAGENET = imagenet_spec()

SPECS = {s.name: s for s in (SCENES, CAMVID, CITYSCAPES, COCO_STUFF_10K, COCO_STUFF_164K, IMAGENET)}


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
    _check_folder(classes, colors, label_values, ignore_values, image_folder, label_folder)
    keys = [tuple(c) for c in colors] or list(label_values) or list(range(len(classes)))
    values = {key: train_id for train_id, key in enumerate(keys)}
    for value in ignore_values:
        if colors and value == IGNORE:  # the default, which means nothing in colour masks
            continue
        key = tuple(value) if isinstance(value, list | tuple) else value
        if key in values:
            raise DataError(f"data.ignore_values has {key}, which is also the value of class {classes[values[key]]!r}")
        values[key] = IGNORE
    display = tuple(tuple(c) for c in colors) or _distinct_colors(len(classes))
    return DatasetSpec("folder", tuple(classes), display, values, image_folder=image_folder, label_folder=label_folder)


def _check_folder(classes, colors, label_values, ignore_values, image_folder, label_folder) -> None:
    if not classes:
        raise DataError("data.classes is empty; data.name='folder' needs the names of the classes in train-id order")
    if len(classes) > IGNORE:
        raise DataError(f"data.classes has {len(classes)} names; at most {IGNORE} are possible in 8-bit masks")
    if colors and label_values:
        raise DataError("data.colors and data.label_values are both set; masks hold colours or indices, not both")
    is_value, kind = (_is_color, "RGB triples of 0..255") if colors else (_is_index, "integers of 0..255")
    checks = (
        ("classes", classes, lambda c: isinstance(c, str) and c, "names"),
        ("colors", colors, _is_color, "RGB triples of 0..255"),
        ("label_values", label_values, _is_index, "integers of 0..255"),
        ("ignore_values", [v for v in ignore_values if v != IGNORE], is_value, kind),
    )
    for name, given, is_valid, expected in checks:
        wrong = [entry for entry in given if not is_valid(entry)]
        if wrong:
            raise DataError(f"data.{name} has {wrong[0]!r}; expected {expected}")
        keys = [tuple(entry) if isinstance(entry, list | tuple) else entry for entry in given]
        if len(set(keys)) != len(keys):
            raise DataError(f"data.{name} has the same entry twice: {tuple(given)}")
        if name in ("colors", "label_values") and given and len(given) != len(classes):
            raise DataError(f"data.{name} has {len(given)} entries for {len(classes)} classes; one each is needed")
    for name, pattern in (("images", image_folder), ("labels", label_folder)):
        if pattern.replace("{split}", "").count("{") or pattern.replace("{split}", "").count("}"):
            raise DataError(f"data.{name} is {pattern!r}; the only placeholder is {{split}}")
    if len(classes) == 1:  # a softmax over one class is certain from the start: loss 0, mIoU 100 %
        given = repr(classes[0])
        raise DataError(f"data.classes has only {given}: name what is left of the image too, ('background', {given})")


def _is_index(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _is_color(value) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_index, value))
