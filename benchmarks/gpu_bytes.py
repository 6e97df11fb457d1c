"""Kernels, bytes and memory of 23-slim's inference and training step as compiled for GPUs; nothing is run.

python benchmarks/gpu_bytes.py [--case GPU:PROGRAM:DTYPE ...] [--json FILE] [--hlo FOLDER]

Needs the compiler for GPUs in an environment of its own (the error says what to install), no GPU and no driver. A case
takes half a minute to ten minutes of CPU. PROGRAM: mask and logits of one image of 1024x2048 on one GPU, training of
configs/cityscapes.py with 3 crops on each of four. --json keeps the rows, those of the same case anew; --hlo keeps the
programs to read.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"  # else JAX starts CUDA, and fails without a driver

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddrnet_jax import build
from ddrnet_jax.config import files as config_files
from ddrnet_jax.evaluation.views import mask_program
from ddrnet_jax.models import ddrnet, inference, kernel_layout, platforms, variables
from ddrnet_jax.models.folding import fold
from ddrnet_jax.plan import gpus, kernels
from ddrnet_jax.plan.collectives import collective_totals
from ddrnet_jax.runs import provenance
from ddrnet_jax.runtime import devices
from ddrnet_jax.training import program

REPO = Path(__file__).resolve().parent.parent
IMAGE_HW = (1024, 2048)
GPUS_OF_TRAINING, CROPS_EACH = 4, 3
CASES = (
    "h100:mask:float32",
    "h100:mask:bfloat16",
    "h100:logits:float32",
    "h100:logits:bfloat16",
    "a100:mask:float32",
    "a100:mask:bfloat16",
    "2080ti:mask:float32",
    "2080ti:mask:bfloat16",
    "2080ti:mask:float16",
    "h100:training:float32",
    "h100:training:bfloat16",
)
PROGRAMS = {"mask": mask_program, "logits": inference.logits_program}


def lowered_inference(gpu: str, name: str, dtype: str) -> jax.stages.Lowered:
    """u8[1,1024,2048,3] to what the program gives, by the folded network that computes in `dtype`."""
    mesh = devices.data_mesh(list(gpus.described(gpu)))
    model = ddrnet.DDRNet("23_slim", num_classes=19, rngs=nnx.Rngs(0))
    graphdef, *weights = variables.split(fold(model, jnp.dtype(dtype)))
    formats = kernel_layout.formats(weights, devices.replicated(mesh))
    weights = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), weights, formats
    )
    image = jax.ShapeDtypeStruct((1, *IMAGE_HW, 3), np.uint8, sharding=devices.by_batch(mesh))
    with platforms.compiled_for(devices.platform(mesh)):
        return PROGRAMS[name](graphdef).lower(weights, image)


def lowered_training(gpu: str, dtype: str) -> jax.stages.Lowered:
    """The training step of configs/cityscapes.py over several GPUs of one machine."""
    overrides = [f"batch_size={GPUS_OF_TRAINING * CROPS_EACH}", f"model.dtype={dtype}"]
    config = config_files.load(f"{REPO / 'configs' / 'cityscapes.py'}:23_slim", overrides)
    mesh = devices.data_mesh(list(gpus.described(gpu, GPUS_OF_TRAINING)))
    return program.lower_train_step(build.experiment(config), mesh)


def measure(case: str, hlo_folder: Path | None) -> dict:
    """The figures of one case, per GPU."""
    gpu, name, dtype = case.split(":")
    lowered = lowered_training(gpu, dtype) if name == "training" else lowered_inference(gpu, name, dtype)
    start = time.process_time()
    compiled = lowered.compile(compiler_options=gpus.COMPILER_OPTIONS)
    seconds = time.process_time() - start
    memory, text = compiled.memory_analysis(), compiled.as_text()
    if hlo_folder is not None:
        hlo_folder.mkdir(parents=True, exist_ok=True)
        (hlo_folder / f"{case.replace(':', '_')}.txt").write_text(text)
    found, communication = kernels.of_program(text), collective_totals(text)
    return {
        "gpu": gpu,
        "program": name,
        "dtype": dtype,
        "kernels": found.count,
        "convolutions": found.convolutions,
        "fused_convolutions": found.fused_convolutions,
        "transposes": found.transposes,
        "bytes": found.bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes": memory.peak_memory_in_bytes,
        "all_reduces": communication["all-reduce"].count if communication else 0,
        "compile_cpu_s": round(seconds, 1),
        "measured": False,
        "versions": provenance.versions(("jax", "jaxlib", *gpus.WHEELS)),
    }


def table(rows: list[dict]) -> str:
    """One line a case."""
    lines = [
        f"{'case':<26}{'kernels':>8}{'cuDNN':>7}{'fused':>7}{'moved':>7}{'GB':>7}"
        f"{'temporary MB':>14}{'peak MB':>9}{'all-reduces':>13}{'CPU s':>7}"
    ]
    for row in rows:
        lines.append(
            f"{':'.join((row['gpu'], row['program'], row['dtype'])):<26}{row['kernels']:>8}{row['convolutions']:>7}"
            f"{row['fused_convolutions']:>7}{row['transposes']:>7}{row['bytes'] / 1e9:>7.2f}"
            f"{row['temporary_bytes'] / 1e6:>14.0f}{row['peak_bytes'] / 1e6:>9.0f}{row['all_reduces']:>13}"
            f"{row['compile_cpu_s']:>7.0f}"
        )
    return "\n".join(lines)


def with_row(rows: list[dict], row: dict) -> list[dict]:
    """The rows with this one in the place of an older one of its case, in the order of CASES."""

    def name(row):
        return ":".join((row["gpu"], row["program"], row["dtype"]))

    others = [other for other in rows if name(other) != name(row)]
    return sorted([*others, row], key=lambda row: CASES.index(name(row)) if name(row) in CASES else len(CASES))


def main() -> int:
    """Compiles the cases one after another, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", help=f"one of {', '.join(CASES)}; may be repeated; all by default")
    parser.add_argument("--json", type=Path, help="file to keep the rows in")
    parser.add_argument("--hlo", type=Path, help="folder to keep the compiled programs in")
    arguments = parser.parse_args()
    wrong = [case for case in arguments.case or () if case not in CASES]
    if wrong:
        sys.exit(f"error: --case {wrong[0]}: expected one of {', '.join(CASES)}")
    if gpus.missing_wheels():
        sys.exit(f"error: the compiler for GPUs is not installed; in an environment of its own: {gpus.install_line()}")
    jax.config.update("jax_enable_compilation_cache", False)  # it cannot read back programs of absent devices
    rows = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else []
    for case in arguments.case or CASES:
        print(case, file=sys.stderr, flush=True)
        rows = with_row(rows, measure(case, arguments.hlo))
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
