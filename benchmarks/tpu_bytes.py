"""Bytes and memory of 23-slim's inference and training step as compiled for a TPU v5e, form by form; nothing is run.

JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python benchmarks/tpu_bytes.py [--form NAME ...] [--top COUNT] [--table]

Needs libtpu (see pyproject.toml, extra "plan"). Every form takes one to ten minutes of CPU to compile and is written
to the results at once: run again, it compiles what is missing. --top also prints the instructions that access most.
The results also hold "earlier", of code that is gone and of parts of the programs, written by hand from the same tools.
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddrnet_jax import build
from ddrnet_jax.config import files as config_files
from ddrnet_jax.models import ddrnet, platforms, variables
from ddrnet_jax.models.folding import fold
from ddrnet_jax.plan import accelerators, plan
from ddrnet_jax.plan.collectives import collective_totals
from ddrnet_jax.runs import provenance
from ddrnet_jax.runtime import devices
from ddrnet_jax.training import program

REPO = Path(__file__).resolve().parent.parent
RESULTS = REPO / "benchmarks" / "results" / "tpu_bytes.json"
MIB = 2**20


# name: (program, compute dtype)
FORMS = {
    "inference": ("inference", "bfloat16"),
    "training": ("training", "float32"),
    "training, bfloat16": ("training", "bfloat16"),
}


def lowered_inference(dtype: str) -> jax.stages.Lowered:
    """u8[1,1024,2048,3] to logits at 1/8 by the folded network, weights and arithmetic in `dtype`, on one chip."""
    mesh = devices.data_mesh(list(accelerators.topology("v5e:1x1").devices[:1]))
    model = ddrnet.DDRNet("23_slim", num_classes=19, rngs=nnx.Rngs(0))
    graphdef, *weights = variables.split(fold(model, jnp.dtype(dtype)))

    def placed(shape, dtype, sharding):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def logits(weights, images):
        return variables.merge(graphdef, *weights)(ddrnet.normalise(images)).logits

    weights = jax.tree.map(lambda leaf: placed(leaf.shape, dtype, devices.replicated(mesh)), weights)
    with platforms.compiled_for(devices.platform(mesh)):
        return jax.jit(logits).lower(weights, placed((1, 1024, 2048, 3), np.uint8, devices.by_batch(mesh)))


def lowered_training(dtype: str) -> jax.stages.Lowered:
    """The training step of configs/cityscapes.py, two crops of 512x1024 on each of four chips."""
    overrides = ["batch_size=8", "data.crop_hw=(512,1024)", f"model.dtype={dtype}"]
    config = config_files.load(f"{REPO / 'configs' / 'cityscapes.py'}:23_slim", overrides)
    return program.lower_train_step(
        build.experiment(config), devices.data_mesh(list(accelerators.topology("v5e:2x2").devices))
    )


def measure(name: str, top: int) -> dict:
    """The figures of one form, per chip."""
    what, dtype = FORMS[name]
    lowered = {"inference": lowered_inference, "training": lowered_training}[what](dtype)
    start = time.process_time()
    compiled = lowered.compile()
    seconds = time.process_time() - start
    cost, memory, text = compiled.cost_analysis(), compiled.memory_analysis(), compiled.as_text()
    communication = collective_totals(text)
    for line in largest(text, top):
        print(line)
    return {
        "bytes_accessed": cost["bytes accessed"],
        "temporary_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "peak_bytes": memory.peak_memory_in_bytes,
        "flops": cost["flops"],
        "all_reduces": communication["all-reduce"].count if communication else 0,
        "compiler_estimated_cycles": estimated_cycles(text),
        "compile_cpu_s": round(seconds, 1),
        "dtype": dtype,
        "measured": False,
        "versions": provenance.versions(plan.COMPILERS),
    }


def estimated_cycles(text: str) -> int:
    """The sum of the compiler's own estimates over the main computation's instructions: no measurement either."""
    return sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', text[text.index("\nENTRY ") :])))


_BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "s16": 2, "u16": 2, "u8": 1, "s8": 1, "pred": 1}
_ARRAY = re.compile(rf"\b({'|'.join(_BYTES)})\[([\d,]*)\](?:\{{([\d,]*):T\((\d+),(\d+)\))?")
_INSTRUCTION = re.compile(r"(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*?)\)(?:, |$)")


def stored_bytes(shape: str) -> int:
    """Bytes of the arrays in an HLO shape as tiles hold them: the innermost two axes filled up to whole tiles."""
    total = 0
    for kind, dims, order, *tile in _ARRAY.findall(shape):
        dims = [int(n) for n in dims.split(",") if n]
        if order and len(dims) > 1:
            for axis, length in zip(map(int, order.split(",")), map(int, reversed(tile)), strict=False):
                dims[axis] = -(-dims[axis] // length) * length
        total += _BYTES[kind] * int(np.prod(dims))
    return total


def largest(text: str, count: int) -> list[str]:
    """Lines of the instructions of the main computation that read and write most."""
    shapes, rows = {}, []
    for line in text[text.index("\nENTRY ") :].splitlines():
        if found := _INSTRUCTION.match(line.strip()):
            name, shape, operation, operands = found.groups()
            shapes[name] = shape
            if operation not in ("parameter", "tuple", "get-tuple-element", "bitcast", "constant"):
                read = [shapes.get(operand, "") for operand in re.findall(r"%([\w.\-]+)", operands)]
                origin = re.search(r'op_name="([^"]*)"', line)
                rows.append((stored_bytes(" ".join([shape, *read])), operation, name, origin[1] if origin else ""))
    rows.sort(reverse=True)
    return [f"{stored / MIB:8.1f} MiB  {what:<10} {name:<32} {at[-80:]}" for stored, what, name, at in rows[:count]]


def table(done: dict) -> str:
    """One line a form that was compiled."""
    lines = [f"{'form':<48}{'accessed MiB':>13}{'temporary MiB':>14}{'GFLOP':>7}{'Mcycles':>9}{'CPU s':>10}"]
    for name in (name for name in FORMS if name in done):
        row = done[name]
        lines.append(
            f"{name:<48}{row['bytes_accessed'] / MIB:>13.0f}{row['temporary_bytes'] / MIB:>14.0f}"
            f"{row['flops'] / 1e9:>7.0f}{row['compiler_estimated_cycles'] / 1e6:>9.1f}{row['compile_cpu_s']:>10.0f}"
        )
    return "\n".join(lines)


def main() -> int:
    """Compiles what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", action="append", choices=FORMS, help="only this one, anew; may be repeated")
    parser.add_argument("--top", type=int, default=0, help="instructions to print of each form")
    parser.add_argument("--table", action="store_true", help="compile nothing")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)  # it cannot read back programs of absent devices
    done = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    missing = arguments.form or [name for name in FORMS if name not in done]
    for name in () if arguments.table else missing:
        print(name, file=sys.stderr, flush=True)
        done[name] = measure(name, arguments.top)
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(done, indent=1) + "\n")
    print(table(done))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except accelerators.TopologyError as error:
        sys.exit(f"error: {error}")
