"""3x3 convolution of stride 2 that XLA:CPU differentiates quickly too."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

_TAPS = ((1,), (2, 0))  # rows of the kernel that meet an even, and an odd, row of the input


def strided_conv(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Sequence[Sequence[int]], **options: object
) -> jax.Array:
    """jax.lax.conv_general_dilated for nnx.Conv, of stride 2 and padding 1.

    x [B,H,W,C], kernel [3,3,C,D] -> [B,ceil(H/2),ceil(W/2),D]
    Raises ValueError for any other convolution.
    Source: on CPUs the gradient of x is computed in four parts, by whether its row and column are even or odd. XLA
    convolves the output's gradient with zeros put between its pixels (benchmarks/strided_conv.py).
    """

    dilation = {options.get(name, 1) for name in ("lhs_dilation", "rhs_dilation")} - {1, (1, 1), None}
    geometry = kernel.shape[:2], tuple(strides), tuple(map(tuple, padding)), kernel.shape[2]
    if geometry != ((3, 3), (2, 2), ((1, 1), (1, 1)), x.shape[-1]) or dilation:
        raise ValueError(f"expected a 3x3 convolution of stride 2 and padding 1 in one group, found {geometry}")

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)

    def backward(kept, dy):
        x, kernel = kept
        _, gradients = jax.vjp(convolve, x, kernel)
        dx = jax.lax.platform_dependent(
            dy, kernel, cpu=lambda dy, kernel: _by_parity(dy, kernel, x.shape), default=lambda dy, _: gradients(dy)[0]
        )
        return dx, gradients(dy)[1]

    with_fast_gradient = jax.custom_vjp(convolve)
    with_fast_gradient.defvjp(lambda x, kernel: (convolve(x, kernel), (x, kernel)), backward)
    return with_fast_gradient(x, kernel)


def _by_parity(dy: jax.Array, kernel: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The gradient of x from that of the output: dy [B,h,w,D] -> [B,H,W,C]"""
    transposed = kernel.swapaxes(2, 3)

    def part(rows, columns):
        taps = transposed[jnp.array(rows)][:, jnp.array(columns)]
        after = ((0, len(rows) - 1), (0, len(columns) - 1))
        return jax.lax.conv_general_dilated(dy, taps, (1, 1), after, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    parts = jnp.stack([jnp.stack([part(rows, columns) for columns in _TAPS], 3) for rows in _TAPS], 2)
    batch, height, width, channels = shape
    return parts.reshape(batch, 2 * dy.shape[1], 2 * dy.shape[2], channels)[:, :height, :width]
