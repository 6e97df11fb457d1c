"""Maps kept as blocks of pixels: a pixel of few channels wastes a TPU's rows of 128 numbers, a block of them fills one.

A map [B,H,W,C] in blocks of side s is [B,H/s,W/s,s*s*C], a block's channels by row, column and channel. Convolutions
of such maps have larger kernels that hold the same weights, with zeros between them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

ROW = 128  # numbers in a row of a TPU's memory; fewer are filled up
IMAGE_SIDE, SIDE = 4, 2  # of the blocks of the image, and of the maps at 1/2 and 1/4 of its size
MULTIPLE = 8  # of which a height and width must be: blocks of SIDE at 1/4


def in_blocks(x: jax.Array, side: int) -> jax.Array:
    """[B,H,W,C] -> [B,H/side,W/side,side*side*C]

    Source: slices, since TPUs transpose the axes of side 4 at 32 times their bytes.
    """
    return jnp.concatenate([x[:, row::side, column::side] for row in range(side) for column in range(side)], -1)


def convolve(conv: nnx.Conv, x: jax.Array, sides: tuple[int, int]) -> jax.Array:
    """What `conv` computes, from blocks to blocks, its bias and dtype too.

    x      [B,h,w,side*side*C] -> [B,h',w',out*out*D]
    sides  (side, out) of the blocks that x and the result are in; (1, 1): single pixels
    """
    if sides == (1, 1):
        return conv(x)
    dtype = conv.dtype or jnp.promote_types(x.dtype, conv.kernel.dtype)
    stride = conv.strides if isinstance(conv.strides, int) else conv.strides[0]
    y = blocked_conv(x.astype(dtype), conv.kernel[...].astype(dtype), stride=stride, sides=sides)
    return y if conv.bias is None else y + spread(conv.bias[...].astype(dtype), y)


def blocked_conv(x: jax.Array, kernel: jax.Array, *, stride: int, sides: tuple[int, int]) -> jax.Array:
    """The convolution with padding n // 2, from blocks to blocks.

    x       [B,h,w,side*side*C], kernel [n,n,C,D] -> [B,h',w',out*out*D]
    sides   (side, out) of the blocks that x and the result are in; side divides out * stride
    """
    side, out = sides
    selection, before = _selection(kernel.shape[0], stride, side, out)
    selection = jnp.asarray(selection, kernel.dtype)
    blocked = jnp.einsum("hrat,wcbu,tuij->hwrciabj", selection, selection, kernel, precision="highest")
    blocked = blocked.reshape(*blocked.shape[:2], side * side * kernel.shape[2], out * out * kernel.shape[3])
    step = out * stride // side
    padding = (before, blocked.shape[0] - before - step)
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, blocked, (step, step), (padding, padding), dimension_numbers=numbers)


def _selection(size: int, stride: int, side: int, out: int) -> tuple[np.ndarray, int]:
    """(f32[blocks,side,out,size], blocks before the result's own): 1 where a kernel's row meets a row of a block."""
    met = [[stride * row + tap - size // 2 for tap in range(size)] for row in range(out)]
    first, last = met[0][0] // side, met[-1][-1] // side
    selection = np.zeros((last - first + 1, side, out, size), np.float32)
    for row, taps in enumerate(met):
        for tap, at in enumerate(taps):
            selection[at // side - first, at % side, row, tap] = 1
    return selection, -first


def spread(values: jax.Array, x: jax.Array) -> jax.Array:
    """Of every channel -> of every channel of every pixel of a block of x [B,h,w,k*C]: [C] -> [k*C]"""
    pixels = x.shape[-1] // values.shape[-1]
    return values if pixels == 1 else jnp.tile(values, pixels)


def channel_sums(x: jax.Array, channels: int) -> jax.Array:
    """The sums over batch and pixels, also those of a block: [B,h,w,k*C] -> [C]"""
    return _over_block(x.sum((0, 1, 2)), channels)


def channel_sums_by_product(x: jax.Array, channels: int) -> jax.Array:
    """`channel_sums`, on CPUs in half of the time and with less rounding: [B,h,w,k*C] -> [C]

    Source: benchmarks/batch_norm_sums.py. A product with ones adds up the columns, XLA the rest: in one product
    too many numbers would be added one after another.
    """
    columns = jax.lax.dot_general(jnp.ones(x.shape[:2], x.dtype), x, (((0, 1), (0, 1)), ((), ())))
    return _over_block(columns.sum(0), channels)


def _over_block(sums: jax.Array, channels: int) -> jax.Array:
    return sums if sums.size == channels else sums.reshape(-1, channels).sum(0)
