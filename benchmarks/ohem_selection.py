"""Seconds to find OHEM's limit among the pixels of a batch, interleaved: our bisection against a full sort.

python benchmarks/ohem_selection.py [--rounds N] [--batch N] [--size PIXELS]

12 x 1024 x 1024 probabilities of the true class, float32, a tenth of the pixels ignored, K = 1/24 of all pixels.
Two moments of a training: early, where the threshold 0.9 alone keeps more than K pixels and nothing is selected,
and late, where most pixels are certain and the limit is the probability of rank K. Both ways give the same bits.
"""

import argparse
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from ddrnet_jax.training.losses import hardness_limit

THRESHOLD, KEPT_FRACTION, IGNORED = 0.9, 1 / 24, 0.1


def limit_by_sorting(probability: jax.Array, is_labelled: jax.Array, threshold: float, min_kept: int) -> jax.Array:
    """The definition of `hardness_limit`, to the letter."""
    ordered = jnp.sort(jnp.where(is_labelled, probability, jnp.inf).reshape(-1))
    return jnp.maximum(threshold, ordered[jnp.minimum(min_kept, is_labelled.sum() - 1)])


def moments(batch: int, size: int) -> dict[str, jax.Array]:
    """{name: f32[batch,size,size] probabilities of the true class}"""
    uniform = np.random.default_rng(0).random((batch, size, size), dtype=np.float32)
    return {"early": jnp.asarray(uniform), "late": jnp.asarray(1 - uniform**64 / 2)}


def seconds(function, *arguments) -> tuple[float, float]:
    """(the result, how long it took)"""
    start = time.perf_counter()
    result = float(function(*arguments))
    return result, time.perf_counter() - start


def main() -> None:
    """Print medians and the median of the per-round ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--size", type=int, default=1024)
    options = parser.parse_args()
    shape = (options.batch, options.size, options.size)
    is_labelled = jnp.asarray(np.random.default_rng(1).random(shape) >= IGNORED)
    settings = {"threshold": THRESHOLD, "min_kept": round(KEPT_FRACTION * is_labelled.size)}
    ways = {
        "bisection": jax.jit(functools.partial(hardness_limit, **settings)),
        "sort": jax.jit(functools.partial(limit_by_sorting, **settings)),
    }
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {shape}, {options.rounds} rounds, medians")
    for moment, probability in moments(options.batch, options.size).items():
        taken = {name: [] for name in ways}
        for _ in range(options.rounds + 1):  # the first round compiles
            limits = set()
            for name, way in ways.items():
                limit, duration = seconds(way, probability, is_labelled)
                limits.add(limit)
                taken[name].append(duration)
            assert len(limits) == 1, f"the two ways disagree: {limits}"
        medians = ", ".join(f"{name} {statistics.median(times[1:]):.3f} s" for name, times in taken.items())
        ratios = [a / b for a, b in zip(taken["bisection"][1:], taken["sort"][1:], strict=True)]
        print(f"{moment:5} (limit {limit:.6f}): {medians}, bisection / sort: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
