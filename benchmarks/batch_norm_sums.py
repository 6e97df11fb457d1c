"""Time and rounding error of batch norm's sums on CPUs: XLA's own, and as products with ones; forward and backward.

python benchmarks/batch_norm_sums.py [--rounds 40] [--json FILE]

Shapes of 23-slim with two images of 256x512, the two ways taking turns; errors against float64.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ddrnet_jax.models import batch_norm
from ddrnet_jax.runtime import compilation

SHAPES = ((2, 128, 256, 32), (2, 64, 128, 32), (2, 32, 64, 64), (2, 16, 32, 128), (2, 8, 16, 256))
WAYS = {"sums": batch_norm.channel_sums, "products": batch_norm.channel_sums_by_product}


def compiled(sums, x: jax.Array, dy: jax.Array):
    """Batch norm and its gradients: () -> (y, mean, var, gradients)"""

    def both(x, dy, ones):
        (y, mean, var), kept = batch_norm._forward(x, ones, ones, sums)
        return y, mean, var, batch_norm._backward(sums, kept, (dy,))

    ones = jnp.ones(x.shape[-1])
    program = jax.jit(both, compiler_options=compilation.options(is_training=True)).lower(x, dy, ones).compile()
    return lambda: jax.block_until_ready(program(x, dy, ones))


def measure(shape: tuple[int, ...], rounds: int) -> dict[str, dict[str, float]]:
    """By way: milliseconds, and the largest error of the mean and of the variance of values around 1 +- 1."""
    rng = np.random.default_rng(0)
    x, dy = (jnp.asarray(rng.normal(mean, 1, shape), jnp.float32) for mean in (1, 0))
    exact = np.asarray(x, np.float64)
    programs = {name: compiled(sums, x, dy) for name, sums in WAYS.items()}
    seconds = {name: [] for name in programs}
    for _ in range(rounds + 1):
        for name, program in programs.items():
            start = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - start)
    figures = {}
    for name, program in programs.items():
        _, mean, var, _ = program()
        figures[name] = {
            "median_ms": 1000 * statistics.median(seconds[name][1:]),
            "mean_error": float(np.abs(mean - exact.mean((0, 1, 2))).max()),
            "variance_error": float(np.abs(var - exact.var((0, 1, 2))).max()),
        }
    return figures


def main() -> None:
    """Print a line a shape and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = {"x".join(map(str, shape)): measure(shape, arguments.rounds) for shape in SHAPES}
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
    for shape, ways in figures.items():
        for name, row in ways.items():
            print(
                f"{shape:14} {name:9} {row['median_ms']:6.2f} ms, errors: "
                f"mean {row['mean_error']:.1e}, variance {row['variance_error']:.1e}"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps({"jax": jax.__version__, "shapes": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
