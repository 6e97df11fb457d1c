"""Memory of this machine that is free for this process, and how libraries say that there is too little."""

from pathlib import Path

from ddrnet_jax import regular_files

_CGROUPS, _CGROUP_OF_PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_OUT_OF_MEMORY = ("resource_exhausted", "out of memory", "allocate memory", "failed to allocate", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """True if an exception of any library says so; they have no class in common."""
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in _OUT_OF_MEMORY)


def available_bytes() -> int | None:
    """Free memory, within the limits of the process and of a container around it; None where nothing says."""
    limits = (_machine_bytes(), _cgroup_bytes(), _process_bytes())
    return min((free for free in limits if free is not None), default=None)


def _process_bytes() -> int | None:
    """Bytes that a limit on the process's addresses (ulimit -v) leaves; what it has reserved counts."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        lines = regular_files.read_text("/proc/self/status").splitlines()
        used = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize"))
    except (ImportError, OSError, StopIteration):  # no Unix, no Linux
        return None
    return max(0, limit - used)


def _machine_bytes() -> int | None:
    try:
        lines = regular_files.read_text("/proc/meminfo").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # no Linux
        return None


def _cgroup_bytes() -> int | None:
    """Bytes that the groups around this process (cgroup v2) leave; files that the system caches are free."""
    try:
        lines = regular_files.read_text(_CGROUP_OF_PROCESS).splitlines()
        here = _CGROUPS / next(line for line in lines if line.startswith("0::")).removeprefix("0::").lstrip("/")
    except (OSError, StopIteration):
        return None
    free = []
    for folder in (here, *here.parents):
        try:
            limit, used = (int(regular_files.read_text(folder / name)) for name in ("memory.max", "memory.current"))
            statistics = dict(line.split() for line in regular_files.read_text(folder / "memory.stat").splitlines())
        except (OSError, ValueError):  # none here, or "max"
            continue
        free.append(max(0, limit - used + int(statistics.get("inactive_file", 0))))
    return min(free, default=None)
