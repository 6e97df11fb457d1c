"""The clocks of the GPU that is measured, as its driver tells them; where it does not, they are said to be unknown."""

import functools
import importlib
import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax

# Bits of NVML's clock event reasons.
_SLOWED_BY = {0x4: "power cap", 0x8: "hardware slowdown", 0x20: "heat", 0x40: "heat", 0x80: "power brake"}


class Reading(NamedTuple):
    """The clocks of a moment, and what holds them down."""

    sm_mhz: int
    memory_mhz: int
    slowed_by: frozenset[str]


class Clocks(NamedTuple):
    """Reads the clocks.

    read   those of this moment; None where unknown
    about  the card's limits, or {"unknown": why}; None where JAX uses no GPU
    """

    read: Callable[[], Reading | None]
    about: dict[str, Any] | None


def of_first_device() -> Clocks:
    """Those of the device that is measured; raises nothing."""
    device = jax.devices()[0]
    if device.platform != "gpu":
        return Clocks(lambda: None, None)
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return _unknown("nvidia-ml-py is not installed: pip install nvidia-ml-py")
    try:
        nvml.nvmlInit()
        handle = _handle(nvml, device)
        about = {
            "driver": nvml.nvmlSystemGetDriverVersion(),
            "highest_sm_mhz": nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
            "highest_memory_mhz": nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM),
            "power_limit_w": nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3,
        }
        _read(nvml, handle)
    except (nvml.NVMLError, LookupError) as e:
        return _unknown(str(e))
    return Clocks(functools.partial(_read_or_none, nvml, handle), about)


def _unknown(why: str) -> Clocks:
    return Clocks(lambda: None, {"unknown": why})


def _handle(nvml: ModuleType, device: jax.Device) -> Any:
    """The card that is this device. Raises LookupError if that is not sure: CUDA and NVML may count differently."""
    index = getattr(device, "local_hardware_id", None) or 0
    visible = [entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry.strip()]
    entry = visible[index] if visible else str(index)
    by_name = nvml.nvmlDeviceGetHandleByIndex if entry.isdigit() else nvml.nvmlDeviceGetHandleByUUID
    handle = by_name(int(entry) if entry.isdigit() else entry)
    name = nvml.nvmlDeviceGetName(handle)
    if name != device.device_kind:
        raise LookupError(f"card {entry} is {name} to the driver, {device.device_kind} to JAX")
    return handle


def _read(nvml: ModuleType, handle: Any) -> Reading:
    reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    return Reading(
        nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
        frozenset(word for bit, word in _SLOWED_BY.items() if reasons & bit),
    )


def _read_or_none(nvml: ModuleType, handle: Any) -> Reading | None:
    try:
        return _read(nvml, handle)
    except nvml.NVMLError:
        return None


def summary(readings: Sequence[Reading | None]) -> dict | None:
    """{"sm_mhz": [lowest, highest], "memory_mhz": the same, "slowed_by": words} of a row; None if nothing was read."""
    read = [reading for reading in readings if reading is not None]
    if not read:
        return None
    sm_mhz, memory_mhz, slowed_by = zip(*read, strict=True)
    return {
        "sm_mhz": [min(sm_mhz), max(sm_mhz)],
        "memory_mhz": [min(memory_mhz), max(memory_mhz)],
        "slowed_by": sorted(frozenset.union(*slowed_by)),
    }


def note(about: dict, rows: Sequence[dict]) -> str:
    """The report's words for them.

    about  of Clocks
    rows   of the report, each with its summary as "clocks"
    """
    if "unknown" in about:
        return f"Clocks: unknown ({about['unknown']})."
    read = [row["clocks"] for row in rows if row["clocks"]]
    words = sorted({word for clocks in read for word in clocks["slowed_by"]})
    counts = ", ".join(f"{word} in {sum(word in clocks['slowed_by'] for clocks in read)}" for word in words)
    return (
        f"MHz: the lowest clock of the multiprocessors at the end of a turn; the card's highest is "
        f"{about['highest_sm_mhz']}, of its memory {about['highest_memory_mhz']}. "
        f"Held down, of {len(read)} rows: {counts or 'none'}. "
        f"Driver {about['driver']}, power limit {about['power_limit_w']:.0f} W."
    )
