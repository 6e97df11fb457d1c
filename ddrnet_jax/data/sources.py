"""Random access to samples: folders of image and label files, drawn scenes."""

import functools
from pathlib import Path
from typing import TypedDict

import numpy as np

from ddrnet_jax.data import decode, scenes
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.specs import DatasetSpec

IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm"))

_REMEMBERED_BYTES = 64 * 2**20


class Sample(TypedDict):
    """One decoded sample.

    image  u8[H,W,3] RGB
    label  u8[H,W] train ids (0..C-1 or 255)
    name   what to call it in messages
    """

    image: np.ndarray
    label: np.ndarray
    name: str


class FolderPairs:
    """Images and labels of equal stem in two folders, in the order of their names."""

    def __init__(self, root: str | Path, split: str, spec: DatasetSpec):
        """Raises DataError if a folder is missing or empty, or an image has no label."""
        self.spec = spec
        image_folder = Path(root) / spec.image_folder.format(split=split)
        label_folder = Path(root) / spec.label_folder.format(split=split)
        images = files_by_stem(image_folder, f"images of split {split!r}")
        labels = files_by_stem(label_folder, f"labels of split {split!r}")
        missing = sorted(images.keys() - labels.keys())
        if missing:
            raise DataError(
                f"{len(missing)} of {len(images)} images have no label, first {images[missing[0]]}; "
                f"expected {label_folder / missing[0]}.png: add the labels or remove the images"
            )
        self.pairs = [(images[stem], labels[stem]) for stem in sorted(images)]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Sample; raises DataError naming the file if it cannot be read or image and label disagree."""
        image_path, label_path = self.pairs[index]
        image = decode.decode_image(read_file(image_path), str(image_path))
        label = decode.decode_label(read_file(label_path), str(label_path), self.spec)
        decode.check_pair(image, label, str(label_path))
        return Sample(image=image, label=label, name=str(image_path))


class Scenes:
    """Drawn street scenes; those of different seeds are different scenes. The last 64 MB are remembered."""

    def __init__(self, count: int, seed: int, size_hw: tuple[int, int]):
        self.count, self.seed = count, seed
        remembered = max(1, _REMEMBERED_BYTES // (4 * size_hw[0] * size_hw[1]))
        self._draw = functools.lru_cache(remembered)(lambda index: scenes.draw_scene(seed, index, tuple(size_hw)))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """Sample; the same for the same (seed, index)"""
        image, label = self._draw(int(index))
        return Sample(image=image, label=label, name=f"scene_{self.seed}_{index:05d}")


def files_by_stem(folder: Path, what: str) -> dict[str, Path]:
    """{stem: path} of the image files in a folder.

    Raises DataError if the folder is missing, holds no image, or two images of one stem.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, expected the {what}; check data.root and the splits")
    paths: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in paths:
            raise DataError(f"{path} and {paths[path.stem].name} have the same stem; one of them must go")
        paths[path.stem] = path
    if not paths:
        raise DataError(f"{folder}: no images here ({', '.join(sorted(IMAGE_SUFFIXES))}), expected the {what}")
    return paths


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises DataError naming it if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror})") from e
