"""Building blocks: ConvBN, PreActConv, BasicBlock, Bottleneck, Stage, pooling, resizing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from ddrnet_jax.models.batch_norm import BatchNorm
from ddrnet_jax.models.conv3x3 import convolve
from ddrnet_jax.models.initial_weights import conv_kernel_init, uniform_init
from ddrnet_jax.models.interpolation import bilinear
from ddrnet_jax.models.relu import relu


def conv(
    cin: int,
    cout: int,
    size: int,
    stride: int = 1,
    *,
    use_bias: bool = False,
    dtype: DTypeLike | None,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """`size` x `size` convolution, padded by size // 2 on all four sides.

    Source: XLA's "SAME" pads even inputs of a stride-2 convolution by (0, 1); the reference pads (1, 1).
    """
    pad = size // 2
    return nnx.Conv(
        cin,
        cout,
        (size, size),
        strides=stride,
        padding=((pad, pad), (pad, pad)),
        use_bias=use_bias,
        kernel_init=conv_kernel_init,
        bias_init=uniform_init(cin * size * size),
        dtype=dtype,
        conv_general_dilated=convolve,
        rngs=rngs,
    )


class ConvBN(nnx.Module):
    """Convolution, then batch norm; no activation: [B,h,w,cin] -> [B,ceil(h/stride),ceil(w/stride),cout]."""

    def __init__(
        self,
        cin: int,
        cout: int,
        size: int,
        stride: int = 1,
        *,
        use_bias: bool = False,
        dtype: DTypeLike | None,
        rngs: nnx.Rngs,
    ):
        self.conv: Any = conv(cin, cout, size, stride, use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.bn: Any = BatchNorm(cout, dtype=dtype)  # other forms of the network put others in their places

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.bn(self.conv(x))


class PreActConv(nnx.Module):
    """Batch norm, ReLU, convolution, the order of DAPPM and of the heads: [B,h,w,cin] -> [B,h,w,cout]."""

    def __init__(
        self, cin: int, cout: int, size: int, *, use_bias: bool = False, dtype: DTypeLike | None, rngs: nnx.Rngs
    ):
        self.bn: Any = BatchNorm(cin, dtype=dtype)
        self.conv = conv(cin, cout, size, use_bias=use_bias, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(relu(self.bn(x)))


class BasicBlock(nnx.Module):
    """Two 3x3 ConvBN and a residual, not activated: [B,h,w,cin] -> [B,ceil(h/stride),ceil(w/stride),cout]."""

    def __init__(self, cin: int, cout: int, stride: int = 1, *, dtype: DTypeLike | None, rngs: nnx.Rngs):
        self.conv_bn1 = ConvBN(cin, cout, 3, stride, dtype=dtype, rngs=rngs)
        self.conv_bn2 = ConvBN(cout, cout, 3, dtype=dtype, rngs=rngs)
        needs_projection = stride != 1 or cin != cout
        self.shortcut = nnx.data(ConvBN(cin, cout, 1, stride, dtype=dtype, rngs=rngs) if needs_projection else None)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv_bn2(relu(self.conv_bn1(x)))
        return y + (x if self.shortcut is None else self.shortcut(x))


class Bottleneck(nnx.Module):
    """1x1, 3x3 (strided), 1x1 ConvBN with expansion 2 and a projected residual; not activated.

    [B,h,w,cin] -> [B,ceil(h/stride),ceil(w/stride),2*width]
    """

    def __init__(self, cin: int, width: int, stride: int = 1, *, dtype: DTypeLike | None, rngs: nnx.Rngs):
        self.conv_bn1 = ConvBN(cin, width, 1, dtype=dtype, rngs=rngs)
        self.conv_bn2 = ConvBN(width, width, 3, stride, dtype=dtype, rngs=rngs)
        self.conv_bn3 = ConvBN(width, 2 * width, 1, dtype=dtype, rngs=rngs)
        self.shortcut = ConvBN(cin, 2 * width, 1, stride, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = relu(self.conv_bn1(x))
        y = relu(self.conv_bn2(y))
        return self.conv_bn3(y) + self.shortcut(x)


class Stage(nnx.Module):
    """`depth` BasicBlocks with ReLU between them; the last one's output is not activated.

    [B,h,w,cin] -> [B,ceil(h/stride),ceil(w/stride),cout]
    """

    def __init__(self, cin: int, cout: int, depth: int, stride: int = 1, *, dtype: DTypeLike | None, rngs: nnx.Rngs):
        self.blocks = nnx.List(
            BasicBlock(cin if i == 0 else cout, cout, stride if i == 0 else 1, dtype=dtype, rngs=rngs)
            for i in range(depth)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        for i, block in enumerate(self.blocks):
            x = block(x if i == 0 else relu(x))
        return x


def average_pool(x: jax.Array, size: int, stride: int) -> jax.Array:
    """Average over size x size windows, zero padding size // 2, always divided by size**2.

    x [B,h,w,C] -> [B,floor((h - 1) / stride) + 1,...] for odd sizes
    Source: PyTorch's count_include_pad=True, which the reference relies on. The padding is an
    explicit jnp.pad because ONNX converters drop the padding argument of pooling.
    """
    pad = size // 2
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    return nnx.avg_pool(padded, (size, size), strides=(stride, stride), padding="VALID")


def resize(x: jax.Array, size_hw: tuple[int, ...]) -> jax.Array:
    """Bilinear with half-pixel centres and no antialiasing (PyTorch's align_corners=False).

    x [B,h,w,C] -> [B,H,W,C] in the dtype of x
    """
    if x.shape[1:3] == tuple(size_hw):
        return x
    return bilinear(x, size_hw)


def upsample_x8(x: jax.Array, size_hw: tuple[int, ...]) -> jax.Array:
    """Stride-8 maps at image size: x8 bilinear with half-pixel centres, cropped to `size_hw`.

    x f32[B,ceil(H/8),ceil(W/8),C] -> f32[B,H,W,C]
    Source: equal to the reference's resize for multiples of 8, and to the last bit what upsampling.argmax_x8 does. The
    eight pixels of a cell lie four by four between it and its neighbours: element by element, so that XLA for TPUs
    computes a loss from it without storing it (benchmarks/tpu_bytes.py), and for CPUs in two thirds of the time.
    """
    for axis, length in ((2, size_hw[1]), (1, size_hw[0])):
        cells, shape = x.shape[axis], (8, *[1] * (x.ndim - axis - 1))
        around = jnp.expand_dims(repeat_edges(x, axis), axis + 1)
        before, own, after = (jax.lax.slice_in_dim(around, i, i + cells, axis=axis) for i in range(3))
        is_first_half = (np.arange(8) < 4).reshape(shape)
        left, right = jnp.where(is_first_half, before, own), jnp.where(is_first_half, own, after)
        weight = np.array([9, 11, 13, 15, 1, 3, 5, 7], x.dtype) / 16
        y = left + (right - left) * weight.reshape(shape)
        y = y.reshape(*x.shape[:axis], 8 * cells, *x.shape[axis + 1 :])
        x = jax.lax.slice_in_dim(y, 0, length, axis=axis)
    return x


def repeat_edges(x: jax.Array, axis: int) -> jax.Array:
    """[..,n,..] -> [..,n+2,..], the first and the last along the axis twice"""
    first, last = jax.lax.slice_in_dim(x, 0, 1, axis=axis), jax.lax.slice_in_dim(x, -1, None, axis=axis)
    return jnp.concatenate([first, x, last], axis)


def neighbours(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """All but the last, all but the first along an axis: [..,n,..] -> two of [..,n-1,..]"""
    return jax.lax.slice_in_dim(x, 0, -1, axis=axis), jax.lax.slice_in_dim(x, 1, None, axis=axis)


def eighths_between(before: jax.Array, after: jax.Array, axis: int) -> jax.Array:
    """The eight pixels that lie between each two neighbours along an axis: [..,n,..] -> [..,n,8,..]"""
    before, after = jnp.expand_dims(before, axis + 1), jnp.expand_dims(after, axis + 1)
    weight = np.array([1, 3, 5, 7, 9, 11, 13, 15], before.dtype) / 16
    return before + (after - before) * weight.reshape(8, *[1] * (before.ndim - axis - 2))
