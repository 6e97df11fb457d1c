"""Accelerators by their published figures, their topologies without the hardware, and roofline arithmetic."""

import contextlib
import dataclasses
import importlib.util
import os
import re
from collections.abc import Iterator

import jax
from jax.experimental import topologies

from ddrnet_jax.errors import UserError
from ddrnet_jax.plan import gpus
from ddrnet_jax.runtime import devices


class TopologyError(UserError):
    """There is nothing to compile for; the message says which names are accepted or what to install."""


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One chip as its maker publishes it; the figures of a device are these over devices_per_chip.

    devices_per_chip         what JAX shows of one chip
    memory_gib               GiB
    flops_per_s              peak in bfloat16
    memory_bytes_per_s       bandwidth of the memory
    link_bytes_per_s         to all neighbouring chips together, in one direction
    topologies               examples, smallest first
    options                  of a TPU, for `topologies.get_topology_desc`
    """

    name: str
    devices_per_chip: int
    memory_gib: float
    flops_per_s: float
    memory_bytes_per_s: float
    link_bytes_per_s: float
    topologies: tuple[str, ...]
    source: str
    options: tuple[tuple[str, str], ...] = ()


_DOCS = "https://docs.cloud.google.com/tpu/docs"
# Public specifications, not measured by us. Links: half of the documented bidirectional bandwidth;
# of v4, whose pages give none, 6 links of 50 GB/s.
_TPUS = (
    Accelerator(
        name="v4",
        devices_per_chip=1,  # with both cores as one device, which is how JAX sees a v4 by default
        memory_gib=32,
        flops_per_s=275e12,
        memory_bytes_per_s=1200e9,
        link_bytes_per_s=300e9,
        topologies=("v4:2x2x1", "v4:2x2x4"),
        source=f"{_DOCS}/v4",
        options=(("chip_config_name", "megacore"),),
    ),
    Accelerator(
        name="v5e",
        devices_per_chip=1,
        memory_gib=16,
        flops_per_s=197e12,
        memory_bytes_per_s=819e9,
        link_bytes_per_s=200e9,
        topologies=("v5e:1x1", "v5e:2x2", "v5e:2x4", "v5e:4x8"),
        source=f"{_DOCS}/v5e",
    ),
    Accelerator(
        name="v5p",
        devices_per_chip=1,
        memory_gib=95,
        flops_per_s=459e12,
        memory_bytes_per_s=2765e9,
        link_bytes_per_s=600e9,
        topologies=("v5p:2x2x1", "v5p:2x2x2"),
        source=f"{_DOCS}/v5p",
    ),
    Accelerator(
        name="v6e",
        devices_per_chip=1,
        memory_gib=32,
        flops_per_s=918e12,
        memory_bytes_per_s=1638e9,
        link_bytes_per_s=400e9,
        topologies=("v6e:1x1", "v6e:2x2", "v6e:2x4", "v6e:4x8"),
        source=f"{_DOCS}/v6e",
    ),
    Accelerator(
        name="tpu7x",
        devices_per_chip=2,
        memory_gib=192,
        flops_per_s=2307e12,
        memory_bytes_per_s=7380e9,
        link_bytes_per_s=600e9,
        topologies=("tpu7x:2x2x1",),
        source=f"{_DOCS}/tpu7x",
    ),
)
TPUS = {tpu.name: tpu for tpu in _TPUS}

_NVIDIA = "https://www.nvidia.com/en-us"
# Data sheets, not measured by us. Operations are of dense matrices: bfloat16, of Turing float16, summed in float32.
# Links: NVLink's in one direction, PCI Express's 16 lanes where there is none.
_GPUS = (
    Accelerator(
        name="2080ti",
        devices_per_chip=1,
        memory_gib=11,
        flops_per_s=53.8e12,
        memory_bytes_per_s=616e9,
        link_bytes_per_s=16e9,
        topologies=("2080ti:1", "2080ti:4"),
        source=f"{_NVIDIA}/geforce/20-series/",
    ),
    Accelerator(
        name="t4",
        devices_per_chip=1,
        memory_gib=16,
        flops_per_s=65e12,
        memory_bytes_per_s=320e9,
        link_bytes_per_s=16e9,
        topologies=("t4:1", "t4:4"),
        source=f"{_NVIDIA}/data-center/tesla-t4/",
    ),
    Accelerator(
        name="l4",
        devices_per_chip=1,
        memory_gib=24,
        flops_per_s=121e12,
        memory_bytes_per_s=300e9,
        link_bytes_per_s=32e9,
        topologies=("l4:1", "l4:8"),
        source=f"{_NVIDIA}/data-center/l4/",
    ),
    Accelerator(
        name="a100",
        devices_per_chip=1,
        memory_gib=80,
        flops_per_s=312e12,
        memory_bytes_per_s=2039e9,
        link_bytes_per_s=300e9,
        topologies=("a100:1", "a100:4", "a100:2x8"),
        source=f"{_NVIDIA}/data-center/a100/",
    ),
    Accelerator(
        name="h100",
        devices_per_chip=1,
        memory_gib=80,
        flops_per_s=989e12,
        memory_bytes_per_s=3352e9,
        link_bytes_per_s=450e9,
        topologies=("h100:1", "h100:4", "h100:8", "h100:2x8"),
        source=f"{_NVIDIA}/data-center/h100/",
    ),
)
GPUS = {gpu.name: gpu for gpu in _GPUS}
GPU_SHARE = 0.75  # of its memory that JAX takes
_HOSTS_AND_GPUS = re.compile(r"(?:([1-9]\d*)x)?([1-9]\d*)")
THIS_MACHINE = "cpu"


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to compile for; `accelerator` is None for this machine, of which nothing is published here."""

    name: str
    devices: tuple[jax.Device, ...]
    accelerator: Accelerator | None


LIMITS = {"compute": "compute_s", "memory": "memory_s", "links": "link_s"}  # of a Roofline, as reports call them


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of one execution on a device, by what limits it. An estimate: XLA counts bytes that stay on the chip too.

    compute_s  operations at the published peak
    memory_s   bytes accessed at the published bandwidth
    link_s     bytes of all-reduces at the published bandwidth to all neighbours
    """

    compute_s: float
    memory_s: float
    link_s: float

    @property
    def seconds(self) -> float:
        return max(self.compute_s, self.memory_s, self.link_s)

    @property
    def limit(self) -> str:
        return max(LIMITS, key=lambda limit: getattr(self, LIMITS[limit]))


def roofline(
    accelerator: Accelerator, *, flops: float, bytes_accessed: float, reduced_bytes: float, num_devices: int
) -> Roofline:
    """The roofline of one execution; all quantities are per device.

    Source: an all-reduce of n devices sends and receives 2 (n - 1) / n of its bytes on each of them.
    """
    share = 1 / accelerator.devices_per_chip
    sent = reduced_bytes * 2 * (num_devices - 1) / num_devices
    return Roofline(
        compute_s=flops / (accelerator.flops_per_s * share),
        memory_s=bytes_accessed / (accelerator.memory_bytes_per_s * share),
        link_s=sent / (accelerator.link_bytes_per_s * share),
    )


def topology(name: str) -> Topology:
    """The devices of a topology like "v5e:2x2", GPUs like "h100:4" or "h100:2x8" (hosts x GPUs), this machine by "cpu".

    Raises TopologyError for a name that is not accepted, or without its compiler. Leaves JAX on the CPU: this process
    has no other use for an accelerator that may be busy.
    """
    family = name.split(":")[0].lower()
    if name != THIS_MACHINE and family not in TPUS | GPUS:
        raise TopologyError(f"--topology {name}: unknown topology; accepted: {accepted_names()}")
    devices.stay_on_the_cpu()
    if name == THIS_MACHINE:
        return Topology(name, tuple(jax.devices("cpu")), None)
    if family in GPUS:
        return Topology(name, _gpu_devices(name, family), GPUS[family])
    if importlib.util.find_spec("libtpu") is None:
        raise TopologyError(
            f"--topology {name}: the compiler for TPUs is not installed; pip install libtpu "
            "(in an environment of its own: elsewhere JAX would look for a TPU at every start)"
        )
    return Topology(name, _tpu_devices(name, TPUS[family]), TPUS[family])


def accepted_names() -> str:
    """The names of topologies, for messages."""
    return ", ".join((*(example for each in (*_TPUS, *_GPUS) for example in each.topologies), THIS_MACHINE))


def _gpu_devices(name: str, family: str) -> tuple[jax.Device, ...]:
    counts = _HOSTS_AND_GPUS.fullmatch(name.partition(":")[2])
    if counts is None:
        raise TopologyError(
            f"--topology {name}: expected {family}:GPUS or {family}:HOSTSxGPUS, for example "
            f"{', '.join(GPUS[family].topologies)}"
        )
    if gpus.missing_wheels():
        raise TopologyError(
            f"--topology {name}: the compiler for GPUs is not installed; {gpus.install_line()} "
            "(in an environment of its own: elsewhere JAX would look for a GPU at every start)"
        )
    return gpus.described(family, int(counts[2]), int(counts[1] or 1))


def _tpu_devices(name: str, tpu: Accelerator) -> tuple[jax.Device, ...]:
    with _quiet_libtpu():
        try:
            described = topologies.get_topology_desc(platform="tpu", topology_name=name, **dict(tpu.options))
        except jax.errors.JaxRuntimeError as e:
            raise TopologyError(f"--topology {name}: {_refusal(str(e))}") from e
    return tuple(described.devices)


def _refusal(message: str) -> str:
    if "lockfile" in message:
        lock = "/tmp/libtpu_lockfile"
        return f"another process compiles for a TPU (libtpu's lock is {lock}); one at a time: wait for it to end"
    return f"{message.strip().splitlines()[0].rstrip('.')}; accepted, for example: {accepted_names()}"


@contextlib.contextmanager
def _quiet_libtpu() -> Iterator[None]:
    """Answers to what libtpu asks a TPU host for, so that it neither waits nor complains."""
    answers = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
    }
    missing = {key: value for key, value in answers.items() if key not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for key in missing:
            del os.environ[key]
