"""This machine's CPU as its system describes it; loads no JAX."""

import os
import platform

from ddrnet_jax import regular_files


def features() -> frozenset[str]:
    """The names of its instruction sets as Linux writes them; elsewhere none."""
    return frozenset(_described("flags", "Features").split())


def has(*names: str) -> bool:
    """True if it has one of these instruction sets, and says so."""
    return not features().isdisjoint(names)


def is_x86() -> bool:
    """True of Intel's and AMD's."""
    return platform.machine().lower() in ("x86_64", "amd64", "i686")


def name() -> str:
    """The name that its maker gives it."""
    return _described("model name") or platform.processor() or platform.machine()


def cores() -> int:
    """How many of its cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _described(*fields: str) -> str:
    """The value of the first line of /proc/cpuinfo that has such a name; "" where there is none."""
    try:
        lines = regular_files.read_text("/proc/cpuinfo").splitlines()
    except OSError:  # no Linux
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(fields)), "")
