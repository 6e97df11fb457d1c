"""mIoU of a model over whole images at label resolution, exact over partial batches and mixed sizes.

And the one function that evaluates a checkpoint, segmenter or classifier.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from ddrnet_jax import checkpoints, compilation, devices, factory
from ddrnet_jax.data import pipeline
from ddrnet_jax.data.sources import Sample
from ddrnet_jax.evaluation import batches, metrics
from ddrnet_jax.evaluation.classification import ClassEvaluator
from ddrnet_jax.models import variables
from ddrnet_jax.models.blocks import resize, upsample_x8
from ddrnet_jax.models.ddrnet import normalise

_MANY_SIZES = 16


class Evaluator:
    """Confusion counts of a model on samples; compiles once per image size and keeps what it compiled."""

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        num_classes: int,
        mesh: Mesh,
        *,
        batch_size: int,
        scales: tuple[float, ...] = (1.0,),
        flip: bool = False,
        size_hw: tuple[int, int] | None = None,
        say: Callable[[str], None] = lambda message: None,
    ):
        """
        batch_size  rounded up to a multiple of the devices
        scales      of the network's input; the logits of several are averaged
        size_hw     what the network sees; None: each image at its own size
        say         where announcements of compilations and warnings go
        """
        self.num_classes, self.mesh, self.size_hw, self.say = num_classes, mesh, size_hw, say
        self.batch_size = -(-batch_size // mesh.size) * mesh.size
        self._seen_sizes: set[tuple[int, int]] = set()

        def logits(params, batch_stats, images):
            model = variables.merge(graphdef, params, batch_stats)
            model.eval()
            return averaged_logits(model, images, scales=scales, flip=flip)

        def count(logits, labels):
            labels = labels.astype(jnp.int32)
            return metrics.confusion(labels, jnp.argmax(resize(logits, labels.shape[1:]), -1), num_classes)

        def count_at_image_size(params, batch_stats, batch):
            return count(logits(params, batch_stats, batch["images"]), batch["labels"])

        def jit(function, sharding):
            return jax.jit(function, out_shardings=sharding, compiler_options=compilation.options())

        self._count_at_image_size = jit(count_at_image_size, devices.replicated(mesh))
        self._shrink = jit(lambda images: to_size(images, size_hw), devices.by_batch(mesh))
        self._logits = jit(logits, devices.by_batch(mesh))
        self._count = jit(count, devices.replicated(mesh))

    def __call__(self, params: dict, batch_stats: dict, samples: Iterable[Sample]) -> metrics.Scores:
        """Scores over all samples; every labelled pixel counts exactly once."""
        by_size = batches.batches_by_size(samples, self.batch_size)
        counts = (self._confusion(params, batch_stats, batch) for batch in by_size)
        return metrics.scores(batches.total(counts, (self.num_classes, self.num_classes)))

    def _confusion(self, params: dict, batch_stats: dict, batch: dict) -> jax.Array:
        self._announce(batch["labels"].shape[1:])
        batch = devices.put_batch(batch, self.mesh)
        if self.size_hw is None:
            return self._count_at_image_size(params, batch_stats, batch)
        # The network is a program of its own, compiled once; only the two resizes compile for every size.
        seen = self._logits(params, batch_stats, self._shrink(batch["images"]))
        return self._count(seen, batch["labels"])

    def _announce(self, size_hw: tuple[int, int]) -> None:
        if size_hw in self._seen_sizes:
            return
        self._seen_sizes.add(size_hw)
        self.say(f"compiling evaluation for {size_hw[0]}x{size_hw[1]} (HxW) images")
        if len(self._seen_sizes) == _MANY_SIZES + 1 and self.size_hw is None:
            self.say(
                f"warning: more than {_MANY_SIZES} image sizes, each compiles anew; "
                "set eval.size_hw=(height, width) to let the network see one size"
            )


def to_size(images: jax.Array, size_hw: tuple[int, int]) -> jax.Array:
    """u8[B,H,W,3] -> f32[B,*size_hw,3] (0..255), bilinear"""
    return resize(images.astype(jnp.float32), size_hw)


def averaged_logits(
    model: nnx.Module, images: jax.Array, *, scales: tuple[float, ...] = (1.0,), flip: bool = False
) -> jax.Array:
    """Logits at image size, averaged over scales (rounded to multiples of 8) and mirror images.

    images [B,H,W,3] (0..255) -> f32[B,H,W,C]
    """
    x = normalise(images)
    image_hw = images.shape[1:3]
    total = 0.0
    for scale in scales:
        scaled_hw = image_hw if scale == 1 else tuple(max(8, round(n * scale / 8) * 8) for n in image_hw)
        scaled = resize(x, scaled_hw)
        total += _logits_at(model, scaled, image_hw)
        if flip:
            total += _logits_at(model, scaled[:, :, ::-1], image_hw)[:, :, ::-1]
    return total / (len(scales) * (1 + flip))


def _logits_at(model: nnx.Module, x: jax.Array, image_hw: tuple[int, int]) -> jax.Array:
    return resize(upsample_x8(model(x).logits, x.shape[1:3]), image_hw)


def make_evaluator(
    config: ConfigDict, graphdef: nnx.GraphDef, mesh: Mesh, *, say: Callable[[str], None]
) -> Evaluator | ClassEvaluator:
    """The evaluator of the config's task that its `eval` group describes."""
    if config.task == "classification":
        return ClassEvaluator(graphdef, mesh, batch_size=config.eval.batch_size, say=say)
    return Evaluator(
        graphdef,
        factory.dataset_spec(config).num_classes,
        mesh,
        batch_size=config.eval.batch_size,
        scales=config.eval.scales,
        flip=config.eval.flip,
        size_hw=config.eval.size_hw,
        say=say,
    )


@contextlib.contextmanager
def samples_to_evaluate(config: ConfigDict, source) -> Iterator[Iterator[Sample]]:
    """Every sample of the source in order, as the config's evaluator takes them."""
    view = factory.evaluation_view(config)
    with contextlib.closing(pipeline.samples_in_order(source, view, num_threads=config.data.num_threads)) as samples:
        yield samples


def evaluate_checkpoint(
    config: ConfigDict, checkpoint: str | Path, say: Callable[[str], None]
) -> metrics.Scores | metrics.Accuracy:
    """Scores of a checkpoint on the eval split of `config`.

    Raises CheckpointError if the checkpoint was trained for another task or on other classes.
    """
    source = factory.eval_source(config)
    loaded = checkpoints.load_weights(checkpoint)
    check_same_classes(config, checkpoint, loaded.config)
    mesh = devices.data_mesh()
    evaluator = make_evaluator(config, loaded.graphdef, mesh, say=say)
    params, batch_stats = jax.device_put((loaded.params, loaded.batch_stats), devices.replicated(mesh))
    with samples_to_evaluate(config, source) as samples:
        return evaluator(params, batch_stats, tqdm(samples, total=len(source), unit="image", disable=None, ncols=80))


def check_same_classes(config: ConfigDict, checkpoint: str | Path, trained: ConfigDict) -> None:
    """Raises CheckpointError unless the checkpoint was trained for the config's task and classes."""
    if trained.task != config.task:
        raise checkpoints.CheckpointError(
            f"{checkpoint}: trained for {trained.task}, but the config's task is {config.task}; "
            "use the config it was trained with"
        )
    spec, trained_spec = factory.dataset_spec(config), factory.dataset_spec(trained)
    if trained_spec.classes != spec.classes:
        raise checkpoints.CheckpointError(
            f"{checkpoint}: trained on {trained_spec.num_classes} classes of {trained_spec.name!r}, but the config's "
            f"data set {spec.name!r} has {spec.num_classes}; use the config it was trained with"
        )
