"""ReLU, and for GPUs a form of its slope that needs no comparison stored."""

import jax
import jax.numpy as jnp

from ddrnet_jax.models import platforms


def relu(x: jax.Array) -> jax.Array:
    """max(x, 0): [..] -> [..]; on GPUs `by_sign`"""
    return by_sign(x) if platforms.current() == "gpu" else jax.nn.relu(x)


@jax.custom_vjp
def by_sign(x: jax.Array) -> jax.Array:
    """max(x, 0), whose slope is the sign of the result: [..] -> [..]

    Source: XLA for GPUs stores the comparison with 0 for the kernels that need it. A sign would take as much as x, so
    each kernel computes it: a training step has 17 fewer and moves 13.48 GB, not 13.62 (benchmarks/gpu_bytes.py), at a
    peak of 885 MB, not 872. A gradient or an x that is not finite gives NaN, where jax.nn.relu may give 0.
    """
    return jnp.maximum(x, 0)


by_sign.defvjp(lambda x: (by_sign(x), x), lambda x, gradient: (gradient * jnp.sign(by_sign(x)),))
