"""The cost of a config on accelerators that nobody needs to own: its programs compiled for them, never run."""

import contextlib
import dataclasses
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from ddrnet_jax.build import Experiment
from ddrnet_jax.evaluation.views import mask_program
from ddrnet_jax.models import kernel_layout, platforms, variables
from ddrnet_jax.models.folding import fold
from ddrnet_jax.outputs import Outputs
from ddrnet_jax.plan import accelerators, gpus, kernels
from ddrnet_jax.plan.collectives import collective_totals
from ddrnet_jax.runs import provenance
from ddrnet_jax.runtime import devices

_log = logging.getLogger(__name__)
COMPILERS = ("jax", "jaxlib", "libtpu", *gpus.WHEELS)
_GIB = 2**30
_IMAGE_HW = {"cityscapes": (1024, 2048), "camvid": (720, 960)}  # pixels of data sets whose images have one size
_SAY_EVERY_S = 30.0
_AMOUNT = r"([\d.]+)([KMGT]?)"
_OUT_OF_MEMORY = re.compile(  # XLA's messages, of two generations
    rf"\({_AMOUNT}\) exceeds available \w+ \({_AMOUNT}\)|[Uu]sed {_AMOUNT} of {_AMOUNT}"
)

LowerTrainStep = Callable[[Experiment, Mesh], jax.stages.Lowered]


def plan(experiment: Experiment, topology: str, lower_train_step: LowerTrainStep) -> dict:
    """Compile the training step and the inference of an experiment for a topology, one after the other.

    topology          "v5e:2x2", ..., "cpu" (`accelerators.accepted_names`)
    lower_train_step  the training step for a mesh, lowered
    Returns what `report_lines` prints, ready for JSON: bytes, seconds, operations; per device unless it says otherwise.
    Raises TopologyError, or ConfigError where the batch does not suit the devices. A program too large for the
    memory is a result.
    """
    target = accelerators.topology(topology)
    programs = {"train": training_program(experiment, target, lower_train_step)}
    if experiment.task == "segmentation":
        programs["inference"] = inference_program(experiment, target)
    return assembled(experiment, target, programs)


def training_program(experiment: Experiment, target: accelerators.Topology, lower_train_step: LowerTrainStep) -> dict:
    """The figures of the training step over all devices of the topology. Raises ConfigError as `plan` does."""
    mesh = devices.data_mesh(list(target.devices))
    # XLA counts what a loop repeats once; on CPUs the parts of a batch are no loop.
    repeats = 1 if devices.platform(mesh) == "cpu" else experiment.accumulate_steps
    return _program("the training step", lambda: lower_train_step(experiment, mesh), target, mesh.size, repeats)


def inference_program(experiment: Experiment, target: accelerators.Topology) -> dict:
    """The figures of one image to its mask on one device of the topology, by the folded network."""
    mesh = devices.data_mesh(list(target.devices[:1]))
    return _program("the inference", lambda: _lower_inference(experiment, mesh), target, 1, 1)


def assembled(experiment: Experiment, target: accelerators.Topology, programs: dict) -> dict:
    """The plan of programs that were compiled, one by one."""
    accelerator = target.accelerator
    num_devices = len(target.devices)
    chips = num_devices // accelerator.devices_per_chip if accelerator else None
    return {
        "topology": target.name,
        "devices": num_devices,
        "chips": chips,
        "hosts": len({device.process_index for device in target.devices}),
        "accelerator": dataclasses.asdict(accelerator) if accelerator else None,
        "config": _what_is_planned(experiment),
        "programs": programs,
        "run": _run_estimate(experiment, programs["train"], chips),
        "versions": provenance.versions(COMPILERS),
        "measured": False,
    }


def write(planned: dict, path: str | Path) -> None:
    """The plan as a JSON file. Raises OutputError if it cannot be written, or something of the user's is there."""
    path = Path(path)
    Outputs(path.parent).write(path.name, f"{json.dumps(planned, indent=1)}\n".encode())


def _what_is_planned(experiment: Experiment) -> dict:
    return {
        "variant": experiment.variant,
        "dtype": experiment.dtype,
        "batch_size": experiment.batch_size,
        "crop_hw": list(experiment.crop_hw),
        "loss": experiment.loss["name"],
        "accumulate_steps": experiment.accumulate_steps,
        "ema_decay": experiment.ema_decay,
        "total_steps": experiment.total_steps,
        "inference_hw": list(_image_hw(experiment)),
    }


def _image_hw(experiment: Experiment) -> tuple[int, int]:
    return tuple(experiment.view["size_hw"] or _IMAGE_HW.get(experiment.data_name, experiment.crop_hw))


def _lower_inference(experiment: Experiment, mesh: Mesh) -> jax.stages.Lowered:
    model, capability = experiment.network(nnx.Rngs(0)), getattr(mesh.devices.flat[0], "compute_capability", None)
    graphdef, *weights = variables.split(fold(model, platforms.inference_dtype(model.dtype, capability)))

    def placed(leaf, place):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    weights = jax.tree.map(placed, weights, kernel_layout.formats(weights, devices.replicated(mesh)))
    image = placed(jax.ShapeDtypeStruct((1, *_image_hw(experiment), 3), np.uint8), devices.by_batch(mesh))
    with platforms.compiled_for(devices.platform(mesh)):
        program: Any = mask_program(graphdef)  # of whole images: as jax.jit made it
        return program.lower(weights, image)


def _program(
    label: str,
    lower: Callable[[], jax.stages.Lowered],
    target: accelerators.Topology,
    num_devices: int,
    repeats: int,
) -> dict:
    """One program's figures; `repeats`: the length of its outermost loop, which XLA's cost analysis counts once."""
    lowered, is_gpu = lower(), target.devices[0].platform == "gpu"
    options: Any = {"compiler_options": gpus.COMPILER_OPTIONS} if is_gpu else {}
    with _announced(f"compiling {label} for {target.name}"), _without_cache():
        start = time.perf_counter()
        try:
            compiled = lowered.compile(**options)
        except jax.errors.JaxRuntimeError as e:
            if "RESOURCE_EXHAUSTED" not in str(e):
                raise
            return {"fits": False, **needed_and_available(str(e))}
        seconds = time.perf_counter() - start
    figures = {"compile_s": round(seconds, 1)}
    figures |= _figures_of_gpu(compiled, repeats) if is_gpu else _figures(compiled, repeats)
    if target.accelerator is None:
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // num_devices
        needed = figures["argument_bytes"] + figures["temporary_bytes"]
        return {"fits": needed <= available, "available_bytes": available, **figures}
    available = int(target.accelerator.memory_gib * _GIB / target.accelerator.devices_per_chip)
    bounds = _bounds(figures, target.accelerator, num_devices)
    if is_gpu:  # where the compiler refuses nothing
        available = int(accelerators.GPU_SHARE * available)
        return {"fits": figures["peak_bytes"] <= available, "available_bytes": available, **figures, "roofline": bounds}
    return {"fits": True, "available_bytes": available, **figures, "roofline": bounds}


def _figures(compiled: jax.stages.Compiled, repeats: int) -> dict:
    cost: Any = compiled.cost_analysis()  # not None for what is planned here, as below
    figures = {"flops": cost["flops"] * repeats, "bytes_accessed": cost["bytes accessed"] * repeats}
    return _memory_and_collectives(compiled, repeats) | figures


def _figures_of_gpu(compiled: jax.stages.Compiled, repeats: int) -> dict:
    """As `_figures`, and the kernels, read from the program: the compiler for GPUs gives no cost."""
    text: Any = compiled.as_text()
    found = kernels.of_program(text, loop_length=repeats)
    figures = {"flops": found.flops, "bytes_accessed": found.bytes, "kernels": found.count}
    return _memory_and_collectives(compiled, repeats) | figures


def _memory_and_collectives(compiled: jax.stages.Compiled, repeats: int) -> dict:
    memory: Any = compiled.memory_analysis()
    text: Any = compiled.as_text()
    communication = collective_totals(text, outer_loop_length=repeats)
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes": memory.peak_memory_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        "collectives": {kind: dataclasses.asdict(total) for kind, total in communication.items()},
    }


def _bounds(figures: dict, accelerator: accelerators.Accelerator, num_devices: int) -> dict:
    estimate = accelerators.roofline(
        accelerator,
        flops=figures["flops"],
        bytes_accessed=figures["bytes_accessed"],
        reduced_bytes=sum(total["bytes"] for total in figures["collectives"].values()),
        num_devices=num_devices,
    )
    return dataclasses.asdict(estimate) | {"seconds": estimate.seconds, "limit": estimate.limit}


def needed_and_available(message: str) -> dict:
    """{"needed_bytes", "available_bytes"} of XLA's out-of-memory message, None where it does not say."""
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    found = _OUT_OF_MEMORY.search(message)
    if not found:
        return {"needed_bytes": None, "available_bytes": None}
    needed, needed_unit, available, available_unit = (group for group in found.groups() if group is not None)
    return {
        "needed_bytes": int(float(needed) * units[needed_unit]),
        "available_bytes": int(float(available) * units[available_unit]),
    }


def _run_estimate(experiment: Experiment, train: dict, chips: int | None) -> dict | None:
    """Estimates the whole run, all devices together; None where there is no estimate of a step.

    Source: nothing of ours was ever timed on a GPU, and kernels that wait for each other are in no roofline.
    """
    if "roofline" not in train or "kernels" in train:
        return None
    step_s = train["roofline"]["seconds"]
    hours = step_s * experiment.total_steps / 3600
    return {
        "step_s": step_s,
        "images_per_s": experiment.batch_size / step_s,
        "hours": hours,
        "chip_hours": hours * chips,
    }


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """No persistent cache: programs for devices that are not there can be written to it, but not read from it."""
    was_on = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    _keep_programs(False)
    try:
        yield
    finally:
        _keep_programs(was_on)


def _keep_programs(is_on: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", is_on)
    compilation_cache.reset_cache()  # which goes by what the first program found


@contextlib.contextmanager
def _announced(label: str) -> Iterator[None]:
    """Says what is being done, and every half minute for how long: a compile can take minutes."""
    start, done = time.perf_counter(), threading.Event()

    def remind():
        while not done.wait(_SAY_EVERY_S):
            _log.info(f"  still compiling after {time.perf_counter() - start:.0f} s")

    _log.info(f"{label} (minutes)")
    reminder = threading.Thread(target=remind, daemon=True)
    reminder.start()
    try:
        yield
    finally:
        done.set()
        reminder.join()
    _log.info(f"  done in {time.perf_counter() - start:.0f} s")
