"""Samples of the user's own, from any object or iterable, checked as they are read."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.samples import Sample
from ddrnet_jax.data.sets.specs import DatasetSpec


class OwnSamples:
    """A user's object with `__len__` and `__getitem__` as a `Source`."""

    def __init__(self, samples: Any, spec: DatasetSpec):
        """Raises DataError if it is no such object, or empty."""
        if not (hasattr(samples, "__len__") and hasattr(samples, "__getitem__")):
            kind = type(samples).__name__
            raise DataError(f"a source of type {kind} given, expected an object with __len__ and __getitem__")
        if not len(samples):
            raise DataError("a source without samples given")
        self._samples, self.spec = samples, getattr(samples, "spec", spec)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        """Sample; raises DataError that names it if it cannot be read or is none."""
        try:
            given = self._samples[int(index)]
        except Exception as e:  # whatever the user's own code may raise
            raise DataError(f"sample {index}: cannot be read ({type(e).__name__}: {e})") from e
        return as_sample(given, int(index), num_classes=self.spec.num_classes, has_masks=self.spec.has_masks)

    def names(self) -> list[str]:
        """The samples' names in messages."""
        own = getattr(self._samples, "names", None)
        return own() if callable(own) else [f"sample {index}" for index in range(len(self))]

    def places(self) -> Iterator:
        """The place of each sample; two sources share those that are equal, and nothing is known of these."""
        own = getattr(self._samples, "places", None)
        return own() if callable(own) else ((id(self._samples), index) for index in range(len(self)))


def as_sample(given: Any, index: int, *, num_classes: int, has_masks: bool = True) -> Sample:
    """The Sample of {"image", "label"} or (image, label), named by its number.

    image     u8[H,W,3] RGB
    label     of whole numbers [H,W] (0..C-1, or 255 or -1: ignored); without masks the class number (0..C-1)
    Raises    DataError if it is neither.
    """
    name = f"sample {index}"
    if isinstance(given, dict):
        name = str(given.get("name", name))
        given = given.get("image"), given.get("label")
    if not (isinstance(given, tuple | list) and len(given) == 2):
        raise DataError(f'{name}: {type(given).__name__} given, expected {{"image", "label"}} or (image, label)')
    image, label = map(np.asarray, given)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise DataError(f"{name}: image of {image.dtype}{list(image.shape)} given, expected RGB as u8[H,W,3]")
    shape = image.shape[:2] if has_masks else ()
    if label.shape != shape or not np.issubdtype(label.dtype, np.integer):
        kind = f"train ids (or 255) as u8{list(shape)}" if has_masks else "a class number"
        raise DataError(f"{name}: label of {label.dtype}{list(label.shape)} given, expected {kind}")
    is_ignored = (label == IGNORE) | (label == -1) if has_masks else np.False_
    wrong = label[~is_ignored & ((label < 0) | (label >= num_classes))]
    if wrong.size:
        ignored = f", or {IGNORE} where a pixel counts nowhere" if has_masks else ""
        raise DataError(f"{name}: the label has {wrong.flat[0]}, expected 0..{num_classes - 1}{ignored}")
    if not has_masks:
        return Sample(image=image, label=int(label), name=name)
    return Sample(image=image, label=np.where(is_ignored, IGNORE, label).astype(np.uint8), name=name)
