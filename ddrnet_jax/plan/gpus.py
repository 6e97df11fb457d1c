"""NVIDIA GPUs as XLA's compiler sees them, on a machine that has none: no GPU, no driver, no CUDA.

Of NVIDIA's wheels the compiler needs ptxas, nvlink and libdevice alone, 0.6 GB instead of the 5 GB of jax[cuda12].
"""

import dataclasses
import importlib.util

import jax
from jax.experimental import topologies

WHEELS = ("jax-cuda12-plugin", "jax-cuda12-pjrt", "nvidia-cuda-nvcc-cu12")
_MODULES = ("jax_cuda12_plugin", "jax_plugins.xla_cuda12", "nvidia.cuda_nvcc")


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU as NVIDIA publishes it. XLA chooses tiles and fusions by these figures, cuDNN's forms by the capability.

    lanes               float32 units of a multiprocessor
    memory_bytes        that a program can have
    threads             of a multiprocessor, at most
    shared_bytes        of a multiprocessor; of a block at most shared_optin_bytes
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    lanes: int
    memory_bytes: int
    bytes_per_s: float
    l2_bytes: int
    clock_ghz: float
    threads: int
    shared_bytes: int
    shared_optin_bytes: int


GPUS = {
    "2080ti": Gpu("GeForce RTX 2080 Ti", (7, 5), 68, 64, 11 * 2**30, 616e9, 5632 << 10, 1.545, 1024, 65536, 65536),
    "t4": Gpu("Tesla T4", (7, 5), 40, 64, 15 * 2**30, 320e9, 4 << 20, 1.59, 1024, 65536, 65536),
    "a100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 79 * 2**30, 2039e9, 40 << 20, 1.41, 2048, 167936, 166912),
    "l4": Gpu("NVIDIA L4", (8, 9), 58, 128, 22 * 2**30, 300e9, 48 << 20, 2.04, 1536, 102400, 101376),
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 79 * 2**30, 3352e9, 50 << 20, 1.98, 2048, 233472, 232448),
}
# Nothing can be measured without a device: XLA takes its first choice where it would try several.
COMPILER_OPTIONS = {"xla_gpu_autotune_level": "0"}


def missing_wheels() -> tuple[str, ...]:
    """The packages that the compiler for GPUs lacks here, as pip calls them; empty where all are installed."""
    return tuple(wheel for wheel, module in zip(WHEELS, _MODULES, strict=True) if not _is_installed(module))


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it would be in
        return False


def install_line() -> str:
    """The command that installs the compiler, of the version of this jax."""
    plugin, pjrt, nvcc = WHEELS
    return f"pip install --no-deps {plugin}=={jax.__version__} {pjrt}=={jax.__version__} {nvcc}"


def described(name: str, count: int = 1, hosts: int = 1) -> tuple[jax.Device, ...]:
    """`count` GPUs of this name in each of `hosts` machines, to compile for; nothing runs on them.

    Source: JAX must have been told to stay on the CPU before (`jax_platforms`), else it looks for a driver.
    """
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=_target_config(GPUS[name]), topology=f"1x{hosts}x{count}"
    )
    return tuple(topology.devices)


def _target_config(gpu: Gpu) -> str:
    """XLA's GpuTargetConfigProto as text (xla/stream_executor/device_description.proto)."""
    major, minor = gpu.capability
    return f"""
        platform_name: "CUDA"
        device_description_str: "{gpu.name}"
        dnn_version_info {{ major: 9 minor: 10 }}
        runtime_version {{ major: 12 minor: 8 }}
        gpu_device_info {{
          cuda_compute_capability {{ major: {major} minor: {minor} }}
          core_count: {gpu.multiprocessors}
          fpus_per_core: {gpu.lanes}
          clock_rate_ghz: {gpu.clock_ghz}
          device_memory_size: {gpu.memory_bytes}
          memory_bandwidth: {int(gpu.bytes_per_s)}
          l2_cache_size: {gpu.l2_bytes}
          threads_per_warp: 32
          threads_per_block_limit: 1024
          threads_per_core_limit: {gpu.threads}
          shared_memory_per_block: 49152
          shared_memory_per_core: {gpu.shared_bytes}
          shared_memory_per_block_optin: {gpu.shared_optin_bytes}
          registers_per_core_limit: 65536
          registers_per_block_limit: 65536
          block_dim_limit_x: 2147483647
          block_dim_limit_y: 65535
          block_dim_limit_z: 65535
        }}"""
