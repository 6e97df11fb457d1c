"""What a person calls from Python: a config or a path in, a result out. `ddrnet_jax` offers each by its name."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from ddrnet_jax import build
from ddrnet_jax.config import validate
from ddrnet_jax.data import pipeline
from ddrnet_jax.data.samples import Sample, Source
from ddrnet_jax.errors import UserError
from ddrnet_jax.evaluation import metrics
from ddrnet_jax.evaluation.evaluate import Evaluator, samples_to_evaluate
from ddrnet_jax.evaluation.views import WHOLE_IMAGES, View
from ddrnet_jax.models import variables
from ddrnet_jax.prediction.segmenter import Segmenter
from ddrnet_jax.runtime import devices
from ddrnet_jax.training import loop
from ddrnet_jax.training.objective import Objective

Pairs = Iterable[Sample | tuple[np.ndarray, np.ndarray]]


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    model: Callable[[nnx.Rngs], nnx.Module] | None = None,
    train_source: Source | Sequence | None = None,
    eval_source: Source | Sequence | None = None,
    objective: Objective | None = None,
) -> metrics.Scores | metrics.Accuracy:
    """Train to config.total_steps in a workdir, resuming what is there; returns the last evaluation.

    model         rngs -> a network of your own, from normalised images f32[B,H,W,3] to an object with `logits`
                  f32[B,ceil(H/8),ceil(W/8),C] and `aux_logits` (or None); None: the DDRNet of the config
    train_source  samples of your own: an object with `__len__` and `__getitem__`, which gives
                  {"image": u8[H,W,3] RGB, "label": u8[H,W] train ids or 255} or (image, label)
    eval_source   likewise, for the evaluations
    objective     (params, batch_stats, batch) -> (loss, (batch_stats, metrics)), in the place of the config's loss;
                  batch {"images": u8[B,h,w,3], "labels": u8[B,h,w]}
    Raises UserError with one line, before any long work where it can.
    """
    experiment = _experiment(config)
    replaced: dict[str, Any] = {
        "network": model,
        "train_source": train_source and (lambda: OwnSamples(train_source, experiment)),
        "eval_source": eval_source and (lambda: OwnSamples(eval_source, experiment)),
    }
    experiment = dataclasses.replace(experiment, **{name: value for name, value in replaced.items() if value})
    make_objective = None if objective is None else lambda graphdef, platform: objective
    return loop.train(experiment, workdir, make_objective=make_objective).result


def evaluate(
    segmenter: Segmenter | nnx.Module,
    source: ConfigDict | Pairs,
    *,
    num_classes: int | None = None,
    view: View | None = None,
    batch_size: int = 1,
) -> metrics.Scores:
    """mIoU and per-class IoU over samples, every labelled pixel counted once.

    segmenter    of `load`, or a model in hand
    source       a config, whose eval split, view and batch size are used; or samples in any iterable:
                 {"image": u8[H,W,3] RGB, "label": u8[H,W] train ids or 255} or (image, label)
    num_classes  of the labels; None: the segmenter's, or the model's own
    view         what the network sees of an image; None: as the segmenter's run evaluated, whole images of a model
    batch_size   images a forward pass, of samples in an iterable
    Raises       UserError where classes or samples do not fit.
    """
    model: Any = segmenter.model if isinstance(segmenter, Segmenter) else segmenter
    count = num_classes or (len(segmenter.classes) if isinstance(segmenter, Segmenter) else model.num_classes)
    with contextlib.ExitStack() as stack:
        if isinstance(source, ConfigDict):
            experiment = _experiment(source)
            if experiment.spec.num_classes != count:
                raise UserError(f"the network has {count} classes, the config's data {experiment.spec.num_classes}")
            view, batch_size = view or View(**experiment.view), experiment.eval_batch_size
            samples = stack.enter_context(
                samples_to_evaluate(
                    experiment.eval_source(), experiment.eval_transform, num_threads=experiment.num_threads
                )
            )
        else:
            samples = (as_sample(each, i) for i, each in enumerate(_each(source)))
        if isinstance(segmenter, Segmenter) and model is None:
            return _scores_of_masks(segmenter, samples, count)
        view = view or getattr(segmenter, "view", None) or WHOLE_IMAGES
        graphdef, *split = variables.split(model)
        mesh = devices.local_mesh(devices.data_mesh())
        params, batch_stats = jax.device_put(split, devices.replicated(mesh))
        return Evaluator(graphdef, count, mesh, batch_size=batch_size, view=view)(params, batch_stats, samples)


def batches(config: ConfigDict, *, first_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Endless training batches of a config, augmented: batch `step` is a pure function of (seed, step).

    Yields {"images": u8[B,h,w,3] RGB, "labels": u8[B,h,w] (0..C-1 or 255) or, of class numbers, i32[B]}
    Close it when done. Raises UserError if the data is not there.
    """
    e = _experiment(config)
    return pipeline.train_batches(
        e.train_source(),
        e.augment,
        seed=e.seed,
        batch_size=e.batch_size,
        accumulate_steps=e.accumulate_steps,
        first_step=first_step,
        num_threads=e.num_threads,
    )


class OwnSamples:
    """Samples of the user's as a `Source`: named and checked as they are read."""

    def __init__(self, samples: Source | Sequence, experiment: build.Experiment):
        self._samples, self.spec = samples, getattr(samples, "spec", experiment.spec)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        """Sample; raises UserError if it is none."""
        return as_sample(self._samples[int(index)], int(index))

    def names(self) -> list[str]:
        """What the samples are called in messages."""
        own = getattr(self._samples, "names", None)
        return own() if own else [f"sample {index}" for index in range(len(self))]

    def places(self) -> Iterator:
        """Where each sample is; two sources share those that are equal, and nothing is known of these."""
        own = getattr(self._samples, "places", None)
        return own() if own else ((id(self._samples), index) for index in range(len(self)))


def as_sample(given: Sample | tuple[np.ndarray, np.ndarray], index: int) -> Sample:
    """{"image": u8[H,W,3], "label": u8[H,W], "name"} of what a user's samples are. Raises UserError."""
    name = f"sample {index}"
    if isinstance(given, dict):
        name = given.get("name", name)
        given = given.get("image"), given.get("label")
    image, label = given
    if isinstance(label, int | np.integer):
        return Sample(image=np.asarray(image), label=int(label), name=name)
    image, label = np.asarray(image), np.asarray(label)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise UserError(f"{name}: image of {image.dtype}{list(image.shape)} given, expected RGB as u8[H,W,3]")
    if label.shape != image.shape[:2] or not np.issubdtype(label.dtype, np.integer):
        raise UserError(
            f"{name}: label of {label.dtype}{list(label.shape)} given, expected train ids (or 255) as "
            f"u8{list(image.shape[:2])}"
        )
    return Sample(image=image, label=label.astype(np.uint8), name=name)


def _each(source: Any) -> Iterator:
    """The items of a sequence without `__iter__`, or of any iterable."""
    return iter(source) if hasattr(source, "__iter__") else (source[i] for i in range(len(source)))


def _scores_of_masks(segmenter: Segmenter, samples: Iterable[Sample], num_classes: int) -> metrics.Scores:
    total = np.zeros((num_classes, num_classes), np.int64)
    for sample in samples:
        mask = segmenter.predict(sample["image"])
        total += np.asarray(
            metrics.confusion(np.asarray(sample["label"], np.int32), np.asarray(mask, np.int32), num_classes)
        )
    return metrics.scores(total)


def _experiment(config: ConfigDict) -> build.Experiment:
    validate(config)
    return build.experiment(config)
