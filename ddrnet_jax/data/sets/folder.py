"""The user's own data set, as the config describes it."""

import dataclasses
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from ddrnet_jax.data import files, polygons
from ddrnet_jax.data.errors import DataError, first_few
from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.sets import coco_json, patterns
from ddrnet_jax.data.sets.specs import Color, DatasetSpec, Pair, distinct_colors

_Found = tuple[str, Path, Path]  # stem, image, label


@dataclasses.dataclass(frozen=True)
class Folder(DatasetSpec):
    """Images and labels that patterns pair; a split is a folder, a list, or a share.

    image_folder, label_folder  patterns; a label pattern without {stem} that ends in .json is one file in COCO's form
    lists     pattern of the text files that name a split's images; "": all that are there
    val_share share of the images that split `val_split` has, every other split has the rest; 0: all are in each
    """

    lists: str = ""
    val_share: float = 0.0
    val_split: str = "val"

    @property
    def has_one_label_file(self) -> bool:
        """True if the labels of a split are one file in COCO's form."""
        return self.label_folder.endswith(".json") and "{stem}" not in self.label_folder

    def find_pairs(self, root: Path, split: str) -> list[Pair]:
        """Images and labels of equal stems, those of the split's list, or of its share."""
        found = list(self._listed(root, split) if self.lists else self._paired(root, split))
        if self.val_share:
            found = self._of_share(found, split)
        advice = f"add the labels or remove the images; data.labels is {self.label_folder!r}, so stems must be equal"
        return files.require_labels(((image, label) for _, image, label in found), advice)

    def read_label(self, image: str, label: str) -> tuple[bytes, str]:
        """The bytes of a label's file, or of the part of one that is about the image; and a name."""
        if self.has_one_label_file:
            return coco_json.label_of(label, image), f"{label}#{os.path.basename(image)}"
        return super().read_label(image, label)

    def _paired(self, root: Path, split: str) -> Iterator[_Found]:
        images = patterns.find(root, self.image_folder, split, f"images of split {split!r}")
        if self.has_one_label_file:
            yield from self._in_one_file(root / self.label_folder.replace("{split}", split), images)
            return
        labels = patterns.find(root, self.label_folder, split, f"labels of split {split!r}")
        are_labels = set(labels.values())
        images = {stem: image for stem, image in images.items() if image not in are_labels}
        if not images:
            raise DataError(
                f"{root}: images and labels of split {split!r} are the same files; "
                "tell their names apart, as in data.labels = '{split}/{stem}_mask.png'"
            )
        for stem, image in images.items():
            yield stem, image, labels.get(stem) or patterns.path_of(root, self.label_folder, split, stem)

    def _in_one_file(self, path: Path, images: dict[str, Path]) -> Iterator[_Found]:
        """The images that a file in COCO's form names; others lack a label, unless such files tell the splits apart."""
        is_list = "{split}" in self.label_folder and "{split}" not in self.image_folder
        named = {stem for stem, image in images.items() if coco_json.has_image(str(path), str(image))}
        expected = len(coco_json.image_names(str(path)))
        if len(named) != expected:
            there = f"{len(named)} of them are there by data.images = {self.image_folder!r}"
            raise DataError(f"{path}: names {expected} images, but {there}; copy the images again, or export it again")
        for stem, image in images.items():
            if stem in named:
                yield stem, image, path
            elif not is_list:
                yield stem, image, path.with_name(f"{path.name}#{image.name}")

    def _listed(self, root: Path, split: str) -> Iterator[_Found]:
        """The samples that the lines of a list name: a stem, an image, or an image and its label."""
        path = root / self.lists.replace("{split}", split)
        if not path.is_file():
            there = files.contents(path.parent, str(path.parent)) if path.parent.is_dir() else "nor is its folder there"
            raise DataError(f"{path}: no such file, expected the list of split {split!r}; {there}")
        lines = list_lines(path)
        files.require_some(lines, path, "names of images")
        if both := two_files(root, lines):
            yield from ((image, root / image, root / label) for image, label in both)
            return
        known = {key: found for found in self._paired(root, split) for key in _names_of(root, *found[:2])}
        names = [unicodedata.normalize("NFC", line.removeprefix("./").lstrip("/")) for line in lines]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise DataError(
                f"{path}: names {first_few(unknown)}, but there is no such image by data.images = "
                f"{self.image_folder!r}; {len(unknown)} of {len(lines)} are missing"
            )
        yield from (known[name] for name in names)

    def _of_share(self, found: list[_Found], split: str) -> list[_Found]:
        """The samples of a split whose names say so: none changes its split when others come or go."""
        marks = [_mark(stem) for stem, _, _ in found]
        if not min(marks) < self.val_share <= max(marks):
            side = f"at least {min(marks) + 0.001:.3f}" if min(marks) >= self.val_share else f"below {max(marks):.3f}"
            raise DataError(
                f"data.val_share = {self.val_share} leaves one side of {len(found)} images empty: set it {side}, "
                "or use lists (data.lists)"
            )
        is_held_out = split == self.val_split
        return [one for one, mark in zip(found, marks, strict=True) if (mark < self.val_share) == is_held_out]


def list_lines(path: Path) -> list[str]:
    """The lines of a list of images, without empty ones and comments. Raises DataError."""
    text = files.read_file(path).decode("utf-8-sig", errors="surrogateescape")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def two_files(root: Path, lines: Sequence[str]) -> list[tuple[str, str]]:
    """(image, label) below the root where every line of a list names both, as PaddleSeg's do; else nothing."""
    rows = [[part.lstrip("/") for part in re.split(r"[\s,;]+", line)] for line in lines]
    if any(len(row) != 2 for row in rows) or not all((root / part).is_file() for part in rows[0]):
        return []
    return [(image, label) for image, label in rows]


def _names_of(root: Path, stem: str, image: Path) -> tuple[str, ...]:
    """The names that a list may give an image: with its suffix or without, from its folder or from the root."""
    path = unicodedata.normalize("NFC", os.path.relpath(image, root).replace(os.sep, "/"))
    return stem, stem + image.suffix, path, os.path.splitext(path)[0]


def _mark(stem: str) -> float:
    """0..1 by an image's name alone."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(stem), digest_size=8).digest(), "big") / 2**64


def folder_spec(
    classes: Sequence[str],
    colors: Sequence[Color] = (),
    label_values: Sequence[int] = (),
    ignore_values: Sequence = (IGNORE,),
    image_folder: str = "images/{split}",
    label_folder: str = "labels/{split}",
    lists: str = "",
    val_share: float = 0.0,
    val_split: str = "val",
) -> Folder:
    """The spec of the user's own folder.

    colors         RGB of each class in colour masks; empty: the masks hold indices
    label_values   raw index of each class; empty: 0, 1, 2, ...
    ignore_values  raw indices (or RGB triples, or names in JSON) that count nowhere
    Raises DataError where these disagree.
    """
    _check_patterns({"images": image_folder, "labels": label_folder, "lists": lists}, val_share)
    has_names = label_folder.endswith(".json")
    _check_folder(classes, colors, label_values, ignore_values, has_names=has_names)
    triples: list[Color] = [(red, green, blue) for red, green, blue in colors]
    keys: Sequence[Color | int | str] = triples or label_values or (classes if has_names else range(len(classes)))
    values = {key: train_id for train_id, key in enumerate(keys)}
    for value in (*ignore_values, polygons.IGNORED_NAME) if has_names else ignore_values:
        if (colors or has_names) and value == IGNORE:  # the default, which means nothing there
            continue
        key = tuple(value) if isinstance(value, list | tuple) else value
        if key in values:
            raise DataError(f"data.ignore_values has {key}, which is also the value of class {classes[values[key]]!r}")
        values[key] = IGNORE
    display = tuple(triples) or distinct_colors(len(classes))
    return Folder(
        "folder",
        tuple(classes),
        display,
        values,
        image_folder=image_folder,
        label_folder=label_folder,
        lists=lists,
        val_share=val_share,
        val_split=val_split,
    )


def _check_patterns(patterns_by_key: dict[str, str], val_share: float) -> None:
    for name, pattern in patterns_by_key.items():
        rest = pattern.replace("{split}", "").replace("{stem}", "", 0 if name == "lists" else 1)
        if "{" in rest or "}" in rest:
            expected = "{split}" if name == "lists" else "{split}, and {stem} once"
            raise DataError(f"data.{name} is {pattern!r}; the only placeholder is {expected}")
        if val_share and "{split}" in pattern:
            raise DataError(
                f"data.{name} is {pattern!r} and data.val_share {val_share}: a share is held out of one folder or "
                "list; name it without {split}, or set data.val_share = 0.0"
            )


def _check_folder(classes, colors, label_values, ignore_values, *, has_names: bool) -> None:
    if not classes:
        raise DataError("data.classes is empty; data.name='folder' needs the names of the classes in train-id order")
    if len(classes) > IGNORE:
        raise DataError(f"data.classes has {len(classes)} names; at most {IGNORE} are possible in 8-bit masks")
    if colors and label_values:
        raise DataError("data.colors and data.label_values are both set; masks hold colours or indices, not both")
    if has_names and (colors or label_values):
        raise DataError("data.labels is JSON, which names its classes: data.colors and data.label_values must be ()")
    is_value, kind = (_is_color, "RGB triples of 0..255") if colors else (_is_index, "integers of 0..255")
    if has_names:
        is_value, kind = _is_name, "names of classes"
    checks = (
        ("classes", classes, _is_name, "names"),
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
    if len(classes) == 1:  # a softmax over one class is certain from the start: loss 0, mIoU 100 %
        given = repr(classes[0])
        raise DataError(f"data.classes has only {given}: name what is left of the image too, ('background', {given})")


def _is_name(value) -> bool:
    return isinstance(value, str) and bool(value)


def _is_index(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _is_color(value) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_index, value))
