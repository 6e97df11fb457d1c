"""Milliseconds of the input gradient of each 3x3 convolution of stride 2, interleaved: XLA's own against ours.

python benchmarks/strided_conv.py [--rounds N]

The shapes are those of a training step of 23-slim, 8 x 240x320 as in configs/camvid_small.py.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from ddrnet_jax import compilation
from ddrnet_jax.models.strided_conv import strided_conv

BATCH, HEIGHT, WIDTH = 8, 240, 320
# Where in the network, {name: (size of the input as a fraction of the image, its channels, channels of the output)}.
LAYERS = {
    "stem, second": (2, 32, 32),
    "layer 2": (4, 32, 64),
    "layer 3, down": (8, 64, 128),
    "layer 4, down": (16, 128, 256),
    "layer 5": (32, 256, 256),
}
_OPTIONS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def input_gradient(convolve):
    """The compiled gradient of x for a gradient of the output."""

    def gradient(x, kernel, dy):
        return jax.vjp(lambda x: convolve(x, kernel, (2, 2), ((1, 1), (1, 1)), **_OPTIONS), x)[1](dy)[0]

    return jax.jit(gradient, compiler_options=compilation.options())


def main() -> None:
    """Print medians and the median of the per-round ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    engines = {"XLA": input_gradient(jax.lax.conv_general_dilated), "ours": input_gradient(strided_conv)}
    rng = np.random.default_rng(0)
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {rounds} rounds, medians")
    for name, (part, cin, cout) in LAYERS.items():
        height, width = -(-HEIGHT // part), -(-WIDTH // part)
        shapes = (
            (BATCH, height, width, cin),
            (3, 3, cin, cout),
            (BATCH, -(-height // 2), -(-width // 2), cout),
        )
        arrays = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
        times_ms = {engine: [] for engine in engines}
        for _ in range(rounds + 1):
            for engine, gradient in engines.items():
                start = time.perf_counter()
                jax.block_until_ready(gradient(*arrays))
                times_ms[engine].append(1e3 * (time.perf_counter() - start))
        xla, ours = (times[1:] for times in times_ms.values())
        ratio = statistics.median(b / a for a, b in zip(xla, ours, strict=True))
        print(
            f"{name:14} {height:4}x{width:<4} {cin:3} -> {cout:3}  XLA {statistics.median(xla):6.1f} ms  "
            f"ours {statistics.median(ours):6.1f} ms  ratio {ratio:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
