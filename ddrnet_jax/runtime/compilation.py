"""XLA options per platform, and the persistent compilation cache."""

import functools
import hashlib
import os
import platform as machine
import time
from pathlib import Path

import jax
import jaxlib

from ddrnet_jax import regular_files
from ddrnet_jax.runtime import cache_folder

_CACHE_BYTES = 2 * 2**30
_BEING_WRITTEN_S = 60  # entries younger than this may be another process's that is not done

# cpu: XLA sends float32 convolutions to YNNPACK, which keeps 1.2-1.7 of 2 cores busy on this network; the list
#   names what may still go there, and convolutions are no longer in it. Experimental in XLA. Gain of the forward
#   pass of 23-slim on 2 Zen 3 cores, jaxlib 0.10.2: 8 % at 1024x2048, 21 % at 720x960, 24 % at 360x480.
#   On every CPU alike: no instruction set is known to decide. CPU time by XLA's own choice / by ours, `logits` on one
#   core: Zen 4 (AVX-512 VNNI) 1.03 at 1024x2048, 0.91 at 720x960, 0.97 at 360x480 (benchmarks/cpu_options.py); an
#   Intel (AVX-512 VNNI, AMX) 0.94 at 720x960. The two are alike there; on several cores neither was measured
#   undisturbed. A training step gains more than the forward pass (benchmarks/train_step.py).
# gpu, tpu: none. What XLA documents for them (latency hiding, collective combining) is on by default or is for
#   models that do not fit one device. Not measured by us.
OPTIONS = {"cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}}
# cpu: by default XLA lays out the operands of the kernels' gradients, three times the map that they come from, as soon
#   as it has the map, in the forward pass, and keeps them. A third of the temporary memory of a step of 23-slim
#   (benchmarks/train_step.py); inference gains nothing.
TRAINING_OPTIONS = {"cpu": {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}}


@functools.cache
def options(platform: str | None = None, *, is_training: bool = False) -> dict[str, str]:
    """Compiler options for `jax.jit(..., compiler_options=...)` on this platform, empty where none help.

    platform     "cpu", "gpu", "tpu"; None: the default backend
    is_training  for a program with gradients
    Returns only options that the installed jaxlib knows.
    """
    platform = platform or jax.default_backend()
    wanted = OPTIONS.get(platform, {}) | (TRAINING_OPTIONS.get(platform, {}) if is_training else {})
    return {name: value for name, value in wanted.items() if _is_accepted(name, value)}


@functools.cache
def _is_accepted(name: str, value: str) -> bool:
    try:
        jax.jit(lambda x: x + 1, compiler_options={name: value}).lower(0.0).compile()
    except Exception:  # an unknown option is a plain XlaRuntimeError whose text differs between versions
        return False
    return True


def enable_cache() -> Path | None:
    """Keep compiled programs between runs, in the user's cache folder, readable by the user alone.

    Below $DDRNET_JAX_CACHE_DIR, else ~/.cache/ddrnet_jax; "off" switches it off. Least recently used programs
    go once there are 2 GiB; none go where the user's id has no name, as of docker run --user. One that cannot be read
    back costs a warning and a compile.
    Returns the folder, or None where the cache is off, the folder cannot be made, or it is someone else's.
    """
    folder = cache_folder.made(cache_key())
    if folder is None:
        return None
    has_names = _has_names()
    try:
        if has_names:
            _remove_unfinished(folder)
    except OSError:  # as of a read-only one
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES if has_names else -1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return folder


def _has_names() -> bool:
    """True if this user and group have names, without which JAX can neither keep the cache small nor write to it."""
    try:
        import grp
        import pwd

        pwd.getpwuid(os.geteuid()), grp.getgrgid(os.getegid())
    except ImportError:  # no Unix: JAX does not ask there
        return True
    except KeyError:
        return False
    return True


def cache_key() -> str:
    """The cache's folder: the jaxlib and the CPU that its programs are for.

    Source: XLA:CPU stores machine code for the CPU it compiled on; one with fewer instructions crashes on it.
    """
    try:
        lines = regular_files.read_text("/proc/cpuinfo").splitlines()
        features = next(line.split(":")[1] for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):  # no Linux
        features = machine.processor()
    digest = hashlib.sha256(" ".join(sorted(features.split())).encode()).hexdigest()
    return f"jaxlib-{jaxlib.__version__}-{machine.machine()}-{digest[:8]}"


@functools.cache  # once a process
def _remove_unfinished(folder: Path) -> None:
    """Remove programs whose writing was cut short: JAX writes the time of use last, and fails on each without one."""
    for program in folder.glob("*-cache"):
        has_time = program.with_name(program.name.removesuffix("-cache") + "-atime").exists()
        if not has_time and time.time() - program.stat().st_mtime > _BEING_WRITTEN_S:
            program.unlink(missing_ok=True)
