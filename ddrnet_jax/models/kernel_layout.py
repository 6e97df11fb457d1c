"""The order in which a network's convolution kernels lie in a GPU's memory: that in which cuDNN reads them."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Format, Layout
from jax.sharding import Sharding, SingleDeviceSharding
from jax.typing import DTypeLike

from ddrnet_jax.models import platforms

# Axes of a kernel [h,w,C,D], the outermost first.
WITH_CHANNELS_LAST = (3, 0, 1, 2)  # D,h,w,C beside maps [B,H,W,C]
WITH_CHANNELS_FIRST = (3, 2, 0, 1)  # D,C,h,w beside maps [B,C,H,W]


def order(compute_capability: str, dtype: DTypeLike) -> tuple[int, ...] | None:
    """The axes of a kernel [h,w,C,D] of this type from outermost to innermost; None: as JAX has them.

    compute_capability  of a GPU, as in "9.0"; nothing is known of other makers'
    Source: what the compiler answers for Layout.AUTO (tests/plan/test_gpus.py). In any other order every call
    transposes all kernels, 55 of 23-slim.
    """
    capability = platforms.capability(compute_capability)
    if capability is None:
        return None
    is_half = dtype == jnp.float16 or (dtype == jnp.bfloat16 and platforms.has_bfloat16(compute_capability))
    return WITH_CHANNELS_LAST if is_half or capability >= 9 else WITH_CHANNELS_FIRST


def formats(weights: Any, sharding: Sharding) -> Any:
    """A tree like `weights` of where each leaf is to lie: `sharding`, on GPUs with the layout of kernels."""
    device: Any = next(iter(sharding.device_set))

    def of_leaf(leaf):
        is_kernel = leaf.ndim == 4 and device.platform == "gpu"
        axes = order(device.compute_capability, leaf.dtype) if is_kernel else None
        return Format(Layout(axes), sharding) if axes else sharding

    return jax.tree.map(of_leaf, weights)


def put(weights: Any) -> Any:
    """The weights on the default device, to be given to compiled programs of whatever kind."""
    device = jax.devices()[0]
    if device.platform != "gpu":
        return jax.device_put(weights)
    return jax.device_put(weights, formats(weights, SingleDeviceSharding(device)))
