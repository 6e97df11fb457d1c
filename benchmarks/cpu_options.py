"""XLA's own choice of convolutions on this CPU beside that without YNNPACK, the two taking turns: 23-slim, batch 1.

taskset -c 0 python benchmarks/cpu_options.py [--sizes 1024x2048,720x960,360x480] [--seconds 15] [--json FILE]

On one core, since YNNPACK's threads wait by turning round: of two, its CPU time says little.
`--seconds` are of timing a size and form, after everything is compiled. runtime/compilation.py chooses by the figures.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from ddrnet_jax import DDRNet
from ddrnet_jax.evaluation.views import predictions
from ddrnet_jax.models import variables
from ddrnet_jax.models.ddrnet import normalise
from ddrnet_jax.models.folding import fold
from ddrnet_jax.models.inference import merged
from ddrnet_jax.runtime import compilation

CHOICES = {"xla": {}, "ours": compilation.OPTIONS["cpu"]}
FORMS = {"logits": lambda model, images: model(normalise(images)).logits, "mask": predictions}


def compiled(form: str, size_hw: tuple[int, int], options: dict[str, str]):
    """() -> the form's output for one image, waited for"""
    model = DDRNet("23_slim", task="segmentation", num_classes=19, aux_head=False, rngs=nnx.Rngs(0))
    model.eval()
    graphdef, *weights = variables.split(fold(model))
    images = jax.device_put(np.random.default_rng(0).integers(0, 256, (1, *size_hw, 3), np.uint8))
    program = jax.jit(lambda weights, images: FORMS[form](merged(graphdef, weights), images), compiler_options=options)
    program = program.lower(weights, images).compile()
    return lambda: jax.block_until_ready(program(weights, images))


def times_ms(programs: dict, seconds: float) -> dict[str, dict[str, float]]:
    """Of each program, in turns: the median time, and the least CPU time, which neighbours move less."""
    walls, cpus = ({name: [] for name in programs} for _ in range(2))
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or len(walls["xla"]) < 6:
        for name, program in programs.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            program()
            walls[name].append(1000 * (time.perf_counter() - start))
            cpus[name].append(1000 * (time.process_time() - cpu_start))
    return {name: {"median": statistics.median(walls[name][1:]), "least_cpu": min(cpus[name])} for name in programs}


def main() -> None:
    """Print a line a size and form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1024x2048,720x960,360x480")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    compilation.enable_cache()
    sizes = [tuple(map(int, size.split("x"))) for size in arguments.sizes.split(",")]
    cases = [(size_hw, form) for size_hw in sizes for form in FORMS]
    programs = {
        (size_hw, form): {name: compiled(form, size_hw, options) for name, options in CHOICES.items()}
        for size_hw, form in cases
    }
    print(f"compiled; jax {jax.__version__}, {compilation.cache_key()}", flush=True)
    rows = {}
    for (height, width), form in cases:
        row = rows[f"{form} {height}x{width}"] = times_ms(programs[(height, width), form], arguments.seconds)
        ratios = {kind: row["xla"][kind] / row["ours"][kind] for kind in row["xla"]}
        print(f"{form:6} {height}x{width}, ms, XLA's own / ours: {ratios} {row}", flush=True)
    if arguments.json:
        about = {"jax": jax.__version__, "cpu": compilation.cache_key(), "cores": len(os.sched_getaffinity(0))}
        arguments.json.write_text(json.dumps(about | {"ms": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
