"""A data set: its classes and colours, the meaning of its raw label values, the place of its files."""

import dataclasses
from pathlib import Path

import numpy as np

from ddrnet_jax.data import files
from ddrnet_jax.data.errors import Pair

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

    A data set whose images and labels do not have equal stems overrides `find_pairs`.

    classes        names by train id
    colors         RGB (0..255) by train id, for pictures
    values         raw label values -> train id or IGNORE; a value not in it is an error.
                   Keys are integers (index masks), RGB triples (colour masks), or names (polygons in JSON);
                   empty: a sample has a class number instead of a mask.
    image_folder   relative folder of a split's images; "{split}" is replaced
    value_range    raw (low, high) that become 0 and 255, of images of more than 8 bits; (): all 16 bits
    class_weights  loss weights by train id, or None where the data set has none
    hidden_test    the split that a test server evaluates, or None
    """

    name: str
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    values: dict
    image_folder: str = ""
    label_folder: str = ""
    value_range: tuple[float, ...] = ()
    class_weights: tuple[float, ...] | None = None
    hidden_test: HiddenTest | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def has_color_masks(self) -> bool:
        return any(isinstance(value, tuple) for value in self.values)

    @property
    def has_polygons(self) -> bool:
        return any(isinstance(value, str) for value in self.values)

    @property
    def has_masks(self) -> bool:
        return bool(self.values)

    def palette(self) -> np.ndarray:
        """u8[256,3] RGB by train id; black for IGNORE and unused ids."""
        table = np.zeros((256, 3), np.uint8)
        if self.colors:
            table[: len(self.colors)] = self.colors
        return table

    def find_pairs(self, root: Path, split: str) -> list[Pair]:
        """The samples of one split, in order: here images and labels of equal stems.

        Raises DataError if a folder is missing or empty, MissingLabels if images have no label.
        """
        label_folder = root / self.label_folder.format(split=split)
        images = files.files_by_stem(root / self.image_folder.format(split=split), f"images of split {split!r}")
        labels = files.files_by_stem(label_folder, f"labels of split {split!r}")
        return files.require_labels(
            ((images[stem], labels.get(stem, label_folder / f"{stem}.png")) for stem in sorted(images)),
            "add the labels or remove the images; stems must be equal",
        )

    def read_label(self, image: str, label: str) -> tuple[bytes, str]:
        """The bytes of an image's label, and what to call it. Raises DataError if they cannot be read."""
        return files.read_file(label), label

    def misnamed(self, values: frozenset[int]) -> str:
        """The kind of label that these raw values betray, if not the one of its name; "" where nothing is wrong."""
        return ""

    def of_files(self, root: Path, splits: list[str]) -> "DatasetSpec":
        """The spec that the files below a root follow, where there are several forms of one data set."""
        return self


def distinct_colors(count: int) -> tuple[Color, ...]:
    """Well separated display colours: the bits of the id spread over the high bits of R, G, B (as PASCAL VOC)."""

    def color(index: int) -> Color:
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= (index >> channel & 1) << (7 - bit)
            index >>= 3
        red, green, blue = rgb
        return red, green, blue

    return tuple(color(i + 1) for i in range(count))
