"""Images of an evaluation that are worth looking at, chosen while it runs."""

import os
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from ddrnet_jax.data.samples import Sample
from ddrnet_jax.evaluation.metrics import scores

_EACH = 4  # of the worst and of the best
_FIRST = 3


class Seen(NamedTuple):
    """One evaluated image.

    miou   of this image alone (0..1)
    iou    f64[C] (0..1), nan where a class is absent from its label and prediction
    image  u8[H,W,3] RGB, label u8[H,W] (0..C-1 or 255), prediction u8[H,W] (0..C-1)
    """

    name: str
    miou: float
    iou: np.ndarray
    image: np.ndarray
    label: np.ndarray
    prediction: np.ndarray


def short_name(name: str, root: str) -> str:
    """The name below the data set's root."""
    name, root = os.path.normpath(name), os.path.normpath(root) if root else ""
    is_below = root and name.startswith(f"{root.rstrip(os.sep)}{os.sep}")
    return os.path.relpath(name, root).replace(os.sep, "/") if is_below else name


class Gallery:
    """Watches an evaluation and keeps its worst, its best, its first and the asked-for images; see evaluate.Watch.

    Images without a labelled pixel are shown among the first, but say nothing about worst and best.
    """

    def __init__(self, also: Collection[str] = (), root: str = ""):
        """
        also  short names of images to keep whatever their scores
        root  of the data set, which the short names are below
        """
        self._also, self._root = set(also), root
        self.clear()

    def clear(self) -> None:
        """Forget what was seen: another evaluation begins."""
        self.mious: dict[str, float] = {}  # of every image with a labelled pixel
        self.first: list[Seen] = []
        self.by_name: dict[str, Seen] = {}  # those asked for, by their short names
        self._worst: list[Seen] = []
        self._best: list[Seen] = []

    def __call__(self, sample: Sample, counts: np.ndarray, prediction: np.ndarray) -> None:
        """See one image: its sample, its confusion i32[C,C], its prediction u8[H,W] (0..C-1)."""
        of_image = scores(counts)
        seen = Seen(sample["name"], of_image.miou, of_image.iou, sample["image"], sample["label"], prediction.copy())
        if len(self.first) < _FIRST:
            self.first.append(seen)
        name = short_name(seen.name, self._root)
        if name in self._also:
            self.by_name[name] = seen
        if counts.any():
            self.mious[seen.name] = seen.miou
            self._worst = sorted([*self._worst, seen], key=lambda s: s.miou)[:_EACH]
            # Of equal ones the later first, so that none of few is among the worst as well.
            self._best = sorted([seen, *self._best], key=lambda s: -s.miou)[:_EACH]

    @property
    def worst(self) -> list[Seen]:
        """The worst first; with few images the worse half of them."""
        return self._worst[: (len(self.mious) + 1) // 2]

    @property
    def best(self) -> list[Seen]:
        """The best first; none that is among the worst."""
        return self._best[: len(self.mious) // 2]
