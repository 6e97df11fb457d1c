"""Convolution as one matrix product: XLA:CPU computes float64 convolutions in a plain loop, ten times slower."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def use(monkeypatch) -> None:
    """Every nnx.Conv computes by `convolve` until the end of the test."""
    monkeypatch.setattr(nnx.Conv, "__call__", convolve)


def convolve(conv: nnx.Conv, x: jax.Array) -> jax.Array:
    """What `conv(x)` computes, for no dilation; x [B,h,w,C]"""
    kernel, bias = conv.kernel[...], conv.bias
    height, width = kernel.shape[:2]
    stride_y, stride_x = np.broadcast_to(conv.strides, 2)
    padding = conv.padding
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], (height, width), (stride_y, stride_x), padding)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = (x.shape[1] - height) // stride_y + 1, (x.shape[2] - width) // stride_x + 1
    windows = [
        x[:, top : top + (rows - 1) * stride_y + 1 : stride_y, left : left + (columns - 1) * stride_x + 1 : stride_x]
        for top in range(height)
        for left in range(width)
    ]
    y = jnp.concatenate(windows, -1) @ kernel.reshape(-1, kernel.shape[-1])
    return y if bias is None else y + bias[...]
