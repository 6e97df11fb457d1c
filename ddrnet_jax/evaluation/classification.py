"""Top-1 and top-5 accuracy of a classifier over images of one size, exact over partial batches."""

import logging
from collections.abc import Iterable

import jax
from flax import nnx
from jax.sharding import Mesh

from ddrnet_jax.data.sources import Sample
from ddrnet_jax.evaluation import batches, metrics
from ddrnet_jax.models.ddrnet import normalise
from ddrnet_jax.models.inference import merged
from ddrnet_jax.runtime import compilation, devices

_log = logging.getLogger(__name__)


class ClassEvaluator:
    """Hits of a classifier on samples with class numbers; compiles once per image size."""

    def __init__(self, graphdef: nnx.GraphDef, mesh: Mesh, *, batch_size: int):
        """
        batch_size  rounded up to a multiple of the devices
        """
        self.mesh = mesh
        self.batch_size = -(-batch_size // mesh.size) * mesh.size
        self._is_announced = False

        def count(weights, batch):
            return metrics.class_hits(merged(graphdef, weights)(normalise(batch["images"])).logits, batch["labels"])

        self._count = jax.jit(count, out_shardings=devices.replicated(mesh), compiler_options=compilation.options())

    def __call__(self, params: dict, batch_stats: dict, samples: Iterable[Sample]) -> metrics.Accuracy:
        """Accuracy over the samples of all processes, each of which gives its own; every one counts exactly once."""
        weights = params, batch_stats
        counts = (self._hits(weights, batch) for batch in batches.batches_by_size(samples, self.batch_size))
        return metrics.accuracy(batches.total(batches.in_flight(counts), (3,)))

    def _hits(self, weights: tuple[dict, dict], batch: dict) -> jax.Array:
        if not self._is_announced:
            self._is_announced = True
            _log.info("compiling evaluation for {}x{} (HxW) images".format(*batch["images"].shape[1:3]))
        return self._count(weights, devices.put_batch(batches.arrays(batch), self.mesh))
