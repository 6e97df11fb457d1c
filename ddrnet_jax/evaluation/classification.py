"""Top-1 and top-5 accuracy of a classifier over images of one size, exact over partial batches."""

from collections.abc import Callable, Iterable

import jax
from flax import nnx
from jax.sharding import Mesh

from ddrnet_jax.data.sources import Sample
from ddrnet_jax.evaluation import batches, metrics
from ddrnet_jax.models import variables
from ddrnet_jax.models.ddrnet import normalise
from ddrnet_jax.runtime import compilation, devices


class ClassEvaluator:
    """Hits of a classifier on samples with class numbers; compiles once per image size."""

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        mesh: Mesh,
        *,
        batch_size: int,
        say: Callable[[str], None] = lambda message: None,
    ):
        """
        batch_size  rounded up to a multiple of the devices
        say         where announcements of compilations go
        """
        self.mesh, self.say = mesh, say
        self.batch_size = -(-batch_size // mesh.size) * mesh.size
        self._is_announced = False

        def count(params, batch_stats, batch):
            model = variables.merge(graphdef, params, batch_stats)
            model.eval()
            return metrics.class_hits(model(normalise(batch["images"])).logits, batch["labels"])

        self._count = jax.jit(count, out_shardings=devices.replicated(mesh), compiler_options=compilation.options())

    def __call__(self, params: dict, batch_stats: dict, samples: Iterable[Sample]) -> metrics.Accuracy:
        """Accuracy over the samples of all processes, each of which gives its own; every one counts exactly once."""
        counts = (self._hits(params, batch_stats, batch) for batch in batches.batches_by_size(samples, self.batch_size))
        return metrics.accuracy(batches.total(batches.in_flight(counts), (3,)))

    def _hits(self, params: dict, batch_stats: dict, batch: dict) -> jax.Array:
        if not self._is_announced:
            self._is_announced = True
            self.say("compiling evaluation for {}x{} (HxW) images".format(*batch["images"].shape[1:3]))
        return self._count(params, batch_stats, devices.put_batch(batches.arrays(batch), self.mesh))
