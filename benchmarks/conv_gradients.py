"""Milliseconds of the gradients of the network's 3x3 convolutions, interleaved: XLA's own against ours.

python benchmarks/conv_gradients.py [--rounds N] [--batch 2] [--size 256x512]

The shapes are those of a training step of 23-slim. With stride 1, only the gradient of the kernel is ours.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from ddrnet_jax.cli import flags
from ddrnet_jax.models.conv3x3 import conv3x3
from ddrnet_jax.runtime import compilation

# {where in the network: (image size / input size, channels of the input, of the output, stride)}
LAYERS = {
    "stem, first": (1, 3, 32, 2),
    "stem, second": (2, 32, 32, 2),
    "layer 1": (4, 32, 32, 1),
    "layer 2, down": (4, 32, 64, 2),
    "high branch": (8, 64, 64, 1),
    "head": (8, 128, 64, 1),
    "layer 3, down": (8, 64, 128, 2),
    "layer 3": (16, 128, 128, 1),
    "layer 4": (32, 256, 256, 1),
}
ENGINES = {"XLA": jax.lax.conv_general_dilated, "ours": conv3x3}
OF_X, OF_KERNEL = 0, 1


def gradient(convolve, stride: int, argument: int):
    """The compiled gradient of x or of the kernel for a gradient of the output."""

    def of(x, kernel, dy):
        def convolved(changed):
            arguments = (changed, kernel) if argument == OF_X else (x, changed)
            return convolve(*arguments, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))

        return jax.vjp(convolved, (x, kernel)[argument])[1](dy)[0]

    return jax.jit(of, compiler_options=compilation.options())


def interleaved_ms(functions: dict, arrays: list[jax.Array], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each function in each round, after one round that does not count."""
    times_ms = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*arrays))
            times_ms[name].append(1e3 * (time.perf_counter() - start))
    return {name: values[1:] for name, values in times_ms.items()}


def main() -> None:
    """Print medians and the median of the per-round ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=flags.size_hw, default="256x512")
    arguments = parser.parse_args()
    height, width = arguments.size
    rng = np.random.default_rng(0)
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {arguments.rounds} rounds, medians")
    for name, (part, cin, cout, stride) in LAYERS.items():
        h, w = -(-height // part), -(-width // part)
        shapes = (h, w, cin), (-(-h // stride), -(-w // stride), cout)
        x, dy = (jnp.asarray(rng.normal(size=(arguments.batch, *shape)), jnp.float32) for shape in shapes)
        kernel = jnp.asarray(rng.normal(size=(3, 3, cin, cout)), jnp.float32)
        for argument, of in ((OF_KERNEL, "kernel"), (OF_X, "input")):
            if argument == OF_X and stride == 1:
                continue
            functions = {engine: gradient(convolve, stride, argument) for engine, convolve in ENGINES.items()}
            xla, ours = interleaved_ms(functions, [x, kernel, dy], arguments.rounds).values()
            ratio = statistics.median(b / a for a, b in zip(xla, ours, strict=True))
            print(
                f"{name:14} {h:4}x{w:<4} {cin:3} -> {cout:3}  {of:6}  XLA {statistics.median(xla):6.1f} ms  "
                f"ours {statistics.median(ours):6.1f} ms  ratio {ratio:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
