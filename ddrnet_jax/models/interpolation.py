"""Bilinear interpolation, on GPUs by positions and weights that are constants of the program."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddrnet_jax.models import platforms


def bilinear(x: jax.Array, size_hw: tuple[int, ...]) -> jax.Array:
    """Half-pixel centres, no antialiasing: x [B,h,w,C] -> [B,H,W,C] in the dtype of x; on GPUs `by_constants`"""
    is_known = all(isinstance(n, int) for n in (*x.shape[1:3], *size_hw))  # no symbol of an export
    if is_known and platforms.current() == "gpu":
        return by_constants(x, tuple(size_hw))
    return jax.image.resize(x, (x.shape[0], *size_hw, x.shape[3]), "bilinear", antialias=False)


class Between(NamedTuple):
    """Where the pixels of an axis lie among its cells.

    before, after  i32[length], the cells on both sides; the same one at the edges
    weight         f64[length] (0..1) of the second
    """

    before: np.ndarray
    after: np.ndarray
    weight: np.ndarray


def between(cells: int, length: int) -> Between:
    """Half-pixel centres: `length` pixels over all of the cells."""
    centre = np.clip((np.arange(length) + 0.5) * cells / length - 0.5, 0, cells - 1)
    before = np.floor(centre).astype(np.int32)
    return Between(before, np.minimum(before + 1, cells - 1), centre - before)


def eighths(cells: int, length: int) -> Between:
    """Where the first `length` of 8 * `cells` pixels lie among the cells."""
    return Between(*(part[:length] for part in between(cells, 8 * cells)))


def interpolate(x: jax.Array, rows: Between, columns: Between) -> jax.Array:
    """[B,h,w,C] -> [B,H,W,C], by column first, then by row

    Source: every pixel takes its four cells itself. Of one axis after the other XLA for GPUs would store the first.
    """
    row_weight, column_weight = rows.weight.astype(x.dtype)[:, None, None], columns.weight.astype(x.dtype)[:, None]

    def at(row, column):
        return jnp.take(jnp.take(x, row, 1, mode="clip"), column, 2, mode="clip")

    def along(row):
        left = at(row, columns.before)
        return left + (at(row, columns.after) - left) * column_weight

    above = along(rows.before)
    return above + (along(rows.after) - above) * row_weight


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def by_constants(x: jax.Array, size_hw: tuple[int, ...]) -> jax.Array:
    """`bilinear`, computed in float32 at least: [B,h,w,C] -> [B,H,W,C]

    Source: jax.image.resize makes its matrices in the program, in many small kernels, and multiplies by them. This is a
    part of the kernel that reads the result. Its gradient would scatter: it is a product with the matrices instead,
    which are constants (benchmarks/gpu_bytes.py).
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return interpolate(wide, between(x.shape[1], size_hw[0]), between(x.shape[2], size_hw[1])).astype(x.dtype)


def _forward(x, size_hw):
    return by_constants(x, size_hw), x.shape


def _backward(size_hw, shape, dy):
    rows, columns = (matrix(between(shape[axis], size_hw[axis - 1]), shape[axis]).astype(dy.dtype) for axis in (1, 2))
    return (jnp.einsum("bHWc,Hh,Ww->bhwc", dy, rows, columns, precision="highest"),)


by_constants.defvjp(_forward, _backward)


def matrix(pixels: Between, cells: int) -> np.ndarray:
    """f64[length,cells]: what each pixel takes of each cell; rows sum to 1"""
    found, each = np.zeros((len(pixels.weight), cells)), np.arange(len(pixels.weight))
    np.add.at(found, (each, pixels.before), 1 - pixels.weight)
    np.add.at(found, (each, pixels.after), pixels.weight)
    return found
