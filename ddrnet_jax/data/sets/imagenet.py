"""ImageNet, or other classes of images in one folder each."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from ddrnet_jax.data import files
from ddrnet_jax.data.errors import DataError, first_few
from ddrnet_jax.data.sets.specs import DatasetSpec, Pair

CLASSES = tuple(f"class {i}" for i in range(1000))


class ImageNet(DatasetSpec):
    """A folder a split, and in it one a class."""

    def find_pairs(self, root: Path, split: str) -> list[Pair]:
        """The images of every class's folder, with its number."""
        folder = files.require_folder(root / split, f"the class folders of split {split!r}")
        names = files.subfolders(folder)
        pairs: list[Pair] = [
            (os.path.join(folder, name, file), number)
            for name, number in _class_numbers(folder, names, self.classes).items()
            for file in sorted(os.listdir(folder / name))
            if files.is_image(file)
        ]
        files.require_some(pairs, folder, "CLASS/*.JPEG")
        return pairs

    def of_files(self, root: Path, splits: list[str]) -> DatasetSpec:
        """With the names of ImageNet's own folders, where the config names none."""
        return dataclasses.replace(self, classes=_classes_in(root, splits)) if self.classes == CLASSES else self


def _classes_in(root: Path, parts: list[str]) -> tuple[str, ...]:
    """ImageNet's 1000 folders in their own order. Raises DataError if one part has others than the first."""
    first: tuple[str, ...] = ()
    for part in parts:
        folder = files.require_folder(root / part, f"the class folders of split {part!r}")
        names = tuple(files.subfolders(folder))
        if len(names) != len(CLASSES):
            raise DataError(
                f"{folder}: has {len(names)} class folders, ImageNet has {len(CLASSES)}; sort the images into "
                "one folder a class (n01440764, ...), or name your own classes in data.classes"
            )
        first = first or names
        odd = sorted(set(names) ^ set(first))
        if odd:
            raise DataError(
                f"{folder}: its class folders are not those of {root / parts[0]}, only one has {first_few(odd)}; the "
                "order of the folders numbers the classes, so they must be the same"
            )
    return first


def _class_numbers(folder: Path, names: list[str], classes: tuple[str, ...]) -> dict[str, int]:
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = [name for name in names if name not in numbers]
    if unknown:
        raise DataError(f"{folder / unknown[0]}: this folder is no class of data.classes; add it there or move it away")
    absent = [name for name in classes if name not in names]
    if absent:
        raise DataError(f"{folder / absent[0]}: no such folder, expected the images of a class of data.classes")
    return {name: numbers[name] for name in names}


def imagenet_spec(classes: Sequence[str] = ()) -> DatasetSpec:
    """Image classes instead of masks.

    classes  the folders' names in the order of the class numbers; empty: ImageNet's 1000 folders in their own order
    Raises DataError if a class is named twice.
    """
    if len(set(classes)) != len(classes):
        raise DataError(f"data.classes has the same entry twice: {tuple(classes)}")
    return ImageNet("imagenet", tuple(classes) or CLASSES, colors=(), values={})


SPEC = imagenet_spec()
