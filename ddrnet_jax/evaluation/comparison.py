"""Masks that anything predicts, counted as every evaluation counts; and two predictions of the same images."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import cv2
import numpy as np

from ddrnet_jax.data.samples import Sample
from ddrnet_jax.evaluation import metrics

Predict = Callable[[np.ndarray], np.ndarray]  # u8[H,W,3] RGB -> u8[H,W] train ids
_NEAR_PIXELS = 4  # half a cell of the network's logits
_MOST_LINES = 8


def scores_of_masks(predict: Predict, samples: Iterable[Sample], num_classes: int) -> metrics.Scores:
    """Scores of what is predicted for samples."""
    counts = _Counts(num_classes)
    for sample in samples:
        counts.add(sample["label"], predict(sample["image"]))
    return counts.scores()


def compare(first: Predict, second: Predict, samples: Iterable[Sample], num_classes: int) -> "Comparison":
    """Both predictions of every sample, beside its label and beside each other."""
    counts, near, differing = [_Counts(num_classes) for _ in range(3)], 0, dict[str, int]()
    for sample in samples:
        masks = first(sample["image"]), second(sample["image"])
        for count, pair in zip(counts, ((sample["label"], masks[0]), (sample["label"], masks[1]), masks), strict=True):
            count.add(*pair)
        differ = masks[0] != masks[1]
        near += int((differ & _near_borders(masks[0])).sum())
        differing[sample["name"]] = int(differ.sum())
    of_first, of_second, of_both = (count.scores() for count in counts)
    return Comparison(of_first, of_second, of_both.confusion, differing, near)


class _Counts:
    """Confusion counts, summed over images."""

    def __init__(self, num_classes: int):
        self._total = np.zeros((num_classes, num_classes), np.int64)

    def add(self, label: np.ndarray, mask: np.ndarray) -> None:
        label, mask = np.asarray(label, np.int32), np.asarray(mask, np.int32)
        self._total += np.asarray(metrics.confusion(label, mask, len(self._total)))

    def scores(self) -> metrics.Scores:
        return metrics.scores(self._total)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two predictions of the same images.

    scores, other    on the labelled pixels
    pairs            i64[C,C], pixels by the class of the first (rows) and of the second, labelled or not
    differing_in     {name of an image: pixels that differ}
    near_borders     how many of all that differ have another class of the first's within 4 pixels
    """

    scores: metrics.Scores
    other: metrics.Scores
    pairs: np.ndarray
    differing_in: dict[str, int]
    near_borders: int

    @property
    def differing(self) -> int:
        """Pixels of all images that differ."""
        return int(self.pairs.sum() - np.trace(self.pairs))

    def lines(self, classes: tuple[str, ...]) -> list[str]:
        """For people."""
        first, second = 100 * self.scores.miou, 100 * self.other.miou
        lines = [f"mIoU {first:.2f}, of the other {second:.2f}, {second - first:+.2f}"]
        lines.append(f"{self.differing} of {self.pairs.sum()} pixels differ, {self.differing / self.pairs.sum():.3%}")
        if not self.differing:
            return lines
        near = self.near_borders / self.differing
        lines.append(f"{near:.0%} of them within {_NEAR_PIXELS} pixels of a border between classes")
        return [*lines, *self._pair_lines(classes), *self._image_lines()]

    def _pair_lines(self, classes: tuple[str, ...]) -> Iterator[str]:
        off_diagonal = self.pairs * (1 - np.eye(len(classes), dtype=np.int64))
        for place in np.argsort(-off_diagonal, axis=None)[:_MOST_LINES]:
            first, second = divmod(int(place), len(classes))
            if off_diagonal[first, second]:
                yield f"  {off_diagonal[first, second]:>9}  {classes[first]} -> {classes[second]}"

    def _image_lines(self) -> Iterator[str]:
        yield "most of them in"
        for name in sorted(self.differing_in, key=lambda name: -self.differing_in[name])[:_MOST_LINES]:
            if self.differing_in[name]:
                yield f"  {self.differing_in[name]:>9}  {name}"


def _near_borders(mask: np.ndarray) -> np.ndarray:
    window = np.ones((2 * _NEAR_PIXELS + 1, 2 * _NEAR_PIXELS + 1), np.uint8)
    return cv2.dilate(mask, window) != cv2.erode(mask, window)
