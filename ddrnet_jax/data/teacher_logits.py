"""The logits that a teacher of any framework has left in a folder, and those of a crop."""

from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.samples import EncodedSample, Sample, Source

LOGITS = "teacher_logits"  # in a batch, those of its crops
_NOWHERE = -1e4  # of padding: no class of the teacher is there


class Window(NamedTuple):
    """Where a crop lies: the size of the scaled image, the crop's (top, left) in it, mirrored or not."""

    scaled_hw: tuple[int, ...]
    offset_yx: tuple[int, ...]
    is_flipped: bool


def is_folder_of_logits(path: str | Path) -> bool:
    """True of a folder with .npy files, which no checkpoint has at its top."""
    return Path(path).is_dir() and any(Path(path).glob("*.npy"))


class WithLogits:
    """A source whose samples have the teacher's logits too, f32[ceil(H/8),ceil(W/8),C] of FOLDER/<stem>.npy."""

    def __init__(self, source: Source, folder: str | Path):
        """Raises DataError that names the first image without a file, or two images of one."""
        self._source, self._folder, self.spec = source, Path(folder), source.spec
        there = {path.stem for path in self._folder.glob("*.npy")}
        of: dict[str, str] = {}
        for name in source.names():
            if of.setdefault(Path(name).stem, name) != name:
                raise DataError(
                    f"{self._folder}: {of[Path(name).stem]} and {name} would share {Path(name).stem}.npy; give images "
                    "names of their own, or a network as the teacher"
                )
        missing = [name for name in of.values() if Path(name).stem not in there]
        if missing:
            wanted = self._folder / f"{Path(missing[0]).stem}.npy"
            raise DataError(f"{wanted}: no such file; {len(missing)} of {len(source)} images have no logits there")

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        """Sample; raises DataError naming the file whose logits are not those of the image."""
        sample = self._source[index]
        path = self._folder / f"{Path(sample['name']).stem}.npy"
        try:
            logits = np.load(path, allow_pickle=False)
            if not isinstance(logits, np.ndarray):
                raise ValueError("an archive of arrays, .npz")
        except (OSError, ValueError, EOFError, MemoryError) as e:
            raise DataError(f"{path}: cannot be read as an array ({e})") from e
        expected = (*(-(-n // 8) for n in sample["image"].shape[:2]), self.spec.num_classes)
        if logits.shape != expected or logits.dtype not in (np.float16, np.float32):
            raise DataError(
                f"{path}: {logits.dtype}{list(logits.shape)} given, expected float16 or float32 logits "
                f"{list(expected)}: an eighth of {sample['name']}, and its classes last"
            )
        if not np.isfinite(logits).all():
            raise DataError(f"{path}: has logits that are not finite; of a class that is nowhere give -1e4")
        return {**sample, "teacher_logits": logits.astype(np.float32)}

    def names(self) -> list[str]:
        """The names of the images."""
        return self._source.names()

    def encoded(self, index: int) -> EncodedSample:
        """The sample as it is stored, without logits."""
        return self._source.encoded(index)

    def places(self) -> Iterator[Hashable]:
        """The place of each image."""
        return self._source.places()


def logits_in_window(
    logits: np.ndarray, image_hw: tuple[int, ...], window: Window, crop_hw: tuple[int, ...]
) -> np.ndarray:
    """The logits at the centres of a crop's 8x8 cells, bilinear between those of the image's cells.

    logits   f32[ceil(H/8),ceil(W/8),C] of an image of H x W
    Returns  f32[h/8,w/8,C]; -1e4 where the crop is padding
    """
    for axis, (size, new, offset, crop) in enumerate(
        zip(image_hw, window.scaled_hw, window.offset_yx, crop_hw, strict=True)
    ):
        centres = offset + 8 * np.arange(crop // 8) + 4.0  # pixels of the scaled image
        place = np.clip(centres * size / new / 8 - 0.5, 0, logits.shape[axis] - 1)
        below = np.minimum(place.astype(np.int64), max(logits.shape[axis] - 2, 0))
        share = (place - below).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
        above = np.minimum(below + 1, logits.shape[axis] - 1)
        taken = logits.take(below, axis) * (1 - share) + logits.take(above, axis) * share
        is_padding = (centres >= new).reshape(share.shape)
        logits = np.where(is_padding, np.float32(_NOWHERE), taken)
    return np.ascontiguousarray(logits[:, ::-1] if window.is_flipped else logits)
