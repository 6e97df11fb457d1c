"""Cross entropy of every pixel straight from stride-8 logits, and its gradient: the losses' form for GPUs.

Pixels lie in blocks: the 64 between the same four cells together, [B,h+1,w+1,64] of an image of 8h x 8w pixels. Blocks
at an edge are partly outside of it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.models import platforms

_NO_CLASS = IGNORE - 1  # more classes than that have the losses' other form
_BETWEEN = np.array([1, 3, 5, 7, 9, 11, 13, 15]) / 16  # where eight pixels lie between two cells
_SHARES = np.stack([1 - _BETWEEN, _BETWEEN])  # what they take of the first and the second
_WEIGHTS = np.einsum("ip,jq->ijpq", _SHARES, _SHARES).reshape(4, 64, 1)  # the 64 pixels, of each of four cells


def suits(logits: jax.Array, labels: jax.Array) -> bool:
    """True if these are logits f32[B,h,w,C] of a GPU's program and labels i32[B,8h,8w], and no class is `_NO_CLASS`."""
    batch, rows, columns, num_classes = logits.shape
    is_precise = jnp.finfo(logits.dtype).bits >= 32  # a gradient comes from the log of a sum that was kept
    is_of_cells = labels.shape == (batch, 8 * rows, 8 * columns)
    return platforms.current() == "gpu" and is_of_cells and is_precise and num_classes <= _NO_CLASS


def in_blocks(labels: jax.Array) -> jax.Array:
    """i32[B,8h,8w] (0..C-1 or 255) -> u8[B,h+1,w+1,64], 255 outside of the image and 254 where a label is no byte"""
    batch, *size = labels.shape
    rows, columns = (n // 8 + 1 for n in size)
    labels = jnp.where((labels >= 0) & (labels <= IGNORE), labels, _NO_CLASS).astype(jnp.uint8)
    labels = jnp.pad(labels, ((0, 0), (4, 4), (4, 4)), constant_values=IGNORE)
    blocks = labels.reshape(batch, rows, 8, columns, 8).swapaxes(2, 3).reshape(batch, rows, columns, 64)
    return jax.lax.optimization_barrier(blocks)  # else XLA compares first, and transposes every result


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def pixel_losses(logits: jax.Array, labels: jax.Array, label_smoothing: float) -> jax.Array:
    """Cross entropies: f32[B,h,w,C], u8[B,h+1,w+1,64] -> f32[B,h+1,w+1,64], 0 where ignored and NaN where no class

    Source: nothing of all classes is stored at image size, neither logits nor gradient. As compiled for four H100 a
    step of configs/cityscapes.py moves 13.62 GB, not 15.12, at a peak of 872 MB, not 1070 (benchmarks/gpu_bytes.py).
    """
    return _forward(logits, labels, label_smoothing)[0]


def _forward(logits, labels, label_smoothing):
    at_pixels = _interpolated(logits)
    highest = at_pixels.max(-1)
    shifted = at_pixels - highest[..., None]
    log_sum = jnp.log(jnp.exp(shifted).sum(-1))
    losses = log_sum - (shifted * _targets(labels, logits, label_smoothing)).sum(-1)
    losses = jnp.where(labels < logits.shape[-1], losses, jnp.nan)
    return jnp.where(labels == IGNORE, 0, losses), (logits, labels, log_sum + highest)


def _backward(label_smoothing, kept, gradient):
    """Each cell's sum over the pixels around it, in four parts: one of each block that it is a corner of.

    Source: XLA computes a summand again for each sum, or stores it. By its estimate it would store what four sums take,
    so it is shown four that it cannot tell to be the same. It makes one kernel of the sums, and computes it once there.
    """
    logits, labels, log_sum = kept
    sums = []
    for weights in _WEIGHTS.astype(logits.dtype):
        cells, weights = jax.lax.optimization_barrier((logits, weights))
        softmax = jnp.exp(_interpolated(cells) - log_sum[..., None])
        slope = gradient[..., None] * (softmax - _targets(labels, logits, label_smoothing))
        sums.append((jnp.where(labels[..., None] == IGNORE, 0, slope) * weights).sum(3))
    above, below = (_at_cells(*sums[i : i + 2], axis=2) for i in (0, 2))
    return _at_cells(above, below, axis=1), None


pixel_losses.defvjp(_forward, _backward)


def _interpolated(logits: jax.Array) -> jax.Array:
    """f32[B,h,w,C] -> f32[B,h+1,w+1,64,C]"""
    rows, columns = ([np.clip(np.arange(n + 1) + i, 0, n - 1) for i in (-1, 0)] for n in logits.shape[1:3])
    corners = (jnp.take(jnp.take(logits, i, 1, mode="clip"), j, 2, mode="clip") for i in rows for j in columns)
    weights = _WEIGHTS.astype(logits.dtype)
    return sum(corner[:, :, :, None] * weight for corner, weight in zip(corners, weights, strict=True))


def _targets(labels: jax.Array, logits: jax.Array, label_smoothing: float) -> jax.Array:
    """The softmax to reach: f32[B,h+1,w+1,64,C]"""
    num_classes = logits.shape[-1]
    of_each = label_smoothing / num_classes
    is_class = labels[..., None] == jnp.arange(num_classes)
    return jnp.where(is_class, 1 - label_smoothing + of_each, of_each).astype(logits.dtype)


def _at_cells(before: jax.Array, after: jax.Array, axis: int) -> jax.Array:
    """Sums of blocks for the cell before and for that after, by cell: twice [..,n+1,..] -> [..,n,..]

    Before the first cell there is itself, and so after the last.
    """

    def padded(x, start, stop, missing):
        rows = [(0, 0)] * x.ndim
        rows[axis] = missing
        return jnp.pad(jax.lax.slice_in_dim(x, start, stop, axis=axis), rows)

    n = before.shape[axis] - 1
    between = padded(before, 1, n + 1, (0, 0)) + padded(after, 0, n, (0, 0))
    return between + padded(before, 0, 1, (0, n - 1)) + padded(after, n, n + 1, (n - 1, 0))
