"""A network with fixed weights, compiled: images to logits. Programs to masks are evaluation/views.py's."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from ddrnet_jax.models import variables
from ddrnet_jax.models.ddrnet import normalise
from ddrnet_jax.runtime import compilation

Weights = tuple[dict, dict]  # params, batch_stats


def merged(graphdef: nnx.GraphDef, weights: Weights) -> nnx.Module:
    """The network of these weights, in eval mode."""
    model = variables.merge(graphdef, *weights)
    model.eval()
    return model


def logits_shape(model: nnx.Module, image_hw: tuple[int, int]) -> tuple[int, ...]:
    """The shape of the logits [1,h,w,C] of an image, without computing them; the model may be abstract."""
    graphdef, *weights = variables.split(model)
    image = jax.ShapeDtypeStruct((1, *image_hw, 3), jnp.float32)
    return jax.eval_shape(lambda weights, x: merged(graphdef, weights)(x).logits, tuple(weights), image).shape


def logits_program(graphdef: nnx.GraphDef) -> Callable:
    """A compiled function (weights, images u8[B,H,W,3]) -> logits, as `ddrnet.Output` has them."""

    def logits(weights, images):
        return merged(graphdef, weights)(normalise(images)).logits

    return jax.jit(logits, compiler_options=compilation.options())
