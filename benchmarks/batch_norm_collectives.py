"""All-reduces that batch norm over a sharded batch compiles to on a TPU, and whether they can be fewer.

python benchmarks/batch_norm_collectives.py [--topology v5e:2x2] [--output FILE]

Needs libtpu (see pyproject.toml, extra "plan"); nothing is run on a TPU. A stack of real BasicBlocks, forward and
backward, is compiled per variant and compiler option. Exploration: the network itself stays as it is.
"""

import argparse
import dataclasses
import functools
import json
import sys
import time
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from ddrnet_jax.models import batch_norm, blocks, platforms, variables
from ddrnet_jax.plan import accelerators
from ddrnet_jax.plan.collectives import collective_totals
from ddrnet_jax.runtime import devices

DEPTH, CHANNELS, ROWS_A_DEVICE, SIZE = 2, 32, 2, 64
RESULTS = Path(__file__).parent / "results" / "batch_norm_collectives.json"
NETWORK = "two passes (the network's)"
# Options of the TPU compiler that may merge collectives; those it does not know are reported as such.
OPTIONS = (
    {},
    {"xla_jf_crs_combiner_threshold_in_bytes": "1073741824", "xla_jf_crs_combiner_threshold_count": "1024"},
    {"xla_all_reduce_combine_threshold_bytes": "1073741824"},
)


def one_pass(x, scale, bias):
    """Mean and mean square in one reduction: breaks the contract, the variance cancels."""
    wide = x.astype(scale.dtype)
    mean, square = jnp.stack([wide, jnp.square(wide)]).mean((1, 2, 3))
    var = jnp.maximum(square - mean**2, 0)
    y = (wide - mean) * (scale * jax.lax.rsqrt(var + batch_norm.EPSILON)) + bias
    return y, jax.lax.stop_gradient(mean), jax.lax.stop_gradient(var)


def merged(mesh):
    """Two passes within each shard, then one all-gather of both moments; one all-reduce in the backward pass.

    Source: Chan's merge of partial statistics, here of shards of one size: the variance is the mean of their variances
    plus the variance of their means. Nothing large is subtracted, as it would be from a sum of squares.
    """
    data, whole = PartitionSpec("data"), PartitionSpec()

    def mapped(function, inputs, outputs):
        return jax.shard_map(function, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)

    def moments(x):
        wide = x.astype(jnp.float32)
        mean = wide.mean((0, 1, 2))
        var = jnp.square(wide - mean).mean((0, 1, 2))
        means, variances = jax.lax.all_gather(jnp.stack([mean, var]), "data", axis=1)
        mean = means.mean(0)
        return mean, variances.mean(0) + jnp.square(means - mean).mean(0)

    def sums(dy, x_hat):
        both = jnp.stack([dy.sum((0, 1, 2)), (dy * x_hat).sum((0, 1, 2))])
        d_bias, d_scale = jax.lax.psum(both, "data")
        return d_bias, d_scale

    @jax.custom_vjp
    def normalise(x, scale, bias):
        return forward(x, scale, bias)[0]

    def forward(x, scale, bias):
        mean, var = mapped(moments, (data,), (whole, whole))(x)
        inverse_std = jax.lax.rsqrt(var + batch_norm.EPSILON)
        y = (x - mean) * (scale * inverse_std) + bias
        return (y, mean, var), (x, mean, inverse_std, scale)

    def backward(kept, cotangents):
        x, mean, inverse_std, scale = kept
        dy = cotangents[0]
        x_hat = (x - mean) * inverse_std
        d_bias, d_scale = mapped(sums, (data, data), (whole, whole))(dy, x_hat)
        count = x.size // x.shape[-1]
        return (scale * inverse_std) * (dy - (d_bias + x_hat * d_scale) / count), d_scale, d_bias

    normalise.defvjp(forward, backward)
    return normalise


def lowered(mesh, normalise) -> jax.stages.Lowered:
    """Loss, gradients and running statistics of the stack, its batch norm computed by `normalise`."""
    model = blocks.Stage(CHANNELS, CHANNELS, DEPTH, dtype=None, rngs=nnx.Rngs(0))
    graphdef, params, batch_stats = variables.split(model)

    def loss(params, batch_stats, x):
        model = variables.merge(graphdef, params, batch_stats)
        return jnp.square(model(x)).mean(), variables.batch_stats(model)

    def place(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    state = jax.tree.map(lambda leaf: place(leaf, devices.replicated(mesh)), (params, batch_stats))
    x = jax.ShapeDtypeStruct((ROWS_A_DEVICE * mesh.size, SIZE, SIZE, CHANNELS), np.float32)
    ours = mock.patch.object(batch_norm, "normalise_by_batch", lambda x, scale, bias, sums: normalise(x, scale, bias))
    with ours, platforms.compiled_for(devices.platform(mesh)):
        step = jax.jit(jax.value_and_grad(loss, has_aux=True), out_shardings=devices.replicated(mesh))
        return step.lower(*state, place(x, devices.by_batch(mesh)))


def variance_errors() -> dict[str, float]:
    """Relative error of the variance against float64, of values around 1000 with deviation 1; run on 4 CPU devices."""
    mesh = devices.data_mesh()
    x = np.random.default_rng(0).normal(1000, 1, (8, 32, 32, 8)).astype(np.float32)
    exact = x.astype(np.float64).var((0, 1, 2))
    placed, ones = jax.device_put(x, devices.by_batch(mesh)), jnp.ones(8)

    def error(normalise):
        _, _, var = jax.jit(normalise)(placed, ones, 0 * ones)
        return float(np.abs(np.asarray(var, np.float64) / exact - 1).max())

    return {name: error(normalise) for name, normalise in variants(mesh).items()}


def variants(mesh) -> dict:
    """The ways to normalise by the batch, by name."""
    ours = functools.partial(batch_norm.normalise_by_batch, sums=batch_norm.channel_sums)
    return {NETWORK: ours, "one pass": one_pass, "two passes a shard, merged": merged(mesh)}


def measure(mesh, name: str, normalise, options: dict) -> dict:
    """All-reduces of one variant under compiler options, or the first line of the compiler's refusal."""
    start = time.perf_counter()
    row = {"variant": name, "options": options, "batch_norms": 2 * DEPTH}
    try:
        text = lowered(mesh, normalise).compile(compiler_options=options).as_text()
    except jax.errors.JaxRuntimeError as e:
        return row | {"refused": str(e).splitlines()[0][:120]}
    totals = {kind: dataclasses.asdict(total) for kind, total in collective_totals(text).items()}
    return row | {"collectives": totals, "compile_s": round(time.perf_counter() - start, 1)}


def main() -> int:
    """Prints one line a variant and writes them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 4)
    try:
        mesh = devices.data_mesh(list(accelerators.topology(arguments.topology).devices))
    except accelerators.TopologyError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    ways = variants(mesh)
    result = {"topology": arguments.topology, "jax": jax.__version__, "measured": False, "rows": []}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for name, options in [(NETWORK, options) for options in OPTIONS] + [(name, {}) for name in ways if name != NETWORK]:
        result["rows"].append(measure(mesh, name, ways[name], options))
        print(json.dumps(result["rows"][-1]), flush=True)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    result["variance_errors"] = variance_errors()
    print(json.dumps(result["variance_errors"]))
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
