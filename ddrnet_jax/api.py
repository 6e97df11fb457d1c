"""The calls from Python: a config or a path in, a result out. `ddrnet_jax` offers each by its name."""

import contextlib
import dataclasses
import functools
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
from ddrnet_jax.data.own import OwnSamples, as_sample
from ddrnet_jax.data.samples import Sample, Source
from ddrnet_jax.errors import UserError
from ddrnet_jax.evaluation import metrics
from ddrnet_jax.evaluation.comparison import scores_of_masks
from ddrnet_jax.evaluation.evaluate import Evaluator, samples_to_evaluate
from ddrnet_jax.evaluation.views import WHOLE_IMAGES, View
from ddrnet_jax.models import variables
from ddrnet_jax.models.inference import logits_shape
from ddrnet_jax.prediction.segmenter import Segmenter
from ddrnet_jax.runtime import devices
from ddrnet_jax.training import loop
from ddrnet_jax.training.objective import Objective

_PROBE_HW = (64, 72)  # of an image that a network is asked the shape of its logits for
_LOGGED_BY_US = ("step", "grad_norm", "learning_rate", "images_per_s", "input_wait")
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
    own: dict[str, Any] = {}
    for name, samples in (("train_source", train_source), ("eval_source", eval_source)):
        if samples is not None:
            own[name] = functools.partial(OwnSamples, samples, experiment.spec)
            own[name]()  # what is no source is refused before anything is made
    if model is not None:
        own["network"] = _checked_network(model, experiment)
    experiment = dataclasses.replace(experiment, **own)
    if objective is not None:
        _check_objective(objective, experiment)
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
    if not isinstance(segmenter, Segmenter | nnx.Module):
        raise UserError(f"{type(segmenter).__name__} given, expected a segmenter of ddrnet_jax.load, or a model")
    if isinstance(source, str | Path):
        raise UserError(f"{str(source)!r} given, expected samples or a config; ddrnet_jax.config.files.load reads one")
    if batch_size < 1:
        raise UserError(f"batch_size: {batch_size} given, expected 1 or more")
    model: Any = segmenter.model if isinstance(segmenter, Segmenter) else segmenter
    if getattr(model, "task", "segmentation") != "segmentation":
        raise UserError("a classifier given, expected a segmenter; the command --mode evaluate takes both")
    own = len(segmenter.classes) if isinstance(segmenter, Segmenter) else _classes_of(model)
    count = num_classes or own
    if own != count:
        raise UserError(f"the network has {own} classes, num_classes is {count}")
    with contextlib.ExitStack() as stack:
        if isinstance(source, ConfigDict):
            experiment = _experiment(source)
            _check_classes(segmenter, count, experiment)
            view, batch_size = view or View(**experiment.view), experiment.eval_batch_size
            samples = stack.enter_context(
                samples_to_evaluate(
                    experiment.eval_source(), experiment.eval_transform, num_threads=experiment.num_threads
                )
            )
        else:
            samples = _some((as_sample(each, i, num_classes=count) for i, each in enumerate(_each(source))))
        if isinstance(segmenter, Segmenter) and model is None:
            return scores_of_masks(segmenter.predict, samples, count)
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
        beside=e.pseudo_source() if e.pseudo_source else None,
        share_beside=e.pseudo_share,
    )


def _each(source: Any) -> Iterator:
    """The items of a sequence without `__iter__`, or of any iterable."""
    return iter(source) if hasattr(source, "__iter__") else (source[i] for i in range(len(source)))


def _some(samples: Iterator[Sample]) -> Iterator[Sample]:
    """The same samples. Raises UserError if there are none."""
    is_empty = True
    for sample in samples:
        is_empty = False
        yield sample
    if is_empty:
        raise UserError("no samples to evaluate")


def _classes_of(model: nnx.Module) -> int:
    """The number of classes of a network. Raises UserError if its logits are not at an eighth of the size."""
    shape = logits_shape(model, _PROBE_HW)
    if shape[:-1] != (1, *(n // 8 for n in _PROBE_HW)):
        raise UserError(
            f"the network gives logits {list(shape)} for an image of {list(_PROBE_HW)}, expected an eighth of its "
            "height and width: f32[B,ceil(H/8),ceil(W/8),C]"
        )
    return shape[-1]


def _check_classes(segmenter: Segmenter | nnx.Module, count: int, experiment: build.Experiment) -> None:
    if experiment.task != "segmentation":
        raise UserError(f"config.task: {experiment.task!r} given, expected 'segmentation'")
    if experiment.spec.num_classes != count:
        raise UserError(f"the network has {count} classes, the config's data {experiment.spec.num_classes}")
    if isinstance(segmenter, Segmenter) and segmenter.classes != experiment.spec.classes:
        raise UserError(f"the network was trained on other classes than those of {experiment.spec.name!r}")


def _checked_network(
    model: Callable[[nnx.Rngs], nnx.Module], experiment: build.Experiment
) -> Callable[[nnx.Rngs], nnx.Module]:
    if isinstance(model, nnx.Module) or not callable(model):
        raise UserError("model: expected a function of nnx.Rngs that makes the network, as its class is")
    if experiment.task == "segmentation":
        found = _classes_of(nnx.eval_shape(lambda: model(nnx.Rngs(0))))
        if found != experiment.spec.num_classes:
            raise UserError(f"model: has {found} classes, the config's data {experiment.spec.num_classes}")
    return model


def _check_objective(objective: Objective, experiment: build.Experiment) -> None:
    """Raises UserError unless it gives a loss, the statistics in their structure, and numbers to log."""
    _, params, batch_stats = variables.shapes(experiment.network)
    rows, size_hw = experiment.batch_size // experiment.accumulate_steps, experiment.crop_hw
    labels = (rows, *size_hw) if experiment.task == "segmentation" else (rows,)
    batch = {
        "images": jax.ShapeDtypeStruct((rows, *size_hw, 3), np.uint8),
        "labels": jax.ShapeDtypeStruct(labels, np.uint8 if len(labels) == 3 else np.int32),
    }
    found = jax.eval_shape(objective, params, batch_stats, batch)
    try:
        loss, (statistics, logged) = found
        numbers = [loss, *logged.values()]
        is_right = all(number.shape == () for number in numbers)
        same = jax.tree.map(lambda a, b: a.shape == b.shape, batch_stats, statistics)  # ValueError of another structure
        is_right &= all(jax.tree.leaves(same))
        is_right &= not any(name in _LOGGED_BY_US or "/" in name for name in logged)
    except (TypeError, ValueError, AttributeError):
        is_right = False
    if not is_right:
        raise UserError(
            "objective: expected (loss, (batch_stats, metrics)): a number, the statistics as they were given, and "
            f"{{name: number}} without the names {', '.join(_LOGGED_BY_US)}"
        )


def _experiment(config: ConfigDict) -> build.Experiment:
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"{config!r} given, expected a config: ddrnet_jax.config.base(), or what ddrnet_jax.config.files.load reads"
        )
    validate(config)
    return build.experiment(config)
