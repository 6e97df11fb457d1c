"""Random weights to start from, the same on every platform."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike


def conv_kernel_init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """f32[height,width,cin,cout], Kaiming normal, fan_out, ReLU gain, untruncated: as the reference's convolutions"""
    height, width, _, cout = shape
    std = (2 / (height * width * cout)) ** 0.5
    return _draw(key, shape, dtype, lambda rng: std * rng.standard_normal(shape))


def uniform_init(fan_in: int) -> nnx.Initializer:
    """Initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for biases and linear layers."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32) -> jax.Array:
        return _draw(key, shape, dtype, lambda rng: rng.uniform(-bound, bound, shape))

    return init


def _draw(key, shape, dtype, draw) -> jax.Array:
    """Random numbers from NumPy, seeded with the key.

    Source: the same weights on every platform and version of JAX, without compiling a program per shape
    (minutes of XLA:CPU for the whole network under jit).
    """

    def from_key_data(data):
        return np.asarray(draw(np.random.default_rng(np.asarray(data))), dtype)

    data = jax.random.key_data(key)
    if isinstance(data, jax.core.Tracer):
        return jax.pure_callback(from_key_data, jax.ShapeDtypeStruct(shape, dtype), data)
    return jnp.asarray(from_key_data(data))
