"""The form for TPUs: maps kept as blocks of pixels, since a pixel of few channels wastes rows of 128 numbers.

A map [B,H,W,C] in blocks of side s is [B,H/s,W/s,s*s*C], a block's channels by row, column and channel. Convolutions
of such maps have larger kernels that hold the same weights, with zeros between them.
"""

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddrnet_jax.models import platforms
from ddrnet_jax.models.batch_norm import BatchNorm, channel_sums, normalise, normalise_by_batch
from ddrnet_jax.models.blocks import ConvBN

if TYPE_CHECKING:
    from ddrnet_jax.models.ddrnet import DDRNet

ROW = 128  # numbers in a row of a TPU's memory; fewer are filled up
IMAGE_SIDE, SIDE = 4, 2  # of the blocks of the image, and of the maps at 1/2 and 1/4 of its size
MULTIPLE = 8  # of which a height and width must be: blocks of SIDE at 1/4


def in_blocks_on_tpus(network: Callable) -> Callable:
    """DDRNet.__call__ (model, images f32[B,H,W,3]) -> the same, on TPUs computed by `form` where that gains.

    Source: blocks save half of the bytes that inference accesses (benchmarks/tpu_bytes.py). Where a block of a map has
    more channels than a row takes, they would cost more arithmetic than they save.
    """

    @functools.wraps(network)
    def on_this_platform(model, images):
        return network(form(model) if _gains(model, images.shape) else model, images)

    return on_this_platform


def _gains(model: "DDRNet", shape: tuple[int, ...]) -> bool:
    is_narrow = SIDE**2 * model.stem[0].conv.out_features <= ROW
    suits = all(isinstance(n, int) and n % MULTIPLE == 0 for n in shape[1:3])  # no symbol of an export
    return platforms.current() == "tpu" and is_narrow and suits


def form(model: "DDRNet") -> "DDRNet":
    """A copy of a DDRNet that shares its weights and statistics; from the image to 1/8 it computes in blocks."""
    copy = nnx.clone(model, variables=False)
    first, second = copy.stem
    _put_in_blocks(first, IMAGE_SIDE, SIDE)
    for conv_bn in (second, *_conv_bns(copy.layer1)):
        _put_in_blocks(conv_bn, SIDE, SIDE)
    for conv_bn in _conv_bns(copy.layer2):
        if conv_bn.conv.strides == 2:  # the others see single pixels at 1/8
            _put_in_blocks(conv_bn, SIDE, 1)
    return copy


def _conv_bns(module: nnx.Module) -> Iterator[ConvBN]:
    return (m for _, m in nnx.iter_modules(module) if isinstance(m, ConvBN))


def _put_in_blocks(conv_bn: ConvBN, side: int, out: int) -> None:
    conv_bn.conv = _ConvOfBlocks(conv_bn.conv, side, out)
    if isinstance(conv_bn.bn, BatchNorm) and out > 1:
        conv_bn.bn = _BatchNormOfBlocks(conv_bn.bn, out)


class _ConvOfBlocks(nnx.Module):
    """A convolution from an image, or blocks of one side, to blocks of another, its bias and dtype too."""

    def __init__(self, conv: nnx.Conv, side: int, out: int):
        self.conv, self.side, self.out = conv, side, out

    def __call__(self, x: jax.Array) -> jax.Array:
        conv, (kernel, bias) = self.conv, (self.conv.kernel[...], self.conv.bias)
        if x.shape[-1] == conv.in_features:
            x = in_blocks(x, self.side)
        dtype = conv.dtype or jnp.promote_types(x.dtype, kernel.dtype)
        sides = self.side, self.out
        stride: Any = conv.strides  # one number in our layers
        y = blocked_conv(x.astype(dtype), kernel.astype(dtype), stride=stride, sides=sides)
        return y if bias is None else y + jnp.tile(bias[...].astype(dtype), self.out**2)


class _BatchNormOfBlocks(nnx.Module):
    """A batch norm of a map in blocks: its vectors, repeated for every pixel of a block."""

    def __init__(self, bn: BatchNorm, side: int):
        self.bn, self.pixels = bn, side**2

    def __call__(self, x: jax.Array) -> jax.Array:
        bn, channels = self.bn, self.bn.scale.size
        scale, bias, mean, var = (jnp.tile(v[...], self.pixels) for v in (bn.scale, bn.bias, bn.mean, bn.var))
        if bn.use_running_average:
            y = normalise(x, mean, var, scale, bias)
        else:
            y, mean, var = normalise_by_batch(x, scale, bias, functools.partial(block_sums, pixels=self.pixels))
            bn.move_statistics(mean[:channels], var[:channels], count=x.size // channels)
        return y.astype(bn.dtype or y.dtype)


def block_sums(x: jax.Array, pixels: int) -> jax.Array:
    """`channel_sums` of blocks, the mean over a block's pixels at each of them: [B,h,w,pixels*C] -> [pixels*C]

    Source: sums that are shared so give batch norm's arithmetic, and its gradients, of all pixels together.
    """
    return jnp.tile(channel_sums(x).reshape(pixels, -1).mean(0), pixels)


def in_blocks(x: jax.Array, side: int) -> jax.Array:
    """[B,H,W,C] -> [B,H/side,W/side,side*side*C]

    Source: slices, since TPUs transpose the axes of side 4 at 32 times their bytes.
    """
    return jnp.concatenate([x[:, row::side, column::side] for row in range(side) for column in range(side)], -1)


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
