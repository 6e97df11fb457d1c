"""Runs a network that ddrnet_jax exported; needs only jax. Its speed: python load_stablehlo.py FILE HEIGHT WIDTH"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.export


class Unreadable(ValueError):
    """This version of jax does not read a program; the message says who wrote it, and what to do."""


def load(path: str | Path) -> Callable[..., jax.Array]:
    """A function u8[B,H,W,3] RGB -> u8[B,H,W] train ids, compiled for this machine once per size.

    Raises Unreadable where jax does not read the file: it is too old, jax is, or it is damaged.
    """
    card = json.loads(Path(f"{path}.json").read_text("utf-8"))
    exported, options = _program(path, card["jax"]), card["compiler_options"].get(jax.default_backend(), {})
    try:
        jax.jit(lambda x: x + 1, compiler_options=options).lower(0).compile()
    except Exception:  # a jaxlib that does not know the options
        options = {}
    return jax.jit(exported.call, compiler_options=options)


def _program(path: str | Path, written_by: str) -> jax.export.Exported:
    program = bytearray(Path(path).read_bytes())
    try:
        exported = jax.export.deserialize(program)
        image = [n if isinstance(n, int) else 8 for n in exported.in_avals[0].shape]
        jax.jit(exported.call).lower(jax.ShapeDtypeStruct(image, "uint8"))  # jax reads the network itself only here
    except Exception as e:  # jax has no class of its own for it
        raise Unreadable(
            f"{path}: written by jax {written_by}, jax {jax.__version__} does not read it (it reads what versions of "
            "the last six months wrote, if it is not damaged); export again from the checkpoint"
        ) from e
    return exported


if __name__ == "__main__":
    masks, images = load(sys.argv[1]), jax.numpy.zeros((1, int(sys.argv[2]), int(sys.argv[3]), 3), "uint8")
    for name in ("first call, with its compilation", *["then"] * 5):
        start = time.perf_counter()
        masks(images).block_until_ready()
        print(f"{name}: {1000 * (time.perf_counter() - start):.1f} ms on {jax.devices()[0].device_kind}")
