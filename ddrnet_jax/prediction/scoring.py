"""mIoU of any engine or exported file, by the images and counter of every evaluation; and two of them side by side."""

import dataclasses
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ddrnet_jax.build import Experiment, experiment
from ddrnet_jax.data.samples import Sample
from ddrnet_jax.evaluation import metrics
from ddrnet_jax.evaluation.evaluate import check_same_classes, samples_to_evaluate
from ddrnet_jax.exports.onnx_engine import EngineError
from ddrnet_jax.prediction import engines
from ddrnet_jax.prediction.segmenter import Segmenter

_log = logging.getLogger(__name__)
FILES = (".onnx", ".stablehlo")
_NEAR_PIXELS = 4  # half a cell of the network's logits
_MOST_LINES = 8


def evaluate(wanted: Experiment, checkpoint: str | Path, engine: str) -> metrics.Scores:
    """Scores on the eval split of an experiment. Raises EngineError, CheckpointError or DataError with one line."""
    segmenter = _loaded(wanted, checkpoint, engine)
    with samples_to_evaluate(wanted.eval_source(), None, num_threads=wanted.num_threads) as samples:
        return scores_of_masks(segmenter, _shown(wanted, samples))


def scores_of_masks(segmenter: Segmenter, samples: Iterable[Sample]) -> metrics.Scores:
    """Scores of what a segmenter predicts for samples."""
    counts = _Counts(len(segmenter.classes))
    for sample in samples:
        counts.add(sample["label"], segmenter.predict(sample["image"]))
    return counts.scores()


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


def compare(wanted: Experiment, first: tuple[str | Path, str], second: tuple[str | Path, str]) -> Comparison:
    """Both (checkpoint or file, engine) on the eval split of an experiment. Raises as `evaluate` does."""
    segmenters = [_loaded(wanted, *each) for each in (first, second)]
    num_classes = wanted.spec.num_classes
    counts = [_Counts(num_classes), _Counts(num_classes)]
    pairs, near, differing = _Counts(num_classes), 0, dict[str, int]()
    with samples_to_evaluate(wanted.eval_source(), None, num_threads=wanted.num_threads) as samples:
        for sample in _shown(wanted, samples):
            masks = [segmenter.predict(sample["image"]) for segmenter in segmenters]
            for count, mask in zip(counts, masks, strict=True):
                count.add(sample["label"], mask)
            pairs.add(*masks)
            differ = masks[0] != masks[1]
            near += int((differ & _near_borders(masks[0])).sum())
            differing[sample["name"]] = int(differ.sum())
    return Comparison(counts[0].scores(), counts[1].scores(), pairs.scores().confusion, differing, near)


def _near_borders(mask: np.ndarray) -> np.ndarray:
    window = np.ones((2 * _NEAR_PIXELS + 1, 2 * _NEAR_PIXELS + 1), np.uint8)
    return cv2.dilate(mask, window) != cv2.erode(mask, window)


def _shown(wanted: Experiment, samples: Iterable[Sample]) -> Iterable[Sample]:
    return tqdm(samples, total=len(wanted.eval_source()), unit="image", disable=None, ncols=80)


def _loaded(wanted: Experiment, checkpoint: str | Path, engine: str) -> Segmenter:
    """Raises EngineError where an engine would be compared by another view than the config's."""
    given = {key: wanted.view[key] for key in ("scales", "flip") if wanted.view[key] not in (False, (1.0,))}
    if given and Path(checkpoint).suffix not in FILES:
        settings = ", ".join(f"eval.{key}={value!r}" for key, value in given.items())
        raise EngineError(f"{settings}: an engine sees an image once; leave --engine or these settings out")
    if given:
        _log.warning(f"the file sees images once: {' and '.join(f'eval.{key}' for key in given)} do not apply")
    segmenter = engines.load(checkpoint, engine)
    check_same_classes(wanted, checkpoint, experiment(segmenter.config))
    return segmenter
