"""mIoU of a model over whole images at label resolution, exact over partial batches and mixed sizes."""

import collections
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from ddrnet_jax import checkpoints, compilation, devices, factory
from ddrnet_jax.data import pipeline
from ddrnet_jax.data.sources import Sample
from ddrnet_jax.evaluation import metrics
from ddrnet_jax.models import variables
from ddrnet_jax.models.blocks import resize, upsample_x8
from ddrnet_jax.models.ddrnet import normalise

_MANY_SIZES = 16
_IN_FLIGHT = 2


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
        total = np.zeros((self.num_classes, self.num_classes), np.int64)
        in_flight = collections.deque()  # a few, so that the host decodes while the device computes
        for batch in batches_by_size(samples, self.batch_size):
            self._announce(batch["labels"].shape[1:])
            in_flight.append(self._confusion(params, batch_stats, devices.put_batch(batch, self.mesh)))
            if len(in_flight) > _IN_FLIGHT:
                total += np.asarray(in_flight.popleft())
        for counts in in_flight:
            total += np.asarray(counts)
        return metrics.scores(total)

    def _confusion(self, params: dict, batch_stats: dict, batch: dict[str, jax.Array]) -> jax.Array:
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


def batches_by_size(samples: Iterable[Sample], batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches of equal image size, every sample once; short batches are filled with ignored rows.

    Yields {"images": u8[B,H,W,3], "labels": u8[B,H,W]} with B = batch_size
    """
    waiting: dict[tuple[int, int], list[Sample]] = {}
    for sample in samples:
        group = waiting.setdefault(sample["label"].shape, [])
        group.append(sample)
        if len(group) == batch_size:
            yield _stack(waiting.pop(sample["label"].shape), batch_size)
    for group in waiting.values():
        yield _stack(group, batch_size)


def _stack(group: list[Sample], batch_size: int) -> dict[str, np.ndarray]:
    height, width = group[0]["label"].shape
    images = np.zeros((batch_size, height, width, 3), np.uint8)
    labels = np.full((batch_size, height, width), metrics.IGNORE, np.uint8)
    for row, sample in enumerate(group):
        images[row], labels[row] = sample["image"], sample["label"]
    return {"images": images, "labels": labels}


def make_evaluator(config: ConfigDict, graphdef: nnx.GraphDef, mesh: Mesh, *, say: Callable[[str], None]) -> Evaluator:
    """The evaluator that the config's `eval` group describes."""
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


def evaluate_checkpoint(config: ConfigDict, checkpoint: str | Path, say: Callable[[str], None]) -> metrics.Scores:
    """Scores of a checkpoint on the eval split of `config`.

    Raises CheckpointError if the checkpoint was trained on other classes.
    """
    spec = factory.dataset_spec(config)
    source = factory.eval_source(config)
    loaded = checkpoints.load_weights(checkpoint)
    trained_spec = factory.dataset_spec(loaded.config)
    if trained_spec.classes != spec.classes:
        raise checkpoints.CheckpointError(
            f"{checkpoint}: trained on {trained_spec.num_classes} classes of {trained_spec.name!r}, but the config's "
            f"data set {spec.name!r} has {spec.num_classes}; evaluate it with the config it was trained with"
        )
    mesh = devices.data_mesh()
    evaluator = make_evaluator(config, loaded.graphdef, mesh, say=say)
    params, batch_stats = jax.device_put((loaded.params, loaded.batch_stats), devices.replicated(mesh))
    samples = pipeline.samples_in_order(source, num_threads=config.data.num_threads)
    try:
        return evaluator(params, batch_stats, tqdm(samples, total=len(source), unit="image", disable=None, ncols=80))
    finally:
        samples.close()
