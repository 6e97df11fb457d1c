"""The user's own data set, as the config describes it."""

from collections.abc import Sequence

from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.sets.specs import Color, DatasetSpec, distinct_colors


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
    triples: list[Color] = [(red, green, blue) for red, green, blue in colors]
    keys: Sequence[Color | int] = triples or label_values or range(len(classes))
    values = {key: train_id for train_id, key in enumerate(keys)}
    for value in ignore_values:
        if colors and value == IGNORE:  # the default, which means nothing in colour masks
            continue
        key = tuple(value) if isinstance(value, list | tuple) else value
        if key in values:
            raise DataError(f"data.ignore_values has {key}, which is also the value of class {classes[values[key]]!r}")
        values[key] = IGNORE
    display = tuple(triples) or distinct_colors(len(classes))
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
