"""Runs a network that ddrnet_jax exported; needs only jax. Its speed: python load_stablehlo.py FILE HEIGHT WIDTH"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.export


def load(path: str | Path) -> Callable[..., jax.Array]:
    """A function u8[B,H,W,3] RGB -> u8[B,H,W] train ids, compiled for this machine once per size."""
    options = json.loads(Path(f"{path}.json").read_text("utf-8"))["compiler_options"].get(jax.default_backend(), {})
    try:
        jax.jit(lambda x: x + 1, compiler_options=options).lower(0).compile()
    except Exception:  # a jaxlib that does not know the options
        options = {}
    return jax.jit(jax.export.deserialize(bytearray(Path(path).read_bytes())).call, compiler_options=options)


if __name__ == "__main__":
    masks, images = load(sys.argv[1]), jax.numpy.zeros((1, int(sys.argv[2]), int(sys.argv[3]), 3), "uint8")
    for name in ("first call, with its compilation", *["then"] * 5):
        start = time.perf_counter()
        masks(images).block_until_ready()
        print(f"{name}: {1000 * (time.perf_counter() - start):.1f} ms on {jax.devices()[0].device_kind}")
