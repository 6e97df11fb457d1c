"""A network of 784 numbers as a StableHLO file, to be kept: `python tests/exported_files.py` writes that of this jax.

Each supported generation of JAX has one in tests/fixtures/, which both of them read, or refuse in one line.
"""

import json
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from ddrnet_jax.evaluation.views import View
from ddrnet_jax.exports.stablehlo import to_stablehlo
from ddrnet_jax.models.ddrnet import Output
from ddrnet_jax.runtime import compilation

FOLDER = Path(__file__).parent / "fixtures"


class Small(nnx.Module):
    """Four classes by one convolution of 8x8 pixels, of numbers that no version of JAX has a hand in."""

    def __init__(self):
        self.conv = nnx.Conv(3, 4, (8, 8), strides=8, rngs=nnx.Rngs(0))
        self.conv.kernel[...] = np.random.default_rng(0).normal(size=self.conv.kernel.shape).astype(np.float32)

    def __call__(self, x):
        return Output(self.conv(x))


def write() -> Path:
    generation = ".".join(jax.__version__.split(".")[:2])
    path = FOLDER / f"small_jax_{generation}.stablehlo"
    path.write_bytes(to_stablehlo(Small(), View()))
    card = {"jax": jax.__version__, "compiler_options": compilation.OPTIONS}
    Path(f"{path}.json").write_text(json.dumps(card, indent=2) + "\n")
    return path


if __name__ == "__main__":
    print(write())
