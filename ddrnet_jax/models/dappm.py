"""Deep Aggregation Pyramid Pooling Module (paper section 3.3)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ddrnet_jax.models.blocks import PreActConv, average_pool, resize

POOLS = ((5, 2), (9, 4), (17, 8))  # (window, stride) of scales 1..3; scale 4 is the global average


class DAPPM(nnx.Module):
    """Five context scales of the 1/64 map, fused from the finest to the coarsest.

    Source: y0 = scale0(x); y_i = process_i(up(scale_i(pool_i(x))) + y_{i-1}); then
    compression(concat(y0..y4)) + shortcut(x). Every convolution is pre-activated.
    """

    def __init__(self, cin: int, width: int, cout: int, *, dtype: DTypeLike | None, rngs: nnx.Rngs):
        def pre_act(a, b, size):
            return PreActConv(a, b, size, dtype=dtype, rngs=rngs)

        self.scales = nnx.List(pre_act(cin, width, 1) for _ in range(5))
        self.processes = nnx.List(pre_act(width, width, 3) for _ in range(4))
        self.compression = pre_act(5 * width, cout, 1)
        self.shortcut = pre_act(cin, cout, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,h,w,cin] at 1/64 -> [B,h,w,cout]"""
        pooled = [average_pool(x, size, stride) for size, stride in POOLS]
        pooled.append(x.mean((1, 2), keepdims=True))
        outputs = [self.scales[0](x)]
        for scale, process, p in zip(list(self.scales)[1:], self.processes, pooled, strict=True):
            outputs.append(process(resize(scale(p), x.shape[1:3]) + outputs[-1]))
        return self.compression(jnp.concatenate(outputs, -1)) + self.shortcut(x)
