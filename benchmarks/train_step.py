"""Seconds of one training step, interleaved: XLA's default options against ours.

python benchmarks/train_step.py [--rounds N]

23-slim with auxiliary head, batch 8, 240x320, float32, plain cross entropy: the step of configs/camvid_small.py.
"""

import argparse
import statistics
import time
from unittest import mock

import jax
import numpy as np
from flax import nnx

from ddrnet_jax import DDRNet, compilation, devices
from ddrnet_jax.training import losses, optimizer, state
from ddrnet_jax.training.step import make_train_step

BATCH, HEIGHT, WIDTH, CLASSES = 8, 240, 320, 11


def build(rngs: nnx.Rngs) -> DDRNet:
    """The network of camvid_small."""
    return DDRNet("23_slim", num_classes=CLASSES, aux_head=True, rngs=rngs)


def compiled_step(options: dict, batch: dict, mesh) -> tuple:
    """(compiled step, its first state, seconds to compile) with these compiler options."""
    sgd = optimizer.sgd(lambda step: 0.02, momentum=0.9, nesterov=False, weight_decay=5e-4)
    graphdef, first = state.create(build, sgd, seed=0)
    first = jax.device_put(first, devices.replicated(mesh))
    with mock.patch.object(compilation, "options", return_value=options):
        step = make_train_step(graphdef, sgd, losses.cross_entropy, mesh)
        start = time.perf_counter()
        return step.lower(first, batch).compile(), first, time.perf_counter() - start


def main() -> None:
    """Print medians and the median of the per-round ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    rounds = parser.parse_args().rounds
    mesh = devices.data_mesh()
    rng = np.random.default_rng(0)
    batch = devices.put_batch(
        {
            "images": rng.integers(0, 256, (BATCH, HEIGHT, WIDTH, 3), dtype=np.uint8),
            "labels": rng.integers(0, CLASSES, (BATCH, HEIGHT, WIDTH), dtype=np.uint8),
        },
        mesh,
    )
    engines = {"default": {}, "ours": dict(compilation.options())}
    runs = {name: compiled_step(options, batch, mesh) for name, options in engines.items()}
    states = {name: run[1] for name, run in runs.items()}
    seconds = {name: [] for name in engines}
    for _ in range(rounds + 1):
        for name, (step, _, _) in runs.items():
            start = time.perf_counter()
            states[name], metrics = step(states[name], batch)
            jax.block_until_ready(metrics)
            seconds[name].append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(seconds["ours"][1:], seconds["default"][1:], strict=True)]
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {rounds} rounds, medians")
    for name, (_, _, compile_s) in runs.items():
        print(f"{name:8} {statistics.median(seconds[name][1:]):6.3f} s a step, compiled in {compile_s:5.1f} s")
    print(f"ours / default: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
