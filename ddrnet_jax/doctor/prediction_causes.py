"""Causes of a low mIoU that show in what a network predicts: the same images, seen in other ways."""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from ddrnet_jax.data.check.findings import Finding
from ddrnet_jax.data.samples import Sample
from ddrnet_jax.evaluation import metrics
from ddrnet_jax.evaluation.views import View, predictions
from ddrnet_jax.models import variables
from ddrnet_jax.models.ddrnet import IMAGENET_MEAN, IMAGENET_STD
from ddrnet_jax.runs.checkpoints import Loaded
from ddrnet_jax.runtime import compilation

CLEAR_GAIN = 0.05  # of mIoU; on a few images less may be chance
_MEMORISED = 0.25  # of mIoU between training and held-out images
_CLEAR_IOU = 0.2  # of a class that the network knows under another number
_IN_DOUBT = 1e-9  # of IoU: where labels and predictions share nothing, a class keeps its number
_BATCH = 2  # batch norm with a batch's own statistics needs two images

Weights = tuple[dict, dict]


def _as_if_normalised(to_input: Callable) -> Callable:
    """Images that our normalisation turns into what `to_input` makes of them."""
    mean, std = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
    return lambda images: 255 * (to_input(images) * std + mean)


# What else a network may have been trained on, {in words: images (0..255) -> the images to give ours instead}.
OTHER_INPUTS = {
    "blue and red exchanged (BGR)": lambda images: images[..., ::-1],
    "divided by 255 alone": _as_if_normalised(lambda images: images / 255),
    "scaled to -1..1 (mean and deviation 0.5)": _as_if_normalised(lambda images: images / 127.5 - 1),
    "not normalised, 0..255": _as_if_normalised(lambda images: images),
}


class Scorer:
    """Confusion counts of a network on a few samples; `done` is told of every image."""

    def __init__(self, graphdef: nnx.GraphDef, num_classes: int, view: View, done: Callable[[int], object]):
        self._num_classes, self._done = num_classes, done

        def count(weights, images, labels, *, uses_batch_statistics):
            model = variables.merge(graphdef, *weights)
            model.train() if uses_batch_statistics else model.eval()
            found = predictions(model, images, view)
            return metrics.confusion(labels.astype(jnp.int32), found, num_classes)

        self._count = jax.jit(count, compiler_options=compilation.options(), static_argnames="uses_batch_statistics")

    def __call__(
        self,
        weights: Weights,
        samples: Sequence[Sample],
        *,
        change: Callable | None = None,
        uses_batch_statistics: bool = False,
    ) -> metrics.Scores:
        """Scores on the samples.

        change                 what the network gets in the place of images f32[B,H,W,3] (0..255); None: the images
        uses_batch_statistics  normalise by the statistics of each batch instead of the running ones
        """
        total = np.zeros((self._num_classes, self._num_classes), np.int64)
        for images, labels in _batches(samples):
            seen = np.float32(images if change is None else change(images))
            total += np.asarray(self._count(weights, seen, labels, uses_batch_statistics=uses_batch_statistics))
            self._done(len(images))
        return metrics.scores(total)


def of_one_size(samples: Sequence[Sample], size_hw: tuple[int, int] | None = None) -> list[Sample]:
    """The samples cut to one size around their centres, so that one program sees them all, in pairs.

    size_hw  of the result; None: the least height and the least width. Samples that have less are left out.
    """
    least = size_hw or [min((sample["label"].shape[axis] for sample in samples), default=0) for axis in (0, 1)]
    cut = [_centre(sample, least) for sample in samples if min(np.subtract(sample["label"].shape, least)) >= 0]
    return cut[: len(cut) // _BATCH * _BATCH]


def _centre(sample: Sample, size_hw: Sequence[int]) -> Sample:
    top, left = ((n - wanted) // 2 for n, wanted in zip(sample["label"].shape, size_hw, strict=True))
    part = np.s_[top : top + size_hw[0], left : left + size_hw[1]]
    return Sample(image=sample["image"][part], label=sample["label"][part], name=sample["name"])


def _batches(samples: Sequence[Sample]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(samples), _BATCH):
        group = samples[start : start + _BATCH]
        yield (
            np.stack([sample["image"] for sample in group]).astype(np.float32),
            np.stack([sample["label"] for sample in group]),
        )


def findings(
    loaded: Loaded,
    raw: Loaded | None,
    classes: Sequence[str],
    view: View,
    held_out: Sequence[Sample],
    trained_on: Sequence[Sample],
) -> tuple[metrics.Scores, list[Finding]]:
    """(scores on the held-out samples, what other ways to see them give away).

    raw         the weights beside the moving average that `loaded` holds; None if there is no average
    held_out    as `of_one_size` gives them
    trained_on  likewise, of the training images; may be empty
    """
    total = (len(OTHER_INPUTS) + 2 + (raw is not None)) * len(held_out) + len(trained_on)
    with tqdm(total=total, unit="image", disable=None, ncols=80) as bar:
        score = Scorer(loaded.graphdef, len(classes), view, bar.update)
        weights = jax.device_put((loaded.params, loaded.batch_stats))
        own = score(weights, held_out)
        by_input = {name: score(weights, held_out, change=change) for name, change in OTHER_INPUTS.items()}
        # Batch norm sees no batch as a whole where the network goes from tile to tile.
        by_batch = own if _has_tiles(view, held_out) else score(weights, held_out, uses_batch_statistics=True)
        found = [
            # Two explanations of one thing: the one that explains more.
            _input(own, by_input, at_least=max(own.miou + CLEAR_GAIN, by_batch.miou)) or _statistics(own, by_batch),
            _few_classes(own, classes) or _class_map(own, classes),
        ]
        if _has_tiles(view, held_out):
            message = "batch norm's statistics were not examined, since eval.tile_hw is set"
            found.append(Finding("note", message, "run without tiles, if memory allows"))
        if trained_on:
            found.append(_memorised(own, score(weights, trained_on)))
        if raw is not None:
            found.append(_average(own, score(jax.device_put((raw.params, raw.batch_stats)), held_out)))
    return own, [finding for finding in found if finding]


def _has_tiles(view: View, samples: Sequence[Sample]) -> bool:
    return view.tile_hw is not None and bool(np.greater(samples[0]["label"].shape, view.tile_hw).any())


def _input(own: metrics.Scores, by_input: dict[str, metrics.Scores], at_least: float) -> Finding | None:
    name = max(by_input, key=lambda name: by_input[name].miou)
    best = by_input[name].miou
    if best < at_least:
        return None
    return Finding(
        "error",
        f"with images {name} the mIoU is {best:.1%} instead of {own.miou:.1%}: the weights expect such images",
        "this project gives every network RGB / 255 with ImageNet's mean and deviation, as the published weights "
        "expect; these were trained otherwise: fine-tune them here (init_from), or take others",
    )


def _statistics(own: metrics.Scores, by_batch: metrics.Scores) -> Finding | None:
    if by_batch.miou < own.miou + CLEAR_GAIN:
        return None
    return Finding(
        "error",
        f"by each batch's own statistics, batch norm gives an mIoU of {by_batch.miou:.1%} instead of {own.miou:.1%}: "
        "the running statistics do not fit these images",
        "they were gathered over too few steps (a tenth of each step's enters), over other images, or got lost on "
        "the way; train some hundred steps more on this data",
    )


def _few_classes(own: metrics.Scores, classes: Sequence[str]) -> Finding | None:
    predicted = np.flatnonzero(own.confusion.sum(0))
    labelled = np.flatnonzero(own.confusion.sum(1))
    if not len(labelled) or len(predicted) > max(1, len(labelled) // 4):
        return None
    named = ", ".join(classes[i] for i in predicted.tolist())
    return Finding(
        "warning",
        f"the network predicts {len(predicted)} of the {len(labelled)} classes that are labelled here: {named}",
        "it has hardly learnt anything yet: look at the loss in metrics.jsonl; if it does not fall, lower "
        "optimizer.learning_rate; if rare classes alone are missing, try loss.name='ohem'",
    )


def _class_map(own: metrics.Scores, classes: Sequence[str]) -> Finding | None:
    """Finds out if the network knows the classes, but by other numbers than the labels."""
    order = best_assignment(own.confusion)
    renamed = metrics.scores(own.confusion[:, order])
    known = (renamed.iou >= _CLEAR_IOU) & (renamed.iou > np.nan_to_num(own.iou))
    moved = [(i, int(j)) for i, j in enumerate(order) if i != j and known[i]]
    if renamed.miou < own.miou + CLEAR_GAIN or len(moved) < 2:  # one alone: a class that swallows another
        return None
    names = tuple(f"labelled {classes[i]} ({i}): predicted as {classes[j]} ({j})" for i, j in moved)
    return Finding(
        "error",
        f"with the classes in another order the mIoU is {renamed.miou:.1%} instead of {own.miou:.1%}: the network and "
        "the labels number them differently",
        "compare data.classes, data.colors and data.label_values with those that the weights were trained with",
        names,
    )


def best_assignment(confusion: np.ndarray) -> np.ndarray:
    """i64[C]: for each labelled class a predicted one, each once, with the greatest sum of IoUs."""
    from scipy import optimize  # a second to import

    union = confusion.sum(1)[:, None] + confusion.sum(0)[None] - confusion
    overlap = confusion / np.maximum(union, 1)
    return optimize.linear_sum_assignment(overlap + _IN_DOUBT * np.eye(len(confusion)), maximize=True)[1]


def _memorised(own: metrics.Scores, on_training: metrics.Scores) -> Finding | None:
    if on_training.miou < own.miou + _MEMORISED:
        return None
    return Finding(
        "warning",
        f"on training images the mIoU is {on_training.miou:.1%}, on held-out ones {own.miou:.1%}",
        "the network knows its training images, not the task: more images, pretrained weights (init_from), wider "
        "data.scale_range; or the held-out images are of another kind (--mode check_data pictures both)",
    )


def _average(own: metrics.Scores, raw: metrics.Scores) -> Finding | None:
    if raw.miou < own.miou + CLEAR_GAIN:
        return None
    return Finding(
        "warning",
        f"the weights themselves reach {raw.miou:.1%}, their moving average {own.miou:.1%}: it lags behind",
        "train on, or choose a smaller ema_decay; the average is what is evaluated, exported and kept as the best",
    )
