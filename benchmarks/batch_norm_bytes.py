"""Bytes that two residual blocks access on a TPU, forwards and backwards, by the arithmetic of their batch norms.

python benchmarks/batch_norm_bytes.py [--json FILE]

As compiled for a v5e:2x2 (needs libtpu: pyproject.toml, extra "plan"), not run. Blocks of 64 channels at 1/8 of two
crops of 512x1024 a chip. Exploration: the network keeps the first form.
"""

import argparse
import functools
import json
import os
import sys
from pathlib import Path
from unittest import mock

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}  # before jax is imported

import jax
import jax.numpy as jnp
from flax import nnx

from ddrnet_jax.models import batch_norm, blocks, platforms, variables
from ddrnet_jax.models.batch_norm import EPSILON, channel_sums
from ddrnet_jax.plan import accelerators
from ddrnet_jax.runtime import devices

CHANNELS, DEPTH, SHAPE = 64, 2, (8, 64, 128, 64)
PIXELS = (0, 1, 2)


def _narrow_forward(x, scale, bias):
    """Statistics in float32, all else in the dtype of x."""
    wide = x.astype(jnp.float32)
    mean = wide.mean(PIXELS)
    var = jnp.square(wide - mean).mean(PIXELS)
    inverse_std = jax.lax.rsqrt(var + EPSILON)
    y = (x - mean.astype(x.dtype)) * (scale * inverse_std).astype(x.dtype) + bias.astype(x.dtype)
    return (y.astype(jnp.float32), mean, var), (x, mean, inverse_std, scale)


def _narrow_backward(kept, cotangents):
    x, mean, inverse_std, scale = kept
    dy, count = cotangents[0].astype(x.dtype), x.size // scale.size
    x_hat = (x - mean.astype(x.dtype)) * inverse_std.astype(x.dtype)
    d_bias, d_scale = (a.astype(jnp.float32).sum(PIXELS) for a in (dy, dy * x_hat))
    shift, slope = ((a / count).astype(x.dtype) for a in (d_bias, d_scale))
    return (scale * inverse_std).astype(x.dtype) * (dy - (shift + x_hat * slope)), d_scale, d_bias


_wide_backward = functools.partial(batch_norm._backward, channel_sums)


def _one_pass_forward(x, scale, bias):
    """The variance as the mean of squares less the square of the mean, which cancels."""
    wide = x.astype(jnp.float32)
    mean = wide.mean(PIXELS)
    var = jnp.square(wide).mean(PIXELS) - jnp.square(mean)
    inverse_std = jax.lax.rsqrt(var + EPSILON)
    return ((wide - mean) * (scale * inverse_std) + bias, mean, var), (x, mean, inverse_std, scale)


def _batch_norm(forward, backward):
    function = jax.custom_vjp(lambda x, scale, bias: forward(x, scale, bias)[0])
    function.defvjp(forward, backward)
    return function


ours = functools.partial(batch_norm.normalise_by_batch, sums=channel_sums)
FORMS = {
    "bfloat16 network, batch norm's arithmetic in float32 (ours)": (jnp.bfloat16, ours),
    "its arithmetic in bfloat16, statistics in float32": (jnp.bfloat16, _batch_norm(_narrow_forward, _narrow_backward)),
    "its statistics in one pass": (jnp.bfloat16, _batch_norm(_one_pass_forward, _wide_backward)),
    "float32 network": (None, ours),
}


def lowered(dtype, normalise, mesh, kept=None) -> jax.stages.Lowered:
    """Loss and gradients of the blocks over the mesh; `kept` is a policy of rematerialisation, None for none."""
    network = blocks.Stage(CHANNELS, CHANNELS, DEPTH, dtype=dtype, rngs=nnx.Rngs(0))
    graphdef, params, batch_stats = variables.split(network)

    def loss(params, batch_stats, x):
        model = variables.merge(graphdef, params, batch_stats)
        model.train()
        return jnp.square(model(x).astype(jnp.float32)).mean(), variables.batch_stats(model)

    def placed(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    weights = jax.tree.map(lambda leaf: placed(leaf, devices.replicated(mesh)), (params, batch_stats))
    x = placed(jax.ShapeDtypeStruct(SHAPE, dtype or jnp.float32), devices.by_batch(mesh))
    form = mock.patch.object(batch_norm, "normalise_by_batch", lambda x, scale, bias, sums: normalise(x, scale, bias))
    loss = jax.checkpoint(loss, policy=kept) if kept else loss
    with form, platforms.compiled_for(devices.platform(mesh)):
        return jax.jit(jax.value_and_grad(loss, (0, 2), has_aux=True)).lower(*weights, x)


def main() -> None:
    """Print bytes accessed and temporary memory a chip of each form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    mesh = devices.data_mesh(list(accelerators.topology("v5e:2x2").devices))
    figures = {}
    for form, (dtype, normalise) in FORMS.items():
        program = lowered(dtype, normalise, mesh).compile()
        figures[form] = {
            "accessed_mib": round(program.cost_analysis()["bytes accessed"] / 2**20, 1),
            "temporary_mib": round(program.memory_analysis().temp_size_in_bytes / 2**20, 1),
        }
        print(f"{form:60}{figures[form]['accessed_mib']:8.1f} MiB{figures[form]['temporary_mib']:8.1f} MiB", flush=True)
    if arguments.json:
        result = {"topology": "v5e:2x2", "jax": jax.__version__, "measured": False, "forms": figures}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except accelerators.TopologyError as error:
        sys.exit(f"error: {error}")
