"""The inference network: batch norm folded into the convolution before it, the auxiliary head gone."""

import jax
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from ddrnet_jax.models.batch_norm import EPSILON, BatchNorm
from ddrnet_jax.models.blocks import ConvBN
from ddrnet_jax.models.ddrnet import DDRNet, SegmentationHead


class Folded(nnx.Module):
    """The rest of a batch norm that its convolution has taken in: nothing to do."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,h,w,C] as it is"""
        return x


def fold(model: DDRNet, dtype: DTypeLike | None = None) -> DDRNet:
    """A copy of the model for inference, equal to it in eval mode within 1e-5 of the largest logit.

    dtype  to compute in; None: the model's own. Kernels and biases are rounded to it here, once, not in every call.
    Where no convolution comes right before a batch norm (in DAPPM and at the head's input) it stays.
    Source: the paper times a network without batch norm; here the numbers are those of the trained one.
    """
    folded = nnx.clone(model)
    for _, module in nnx.iter_modules(folded):
        if isinstance(module, ConvBN):
            _fold(module.conv, module.bn)
            module.bn = Folded()
        if isinstance(module, SegmentationHead):
            _fold(module.hidden.conv, module.classifier.bn)
            module.classifier.bn = Folded()
        if dtype is not None and hasattr(module, "dtype"):
            module.dtype = dtype
    for _, module in nnx.iter_modules(folded):  # once all are folded
        if isinstance(module, nnx.Conv) and module.dtype is not None:
            _round(module)
    folded.aux_head = nnx.data(None)
    folded.eval()
    return folded


def _fold(conv: nnx.Conv, bn: BatchNorm) -> None:
    """Into the convolution's kernel and bias what the batch norm after it does."""
    scale, shift, mean, var = (np.asarray(v[...], np.float64) for v in (bn.scale, bn.bias, bn.mean, bn.var))
    factor = scale / np.sqrt(var + EPSILON)
    bias = 0.0 if conv.bias is None else np.asarray(conv.bias[...], np.float64)
    dtype = conv.kernel.dtype
    kernel = np.asarray(conv.kernel[...], np.float64) * factor
    bias = (bias - mean) * factor + shift
    # Rounded by NumPy and put, since jnp.asarray compiles a program for each shape.
    conv.kernel[...], bias = jax.device_put((kernel.astype(dtype), bias.astype(dtype)))
    conv.bias = nnx.Param(bias)
    conv.use_bias = True


def _round(conv: nnx.Conv) -> None:
    """Kernel and bias to the type that the convolution computes in."""
    for variable in (conv.kernel, conv.bias):
        if variable is not None:
            variable.set_value(jax.device_put(np.asarray(variable[...]).astype(np.dtype(conv.dtype))))
