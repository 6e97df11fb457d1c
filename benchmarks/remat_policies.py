"""What two residual blocks cost a TPU by what rematerialisation keeps: batch norm's statistics too, or not.

python benchmarks/remat_policies.py [--json FILE]

As compiled for a v5e:2x2 (needs libtpu: pyproject.toml, extra "plan"), not run: the blocks of batch_norm_bytes.py,
forwards and backwards, per chip. Of the whole training step, tpu_bytes.py has the figures.
"""

import argparse
import json
import sys
from pathlib import Path

import batch_norm_bytes  # first: it keeps JAX on the CPU
import jax
import jax.numpy as jnp
import tpu_bytes

from ddrnet_jax.plan import accelerators
from ddrnet_jax.plan.collectives import collective_totals
from ddrnet_jax.runtime import devices
from ddrnet_jax.training import objective

DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}
KEPT = {"convolutions": objective._is_convolution, "convolutions and statistics": objective._WITH_STATISTICS}


def figures(compiled: jax.stages.Compiled) -> dict:
    """Of one program; the compiler's own."""
    text = compiled.as_text()
    return {
        "accessed_mib": round(compiled.cost_analysis()["bytes accessed"] / 2**20, 1),
        "temporary_mib": round(compiled.memory_analysis().temp_size_in_bytes / 2**20, 2),
        "all_reduces": collective_totals(text)["all-reduce"].count,
        "compiler_estimated_cycles": tpu_bytes.estimated_cycles(text),
    }


def main() -> None:
    """Print a line for each type and policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    mesh = devices.data_mesh(list(accelerators.topology("v5e:2x2").devices))
    rows = []
    for name, dtype in DTYPES.items():
        for kept, policy in KEPT.items():
            compiled = batch_norm_bytes.lowered(dtype, batch_norm_bytes.ours, mesh, kept=policy).compile()
            row = figures(compiled)
            rows.append({"dtype": name, "kept": kept, **row})
            print(
                f"{name:10}{kept:30}{row['accessed_mib']:8.1f} MiB{row['temporary_mib']:8.2f} MiB temporary"
                f"{row['all_reduces']:4} all-reduces{row['compiler_estimated_cycles'] / 1e6:8.2f} Mcycles",
                flush=True,
            )
    if arguments.json:
        result = {"topology": "v5e:2x2", "jax": jax.__version__, "measured": False, "rows": rows}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except accelerators.TopologyError as error:
        sys.exit(f"error: {error}")
