"""Random access to samples: files in folders, drawn scenes. `array_records` has the third kind.

All are a `samples.Source`; those that ArrayRecords are made of have `stamp(index)` too. `Images` has no labels: the
images of a hidden test.
"""

import functools
import os
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path

import cv2

from ddrnet_jax.data import decode
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.files import read_file
from ddrnet_jax.data.samples import EncodedSample, Sample, decode_sample
from ddrnet_jax.data.scenes import scenes
from ddrnet_jax.data.sets import layouts
from ddrnet_jax.data.sets import scenes as scene_sets
from ddrnet_jax.data.sets.specs import DatasetSpec

_REMEMBERED_BYTES = 64 * 2**20


class FolderPairs:
    """Images and their labels (masks, or class numbers) in the folders of a data set as it is unzipped.

    spec  of the labels as they lie there; CamVid has two forms, of the same classes
    """

    def __init__(self, root: str | Path, split: str, spec: DatasetSpec):
        """
        split  as its folder is called; "train+val" joins two

        Raises DataError if a folder is missing or empty, or an image has no label.
        """
        self.root = root
        self.pairs, self.spec = layouts.find_pairs(root, split, spec)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Sample; raises DataError naming the file if it cannot be read or image and label disagree."""
        return decode_sample(self.encoded(index), self.spec)

    def names(self) -> list[str]:
        """The images' paths, relative to the root."""
        return [os.path.relpath(image, self.root).replace(os.sep, "/") for image, _ in self.pairs]

    def encoded(self, index: int) -> EncodedSample:
        """The bytes of the files; raises DataError naming the one that cannot be read."""
        image, label = self.pairs[index]
        if isinstance(label, int):
            return EncodedSample(read_file(image), label, image, image)
        content, name = self.spec.read_label(image, label)
        return EncodedSample(read_file(image), content, image, name)

    def places(self) -> Iterator[Hashable]:
        """The place of each image; two sources share the images whose places are equal."""
        return (image for image, _ in self.pairs)

    def stamp(self, index: int) -> str:
        """Another text once a file of the sample is another: its size and time, not its bytes; or its class number."""
        return " ".join(str(part) if isinstance(part, int) else _stat_of(part) for part in self.pairs[index])


def _stat_of(path: str) -> str:
    try:
        stat = os.stat(path)
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror})") from e
    return f"{stat.st_size}@{stat.st_mtime_ns}"


class Images:
    """Images alone, without labels."""

    def __init__(self, paths: Sequence[str | Path]):
        self.paths = [str(path) for path in paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        """{"image": u8[H,W,3] RGB, "name"}; raises DataError naming the file if it cannot be read."""
        path = self.paths[index]
        return {"image": decode.decode_image(read_file(path), path), "name": path}


class Scenes:
    """Drawn street scenes; those of different seeds are different scenes. The last 64 MB are remembered."""

    spec = scene_sets.SPEC

    def __init__(self, count: int, seed: int, size_hw: tuple[int, int]):
        self.count, self.seed, self.size_hw = count, seed, tuple(size_hw)
        remembered = max(1, _REMEMBERED_BYTES // (4 * size_hw[0] * size_hw[1]))
        self._draw = functools.lru_cache(remembered)(lambda index: scenes.draw_scene(seed, index, tuple(size_hw)))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """Sample; the same for the same (seed, index). Raises IndexError beyond the last, so that a loop ends."""
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        image, label = self._draw(int(index))
        return Sample(image=image, label=label, name=self._name(index))

    def names(self) -> list[str]:
        """The names of the scenes."""
        return [self._name(index) for index in range(self.count)]

    def encoded(self, index: int) -> EncodedSample:
        """The scene as PNGs, without loss."""
        image, label = self._draw(int(index))
        pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        image_png, label_png = (cv2.imencode(".png", array)[1].tobytes() for array in (pixels, label))
        return EncodedSample(image_png, label_png, self._name(index), self._name(index))

    def places(self) -> Iterator[Hashable]:
        """The identity of each scene; two sources share the scenes that are equal."""
        return ((self.seed, self.size_hw, index) for index in range(self.count))

    def stamp(self, index: int) -> str:
        """Another text for another scene."""
        return f"{self._name(index)} {self.size_hw}"

    def _name(self, index: int) -> str:
        return f"scene_{self.seed}_{index:05d}"


class SceneImages(Scenes):
    """Drawn street scenes with a class number each instead of a mask."""

    spec = scene_sets.IMAGES

    def __getitem__(self, index: int) -> Sample:
        """Sample; the same for the same (seed, index)"""
        sample = super().__getitem__(index)
        return {**sample, "label": scenes.image_class(sample["label"])}

    def encoded(self, index: int) -> EncodedSample:
        """The scene as a PNG, without loss, and its class number."""
        return super().encoded(index)._replace(label=self[index]["label"])
