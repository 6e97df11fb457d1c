"""Batch norm: PyTorch's statistics, and the derivative written out."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from ddrnet_jax.models import platforms

EPSILON = 1e-5
STATISTICS = "batch norm statistics"  # by this name rematerialisation may keep them


class BatchNorm(nnx.Module):
    """Batch norm over (N, H, W) with PyTorch's statistics.

    Source: flax.nnx.BatchNorm keeps the biased variance in its running statistics, PyTorch the unbiased
    one (a factor 2 for the 1x1 global branch of DAPPM at batch 2). Statistics are two-pass and at least
    float32 whatever the compute dtype: the one-pass variance cancels.
    """

    MOMENTUM = 0.1  # PyTorch's convention: new = (1 - momentum) * old + momentum * batch

    def __init__(self, channels: int, *, dtype: DTypeLike | None = None):
        self.dtype = dtype
        self.use_running_average = False
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,h,w,C] -> the same shape; in train mode the running statistics move."""
        scale, bias = self.scale[...], self.bias[...]
        if self.use_running_average:
            y = normalise(x, self.mean[...], self.var[...], scale, bias)
        else:
            sums = channel_sums_by_product if platforms.current() == "cpu" else channel_sums
            y, mean, var = normalise_by_batch(x, scale, bias, sums)
            self.move_statistics(mean, var, count=x.size // scale.size)
        return y.astype(self.dtype or y.dtype)

    def move_statistics(self, mean: jax.Array, var: jax.Array, count: int) -> None:
        """Towards the mean and biased variance f32[C] of `count` values. Raises ValueError for a single value."""
        if count < 2:
            raise ValueError(
                "batch norm in train mode needs more than one value per channel, found one: "
                "the global branch of DAPPM needs a batch of at least 2 images"
            )
        unbiased = var * (count / (count - 1))
        old_mean, old_var = self.mean[...], self.var[...]
        self.mean[...] = old_mean + self.MOMENTUM * (mean - old_mean)
        self.var[...] = old_var + self.MOMENTUM * (unbiased - old_var)


def normalise(x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """x [B,h,w,C], all else f32[C] -> f32[B,h,w,C]"""
    factor = scale * jax.lax.rsqrt(var + EPSILON)
    return (_wide(x, scale) - mean) * factor + bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise_by_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array, sums: Callable
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(y, mean, var): x [B,h,w,C] normalised over (B,h,w), and its biased statistics f32[C].

    sums  computes what `channel_sums` does
    Statistics are reported, not differentiated: gradients reach x only through y.
    Source: the derivative is written out because automatic differentiation of the two passes keeps
    more of x and sums over it twice as often (11 % of a training step on 2 CPU cores).
    """
    return _forward(x, scale, bias, sums)[0]


def _forward(x, scale, bias, sums):
    wide, count = _wide(x, scale), x.size // scale.size
    mean = checkpoint_name(sums(wide) / count, STATISTICS)
    centred = wide - mean
    var = sums(jnp.square(centred)) / count
    inverse_std = checkpoint_name(jax.lax.rsqrt(var + EPSILON), STATISTICS)
    y = centred * (scale * inverse_std) + bias
    return (y, mean, var), (x, mean, inverse_std, scale)


def _backward(sums, kept, cotangents):
    x, mean, inverse_std, scale = kept
    dy, count = cotangents[0], x.size // scale.size
    x_hat = (_wide(x, scale) - mean) * inverse_std
    d_bias = sums(dy)
    d_scale = sums(dy * x_hat)
    dx = scale * inverse_std * (dy - (d_bias + x_hat * d_scale) / count)
    return dx.astype(x.dtype), d_scale, d_bias


normalise_by_batch.defvjp(_forward, _backward)


def _wide(x: jax.Array, scale: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, scale.dtype))


def channel_sums(x: jax.Array) -> jax.Array:
    """The sums over batch and pixels: [B,h,w,C] -> [C]"""
    return x.sum((0, 1, 2))


def channel_sums_by_product(x: jax.Array) -> jax.Array:
    """`channel_sums`, on CPUs in half of the time and with less rounding: [B,h,w,C] -> [C]

    Source: benchmarks/batch_norm_sums.py. A product with ones adds up the columns, XLA the rest: in one product
    too many numbers would be added one after another.
    """
    columns = jax.lax.dot_general(jnp.ones(x.shape[:2], x.dtype), x, (((0, 1), (0, 1)), ((), ())))
    return columns.sum(0)
