"""mIoU of a model over whole images at label resolution, exact over partial batches and mixed sizes.

And the one function that evaluates a checkpoint, segmenter or classifier.
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from tqdm import tqdm

from ddrnet_jax.build import Experiment
from ddrnet_jax.data import pipeline
from ddrnet_jax.data.samples import Sample, Source
from ddrnet_jax.data.transforms import CentreCrop
from ddrnet_jax.evaluation import batches, metrics
from ddrnet_jax.evaluation.classification import ClassEvaluator
from ddrnet_jax.evaluation.views import WHOLE_IMAGES, View, prediction_program
from ddrnet_jax.runs.checkpoints import CheckpointError
from ddrnet_jax.runtime import devices
from ddrnet_jax.weights import loading

_log = logging.getLogger(__name__)
_MANY_SIZES = 16


class Watch(Protocol):
    """Who is shown every image of an evaluation as it is counted."""

    def __call__(self, sample: Sample, counts: np.ndarray, prediction: np.ndarray) -> None:
        """Takes one image: its sample, its confusion i32[C,C], its prediction u8[H,W] (0..C-1)."""


class Evaluator:
    """Confusion counts of a model on samples; compiles once per image size and keeps what it compiled."""

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        num_classes: int,
        mesh: Mesh,
        *,
        batch_size: int,
        view: View = WHOLE_IMAGES,
        watch: Watch | None = None,
    ):
        """
        batch_size  rounded up to a multiple of the devices
        watch       is shown this process's images
        """
        self.num_classes, self.mesh, self.view, self.watch = num_classes, mesh, view, watch
        self.batch_size = -(-batch_size // mesh.size) * mesh.size
        self._seen_sizes: set[tuple[int, int]] = set()

        def count(predictions, labels):
            counts = metrics.confusion_by_image(labels.astype(jnp.int32), predictions, num_classes)
            return counts, predictions.astype(jnp.uint8)

        self._count = prediction_program(
            graphdef,
            count,
            view,
            by_batch=devices.by_batch(mesh),
            out=(devices.replicated(mesh), devices.by_batch(mesh)),
        )

    def __call__(self, params: dict, batch_stats: dict, samples: Iterable[Sample]) -> metrics.Scores:
        """Scores over the samples of all processes, each of which gives its own; every labelled pixel counts once."""
        by_size = batches.batches_by_size(samples, self.batch_size)
        launched = (self._launched((params, batch_stats), batch) for batch in by_size)
        counts = (self._finished(*one) for one in batches.in_flight(launched))
        return metrics.scores(batches.total(counts, (self.num_classes, self.num_classes)))

    def _launched(self, weights: tuple[dict, dict], batch: dict) -> tuple[jax.Array, tuple | None]:
        """(counts, what the watch is shown of them: samples and predictions, which would take memory without one)"""
        self._announce(batch["labels"].shape[1:])
        on_devices = devices.put_batch(batches.arrays(batch), self.mesh)
        counts, predictions = self._count(weights, on_devices["images"], on_devices["labels"])
        return counts, None if self.watch is None else (batch["samples"], predictions)

    def _finished(self, counts: jax.Array, watched: tuple[list[Sample], jax.Array] | None) -> np.ndarray:
        counts = np.asarray(counts)
        if watched is not None and self.watch is not None:
            samples, predictions = watched
            for each in zip(samples, counts, np.asarray(predictions), strict=False):  # rows that fill up have no sample
                self.watch(*each)
        return counts.sum(0, dtype=np.int64)

    def _announce(self, size_hw: tuple[int, int]) -> None:
        if size_hw in self._seen_sizes:
            return
        self._seen_sizes.add(size_hw)
        _log.info(f"compiling evaluation for {size_hw[0]}x{size_hw[1]} (HxW) images")
        if len(self._seen_sizes) == _MANY_SIZES + 1 and self.view.size_hw is None:
            _log.warning(
                f"more than {_MANY_SIZES} image sizes, each compiles anew; "
                "set eval.size_hw=(height, width) to let the network see one size"
            )


def make_evaluator(
    experiment: Experiment, graphdef: nnx.GraphDef, mesh: Mesh, *, watch: Watch | None = None
) -> Evaluator | ClassEvaluator:
    """The evaluator of an experiment.

    mesh   of this process's devices alone: each evaluates its own part of the samples at its own pace
    watch  is shown the images of a segmenter's evaluation
    """
    batch_size = -(-experiment.eval_batch_size // jax.process_count())
    if experiment.task == "classification":
        return ClassEvaluator(graphdef, mesh, batch_size=batch_size)
    view = View(**experiment.view)
    return Evaluator(graphdef, experiment.spec.num_classes, mesh, batch_size=batch_size, view=view, watch=watch)


@contextlib.contextmanager
def samples_to_evaluate(
    source: Source, transform: CentreCrop | None, *, num_threads: int
) -> Iterator[Iterator[Sample]]:
    """This process's part of the source's samples in order, each as an evaluator takes it."""
    shard = pipeline.Shard(jax.process_index(), jax.process_count())
    samples = pipeline.samples_in_order(source, transform, shard=shard, num_threads=num_threads)
    with contextlib.closing(samples):
        yield samples


def evaluate_checkpoint(
    experiment: Experiment, checkpoint: str | Path, watch: Watch | None = None
) -> metrics.Scores | metrics.Accuracy:
    """Scores of a checkpoint on the eval split of an experiment; of several processes each evaluates a part.

    Raises CheckpointError if the checkpoint was trained for another task or on other classes.
    """
    source = experiment.eval_source()
    loaded = loading.load_weights(checkpoint)
    check_same_classes(experiment, checkpoint, loaded.experiment)
    for line in other_network(experiment, loaded.experiment):
        _log.warning(line)
    weights = devices.fingerprint((loaded.params, loaded.batch_stats)) if jax.process_count() > 1 else ""
    differing = devices.differing(
        {"weights": weights, "number of images": len(source), "eval": (experiment.view, experiment.eval_batch_size)}
    )
    if differing:
        raise CheckpointError(
            f"{checkpoint}: the processes of this run differ in: {', '.join(differing)}; give all of them the same "
            "command, checkpoint and data"
        )
    mesh = devices.local_mesh(devices.data_mesh())
    evaluator = make_evaluator(experiment, loaded.graphdef, mesh, watch=watch)
    params, batch_stats = jax.device_put((loaded.params, loaded.batch_stats), devices.replicated(mesh))
    is_hidden = None if jax.process_index() == 0 else True
    part = -(-len(source) // jax.process_count())
    with samples_to_evaluate(source, experiment.eval_transform, num_threads=experiment.num_threads) as samples:
        bar = tqdm(samples, total=part, unit="image", disable=is_hidden, ncols=80)
        return evaluator(params, batch_stats, bar)


def other_network(wanted: Experiment, trained: Experiment) -> list[str]:
    """A line if an experiment describes another network than the checkpoint's, which is the one that is used."""
    changed = [key for key in ("variant", "dtype") if getattr(wanted, key) != getattr(trained, key)]
    given, used = (", ".join(f"model.{key}={getattr(e, key)!r}" for key in changed) for e in (wanted, trained))
    return [f"the checkpoint's network is used, {used}; the config has {given}"] if changed else []


def check_same_classes(wanted: Experiment, checkpoint: str | Path, trained: Experiment) -> None:
    """Raises CheckpointError unless the checkpoint was trained for the task and classes that are wanted."""
    if trained.task != wanted.task:
        raise CheckpointError(
            f"{checkpoint}: trained for {trained.task}, but the config's task is {wanted.task}; "
            "use the config it was trained with"
        )
    if trained.spec.classes != wanted.spec.classes:
        raise CheckpointError(
            f"{checkpoint}: trained on {trained.spec.num_classes} classes of {trained.spec.name!r}, but the config's "
            f"data set {wanted.spec.name!r} has {wanted.spec.num_classes}; use the config it was trained with"
        )
