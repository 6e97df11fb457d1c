"""3x3 convolutions of stride 1 and 2 that CPUs differentiate quickly too."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ddrnet_jax.models import platforms

_TAPS = ((1,), (2, 0))  # rows of the kernel that meet an even, and an odd, row of the input of a strided convolution


def convolve(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], **options: Any
) -> jax.Array:
    """jax.lax.conv_general_dilated, on CPUs `conv3x3` where that fits: x [B,H,W,C], kernel [h,w,C,D] -> [B,h',w',D]"""
    fits = kernel.shape[:2] == (3, 3) and max(strides) <= 2
    way = conv3x3 if fits and platforms.current() == "cpu" else jax.lax.conv_general_dilated
    return way(x, kernel, strides, padding, **options)


def conv3x3(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], **options: Any
) -> jax.Array:
    """jax.lax.conv_general_dilated for nnx.Conv, of stride 1 or 2 and padding 1.

    x [B,H,W,C], kernel [3,3,C,D] -> [B,ceil(H/stride),ceil(W/stride),D]
    Raises ValueError for any other convolution.
    Source: the gradient of the kernel is matrix products over the pixels, and that of the input of a strided
    convolution is computed in four parts, by whether its row and column are even or odd. XLA convolves with kernels as
    large as the image, or with zeros put between pixels, both slow on CPUs (benchmarks/conv_gradients.py).
    """

    dilation = {options.get(name, 1) for name in ("lhs_dilation", "rhs_dilation")} - {1, (1, 1), None}
    geometry = kernel.shape[:2], tuple(strides), tuple(map(tuple, padding)), kernel.shape[2]
    if geometry not in [((3, 3), (n, n), ((1, 1), (1, 1)), x.shape[-1]) for n in (1, 2)] or dilation:
        raise ValueError(f"expected a 3x3 convolution of stride 1 or 2 and padding 1 in one group, found {geometry}")
    stride = strides[0]

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)

    def backward(kept, dy):
        x, kernel = kept
        if stride == 2:
            return _input_gradient_by_parity(dy, kernel, x.shape), _strided_kernel_gradient(x, dy)
        _, of_input = jax.vjp(lambda x: plain(x, kernel), x)
        return *of_input(dy), _kernel_gradient(x, dy)

    with_fast_gradients = jax.custom_vjp(plain)
    with_fast_gradients.defvjp(lambda x, kernel: (plain(x, kernel), (x, kernel)), backward)
    return with_fast_gradients(x, kernel)


def _kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """The gradient at stride 1, in one product: three shifts of x along the row by three of dy along the column."""
    (height, width), channels = x.shape[1:3], (x.shape[-1], dy.shape[-1])
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    dy = jnp.pad(dy, ((0, 0), (1, 1), (0, 0), (0, 0)))
    columns = jnp.concatenate([x[:, :, j : j + width] for j in range(3)], -1)
    rows = jnp.concatenate([dy[:, 2 - i : 2 - i + height] for i in range(3)], -1)
    gradient = _product_over_pixels(columns, rows).reshape(3, channels[0], 3, channels[1])
    return gradient.transpose(2, 0, 1, 3)


def _strided_kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """The gradient at stride 2, a product a row of the kernel."""
    _, height, width, cout = dy.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def row(i):
        taps = [x[:, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2] for j in range(3)]
        return _product_over_pixels(jnp.concatenate(taps, -1), dy).reshape(3, -1, cout)

    return jnp.stack([row(i) for i in range(3)])


def _product_over_pixels(x: jax.Array, dy: jax.Array) -> jax.Array:
    """The sum over images and pixels of the outer products: [B,h,w,C], [B,h,w,D] -> [C,D]

    Source: image by image, or the product of few channels by few would use one core.
    """
    x, dy = (a.reshape(a.shape[0], -1, a.shape[-1]) for a in (x, dy))
    accumulator = jnp.promote_types(x.dtype, jnp.float32)
    of_images = jnp.einsum("bnc,bnd->bcd", x, dy, preferred_element_type=accumulator)
    return of_images.sum(0).astype(x.dtype)


def _input_gradient_by_parity(dy: jax.Array, kernel: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The gradient at stride 2: dy [B,h,w,D] -> [B,H,W,C]"""
    transposed = kernel.swapaxes(2, 3)

    def part(rows, columns):
        taps = transposed[jnp.array(rows)][:, jnp.array(columns)]
        after = ((0, len(rows) - 1), (0, len(columns) - 1))
        return jax.lax.conv_general_dilated(dy, taps, (1, 1), after, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    parts = jnp.stack([jnp.stack([part(rows, columns) for columns in _TAPS], 3) for rows in _TAPS], 2)
    batch, height, width, channels = shape
    return parts.reshape(batch, 2 * dy.shape[1], 2 * dy.shape[2], channels)[:, :height, :width]
