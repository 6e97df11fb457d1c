"""The inference network as a StableHLO file that any machine with jax runs: cpu, cuda and tpu, weights inside."""

import jax
import jax.export
import jax.numpy as jnp

from ddrnet_jax.evaluation.views import View, predictions
from ddrnet_jax.models import platforms
from ddrnet_jax.models.ddrnet import DDRNet

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(folded: DDRNet, view: View, size_hw: tuple[int, int] | None = None) -> bytes:
    """The program u8[B,H,W,3] RGB -> u8[B,H,W] train ids, as `jax.export.deserialize` reads it.

    size_hw  of the images; None: any. The batch is any.
    """

    def masks(images):
        return predictions(folded, images, view).astype(jnp.uint8)

    height, width = size_hw or ("h", "w")
    shape = jax.export.symbolic_shape(f"b, {height}, {width}, 3")
    with platforms.compiled_for("cpu"):  # a form that all of them run
        exported = jax.export.export(jax.jit(masks), platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, jnp.uint8))
    return bytes(exported.serialize())
