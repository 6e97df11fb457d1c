"""The machine that is measured: its name, its memory, and what it reaches at what it does best."""

import os
import platform as machine
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ddrnet_jax import memory
from ddrnet_jax.models import platforms
from ddrnet_jax.runs import provenance
from ddrnet_jax.runtime import compilation, cpu

_MATRIX = {"cpu": 2048}  # rows and columns: a tenth of a second on a laptop
_MATRIX_ELSEWHERE = 8192
_COPY_FLOATS = 64 * 2**20  # 256 MiB, more than any cache holds
_REPEATS = 5
_IN_A_ROW = {"cpu": 1}  # calls that are waited for together
_IN_A_ROW_ELSEWHERE = 8  # a copy takes a GPU about as long as the host takes to start and await one


class Precision(NamedTuple):
    """A way to keep and multiply numbers.

    dtype   of activations
    matmul  as `jax.default_matmul_precision` takes it
    """

    name: str
    dtype: DTypeLike
    matmul: str


FLOAT32 = Precision("float32", jnp.float32, "highest")
TF32 = Precision("tf32", jnp.float32, "tensorfloat32")
_BFLOAT16 = Precision("bfloat16", jnp.bfloat16, "default")
_FLOAT16 = Precision("float16", jnp.float16, "default")
_DEFAULT = Precision("default", jnp.float32, "default")  # what `predict` computes in

# CPUs: float32 alone. JAX has no TF32 there, and bfloat16 gains nothing on those we have measured.
_OTHERS = {"gpu": (TF32, _BFLOAT16, _FLOAT16), "tpu": (_DEFAULT, _BFLOAT16)}


def precisions(platform: str, compute_capability: str | None = None) -> tuple[Precision, ...]:
    """Those that differ on a platform ("cpu", "gpu", "tpu"); the paper's float32 first.

    compute_capability  of an NVIDIA GPU, as in "7.5"; before 8.0 none has TF32 or bfloat16
    """
    without = () if platforms.has_bfloat16(compute_capability) else (TF32, _BFLOAT16)
    return (FLOAT32, *(p for p in _OTHERS.get(platform, ()) if p not in without))


def precisions_here() -> tuple[Precision, ...]:
    """Those of the first device."""
    return precisions(jax.default_backend(), getattr(jax.devices()[0], "compute_capability", None))


class OutOfMemory(MemoryError):
    """A program does not fit; the message says how much of how much, where that is known."""


def check_fits(needed_bytes: int) -> None:
    """Raises OutOfMemory on CPUs, where the system would kill the process instead of refusing the memory."""
    available = available_bytes() if jax.default_backend() == "cpu" else None
    if available is not None and needed_bytes > available:
        raise OutOfMemory(f"needs {needed_bytes / 2**30:.2f} GiB, {available / 2**30:.2f} are free")


def available_bytes() -> int | None:
    """Free memory of the first device, of a CPU also within the limits of a container; None where nothing says."""
    statistics = jax.devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    return memory.available_bytes()


def description() -> dict:
    """The device and the machine it is in."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "compute_capability": getattr(device, "compute_capability", None),
        "devices_visible": jax.device_count(),
        "devices_used": 1,
        "cpu": cpu.name(),
        "cpu_cores": cpu.cores(),
        "available_bytes": available_bytes(),
        "system": machine.platform(),
    }


def load() -> float | None:
    """Threads that wanted to run in the last minute, for each core; None where unknown."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (AttributeError, OSError):  # no Unix
        return None


def label(described: dict) -> str:
    """The device's name in a sentence."""
    host = f"{described['cpu']}, {described['cpu_cores']} cores"
    return host if described["platform"] == "cpu" else f"{described['device']} (host: {host})"


def versions(packages: Sequence[str] = ()) -> dict[str, str]:
    """Versions of Python, JAX, this package and further ones."""
    names = ("jax", "jaxlib", "flax", "ddrnet-jax", *packages)
    absent = dict.fromkeys(names, "not installed as a package")
    return {"python": machine.python_version()} | absent | provenance.versions(names)


def practical_peaks(wanted: Sequence[Precision]) -> dict:
    """The best of a few large matrix multiplications and copies.

    Returns {"matmul_flops_per_s": {precision: ...}, "copy_bytes_per_s": ...}. On CPUs the faster of XLA's and NumPy's
    multiplication counts: either may have the better library for a CPU.
    """
    platform = jax.default_backend()
    n = _MATRIX.get(platform, _MATRIX_ELSEWHERE)
    rates = {}
    for precision in wanted:
        a = jnp.ones((n, n), precision.dtype)
        with jax.default_matmul_precision(precision.matmul):
            multiply = jax.jit(jnp.matmul, compiler_options=compilation.options()).lower(a, a).compile()
        rates[precision.name] = 2 * n**3 / _best_s(lambda m=multiply, a=a: m(a, a))
    if platform == "cpu":
        a, out = np.ones((n, n), np.float32), np.empty((n, n), np.float32)
        by_numpy = 2 * n**3 / _best_s(lambda: np.matmul(a, a, out=out))
        rates[FLOAT32.name] = max(rates[FLOAT32.name], by_numpy)
    return {"matmul_size": n, "matmul_flops_per_s": rates, "copy_bytes_per_s": _copy_bytes_per_s()}


def _copy_bytes_per_s() -> float:
    """Read and written, in place: fresh memory of the system's would cost more than the copy."""
    floats = jnp.zeros(_COPY_FLOATS, jnp.float32)
    copy = jax.jit(lambda x: x + 1, donate_argnums=0).lower(floats).compile()

    def run():
        nonlocal floats
        floats = copy(floats)
        return floats

    return 2 * floats.nbytes / _best_s(run)


def best_of(first: dict, second: dict) -> dict:
    """The higher of two measurements of the same peaks, each."""
    rates = {k: max(v, second["matmul_flops_per_s"][k]) for k, v in first["matmul_flops_per_s"].items()}
    copy = max(first["copy_bytes_per_s"], second["copy_bytes_per_s"])
    return first | {"matmul_flops_per_s": rates, "copy_bytes_per_s": copy}


def _best_s(run: Callable[..., object]) -> float:
    """Seconds of a call, the least of a few tries."""
    jax.block_until_ready(run())
    calls = _IN_A_ROW.get(jax.default_backend(), _IN_A_ROW_ELSEWHERE)
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        for _ in range(calls):
            output = run()
        jax.block_until_ready(output)
        seconds.append((time.perf_counter() - start) / calls)
    return min(seconds)
