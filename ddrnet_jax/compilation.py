"""XLA options per platform, and the persistent compilation cache."""

import functools
import os
from pathlib import Path

import jax
import jaxlib

CACHE_VARIABLE = "DDRNET_JAX_CACHE_DIR"
_CACHE_BYTES = 2 * 2**30

# XLA:CPU sends float32 convolutions to YNNPACK, which keeps 1.2-1.7 of 2 cores busy on this network;
# the list names what may still go there, and convolutions are no longer in it. Experimental in XLA.
_OPTIONS = {"cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}}


@functools.cache
def options(platform: str | None = None) -> dict[str, str]:
    """Compiler options for `jax.jit(..., compiler_options=...)` on this platform, empty where none help.

    platform   "cpu", "gpu", "tpu"; None: the default backend
    Returns only options that the installed jaxlib knows.
    """
    wanted = _OPTIONS.get(platform or jax.default_backend(), {})
    return wanted if wanted and _are_accepted(tuple(wanted.items())) else {}


@functools.cache
def _are_accepted(items: tuple) -> bool:
    try:
        jax.jit(lambda x: x + 1, compiler_options=dict(items)).lower(0.0).compile()
    except Exception:  # an unknown option is a plain XlaRuntimeError whose text differs between versions
        return False
    return True


def enable_cache() -> Path | None:
    """Keep compiled programs between runs, in the user's cache folder, readable by the user alone.

    The folder is $DDRNET_JAX_CACHE_DIR, else ~/.cache/ddrnet_jax/jaxlib-<version>; "off" switches it off.
    Returns the folder, or None where the cache is off or the folder cannot be made.
    """
    setting = os.environ.get(CACHE_VARIABLE, "")
    if setting == "off":
        return None
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = Path(setting) if setting else base / "ddrnet_jax" / f"jaxlib-{jaxlib.__version__}"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError):  # no home, or a read-only one
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return folder
