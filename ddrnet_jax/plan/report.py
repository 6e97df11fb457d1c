"""A plan as lines of at most 80 columns."""

from ddrnet_jax.plan.accelerators import GPU_SHARE, LIMITS, THIS_MACHINE
from ddrnet_jax.text import size, versions, wrapped


def report_lines(planned: dict) -> list[str]:
    """The result of `plan.plan`, for people."""
    config, programs = planned["config"], planned["programs"]
    lines = [
        f"DDRNet-{config['variant']} on {_where(planned)}",
        f"batch {config['batch_size']} of {size(config['crop_hw'])} (HxW), {config['dtype']}, {config['loss']}, "
        f"{config['accumulate_steps']} part(s) a step",
        "",
        "training step, per device",
        *_program_lines(programs["train"]),
        *_run_lines(planned),
    ]
    if "inference" in programs:
        image = size(config["inference_hw"])
        lines += ["", f"inference, one image of {image} (HxW) to its mask on one device"]
        lines += _program_lines(programs["inference"])
        lines += _latency_lines(programs["inference"])
    return lines + ["", *_assumption_lines(planned)]


def _where(planned: dict) -> str:
    if planned["topology"] == THIS_MACHINE:
        return f"this machine: {planned['devices']} cpu device(s)"
    return f"{planned['topology']}: {planned['chips']} chips, {planned['devices']} devices, {planned['hosts']} host(s)"


def _program_lines(program: dict) -> list[str]:
    if "argument_bytes" not in program:
        needed, available = program["needed_bytes"], program["available_bytes"]
        amounts = f": needs {_amount(needed)} of {_amount(available)}" if needed else ""
        return [f"  DOES NOT FIT in memory{amounts}, by the compiler's own count"]
    verdict = "fits" if program["fits"] else "DOES NOT FIT"
    rows = [
        ("memory", f"{verdict} in {_amount(program['available_bytes'])}"),
        ("  arguments", _amount(program["argument_bytes"])),
        ("  temporary", _amount(program["temporary_bytes"])),
        ("  peak", _amount(program["peak_bytes"])),
        ("  code", _amount(program["code_bytes"])),
        ("operations", f"{program['flops'] / 1e12:.3f} TFLOP"),
        ("bytes accessed", _amount(program["bytes_accessed"])),
    ]
    if "kernels" in program:
        rows.append(("kernels", f"{program['kernels']}"))
    for kind, total in program["collectives"].items():
        rows.append((kind, f"{total['count']}, together {_amount(total['bytes'])}"))
    if not program["collectives"]:
        rows.append(("collectives", "none"))
    return [f"  {name:<20}{value}" for name, value in rows]


def _run_lines(planned: dict) -> list[str]:
    train, run, config = planned["programs"]["train"], planned["run"], planned["config"]
    if run is None:
        bounds = [f"  {'at least':<20}{_bounds(train)}"] if "roofline" in train else []
        return bounds + ([f"  try: {hint}" for hint in _hints(config)] if not train["fits"] else [])
    per_host = run["images_per_s"] / planned["hosts"]
    return [
        "estimate, by the published figures of the chip",
        f"  {_bounds(train)}",
        f"  {'a step':<20}{_time(run['step_s'])}, limited by {train['roofline']['limit']}",
        f"  {'images/s':<20}{run['images_per_s']:.0f}: what the input must deliver, {per_host:.0f} on each host",
        f"  {'the run':<20}{config['total_steps']:,} steps: {run['hours']:.2f} h, {run['chip_hours']:.1f} chip-hours",
    ]


def _hints(config: dict) -> list[str]:
    hints = [f"--config.optimizer.accumulate_steps={2 * config['accumulate_steps']}", "more devices"]
    return hints if config["dtype"] == "bfloat16" else ["--config.model.dtype=bfloat16", *hints]


def _latency_lines(program: dict) -> list[str]:
    if "roofline" not in program:
        return []
    seconds = program["roofline"]["seconds"]
    if "kernels" in program:
        return [f"  {'at least':<20}{_bounds(program)}"]
    return [
        "estimate, by the published figures of the chip",
        f"  {_bounds(program)}",
        f"  {'an image':<20}{_time(seconds)}, {1 / seconds:.0f} images/s",
    ]


def _bounds(program: dict) -> str:
    bounds = program["roofline"]
    return ", ".join(f"{limit} {_time(bounds[key])}" for limit, key in LIMITS.items())


def _assumption_lines(planned: dict) -> list[str]:
    lines = [f"Compiled, not run: nothing here is a measurement. By {versions(planned['versions'])}."]
    accelerator = planned["accelerator"]
    if accelerator is None:
        lines.append("No estimate of time: this machine's peak rates are not known.")
    elif "kernels" in planned["programs"]["train"]:
        lines += [
            _published(accelerator),
            f"Memory is compared with {GPU_SHARE:.0%} of the card, what JAX takes of it. cuDNN's workspace is in no "
            "figure, and no algorithm is chosen without a device. Operations are those of convolutions; bytes are what "
            "kernels give each other, whatever the cache keeps. The bounds are these over the published rates, "
            "all-reduces over the links within a machine: no estimate, since small kernels cost time of their own, and "
            "nothing of this was timed on a GPU.",
        ]
    else:
        lines += [
            _published(accelerator),
            "Time is the largest of operations, bytes accessed and all-reduced bytes over these rates, as if each "
            "overlapped the others and reached its peak. TPUs multiply float32 in bfloat16 unless told otherwise. "
            "Bytes accessed are XLA's count: what stays on the chip counts too. "
            "The latency of each collective does not count, nor do evaluation, checkpoints or waiting for input.",
        ]
    return [line for paragraph in lines for line in wrapped(paragraph)]


def _published(accelerator: dict) -> str:
    return (
        f"A chip of {accelerator['name']}, published: {accelerator['memory_gib']} GiB, "
        f"{accelerator['flops_per_s'] / 1e12:.0f} TFLOP/s (bfloat16), "
        f"{accelerator['memory_bytes_per_s'] / 1e9:.0f} GB/s memory, "
        f"{accelerator['link_bytes_per_s'] / 1e9:.0f} GB/s to its neighbours [{accelerator['source']}]."
    )


def _amount(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"
