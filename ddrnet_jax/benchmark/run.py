"""A benchmark from its first compilation to its files: every case by every engine, round by round."""

import functools
import itertools
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from ddrnet_jax import memory
from ddrnet_jax.benchmark import cases, clocks, device, exported, pytorch, report, timing
from ddrnet_jax.benchmark.cases import Case, Protocol
from ddrnet_jax.benchmark.files import file_program, write_image
from ddrnet_jax.benchmark.ours import OurNetwork
from ddrnet_jax.benchmark.published import num_classes
from ddrnet_jax.exports.onnx_engine import EngineError
from ddrnet_jax.models import variables
from ddrnet_jax.models.ddrnet import VARIANTS, DDRNet
from ddrnet_jax.outputs import Outputs
from ddrnet_jax.runs.checkpoints import CheckpointError
from ddrnet_jax.text import size
from ddrnet_jax.weights import loading

LEAST_PIXELS = 32  # of an image each way: a drawn scene's
_WITHOUT_GRAPHS: dict[str, str | bool] = {"xla_gpu_enable_command_buffer": ""}  # what may go into CUDA graphs
_GRAPHS_NOTE = (
    "no graphs: float32 without CUDA graphs (xla_gpu_enable_command_buffer empty). The other rows of ours have them as "
    "XLA makes them by default, of five or more kernels in a row of the kinds that it records; how many of the kernels "
    "that is, XLA does not say."
)
_TF32_NOTE = "float32: TF32 off; tf32: on, as XLA has it by default."
_NO_TF32_NOTE = "No tf32 and no bfloat16: cards before compute capability 8.0 have neither."
_log = logging.getLogger(__name__)


class Engine(NamedTuple):
    """Something that runs the network.

    network    (model, size_hw) -> an object whose `program(protocol, batch)` is a timing.Program
    precision  it computes in; one of device.precisions has a rate of the device beside it
    """

    label: str
    network: Callable
    precision: str = device.FLOAT32.name
    note: str = ""
    packages: tuple[str, ...] = ()


def engines(others: Sequence[str] = ()) -> list[Engine]:
    """Ours in every precision of this platform, float32 first, on GPUs without CUDA graphs too; then OTHER_ENGINES.

    Raises EngineError if one of them cannot run here.
    """
    precisions = device.precisions_here()
    ours = [
        Engine(f"jax {precision.name}", functools.partial(OurNetwork, precision=precision), precision.name)
        for precision in precisions
    ]
    if jax.default_backend() == "gpu":
        note = f"{_TF32_NOTE if device.TF32 in precisions else _NO_TF32_NOTE} {_GRAPHS_NOTE}"
        ours.append(Engine("jax no graphs", functools.partial(OurNetwork, options=_WITHOUT_GRAPHS), note=note))
    return ours + [OTHER_ENGINES[name]() for name in others]


def _onnx_runtime() -> Engine:
    exported.check_installed()
    return Engine("onnxruntime", exported.OnnxNetwork, note=exported.NOTE, packages=exported.PACKAGES)


def _int8() -> Engine:
    exported.check_installed("int8")
    return Engine("int8", exported.Int8Network, "int8", exported.INT8_NOTE, exported.PACKAGES)


def _openvino() -> Engine:
    exported.check_installed("openvino")
    packages = (*exported.PACKAGES, "openvino")
    return Engine("openvino", exported.OpenVinoNetwork, "its own", exported.OPENVINO_NOTE, packages)


def _torch() -> Engine:
    pytorch.check_installed()
    return Engine("torch", pytorch.TorchNetwork, note=pytorch.NOTE, packages=pytorch.PACKAGES)


OTHER_ENGINES = {"onnxruntime": _onnx_runtime, "int8": _int8, "openvino": _openvino, "torch": _torch}


def benchmark(
    output: Path,
    *,
    checkpoint: str | Path | None = None,
    variants: Sequence[str] = tuple(VARIANTS),
    sizes_hw: Sequence[tuple[int, int]] = cases.PAPER_SIZES_HW,
    protocols: Sequence[str] = tuple(cases.PROTOCOLS),
    batch_sizes: Sequence[int] | None = None,
    other_engines: Sequence[str] = (),
    seconds: float = cases.SECONDS,
) -> dict:
    """Measure, and write OUTPUT/benchmark.json, benchmark.txt and benchmark.html.

    checkpoint   whose network is measured, instead of the variants with random weights; whole images of
                 sizes_hw, whatever its eval.size_hw and eval.tile_hw
    batch_sizes  None: one image at a time, on GPUs 1 to 16 of them by the paper's protocol
    seconds      of forwards of each engine in each case
    Returns what benchmark.json holds. Files are written after every case: what is stopped leaves the cases before,
    or before the first what was there. Raises OutputError, CheckpointError or EngineError before anything is measured.
    What does not fit in memory is a row.
    """
    outputs = Outputs(output)
    outputs.require([report.JSON_NAME, report.TABLE_NAME, report.PAGE_NAME])
    single = cases.single_image_protocols(protocols, batch_sizes or (1,))
    to_run = engines(other_engines)
    models, data_set = _trained(checkpoint) if checkpoint else (_random_models(variants), None)
    wanted = cases.cases(tuple(models), sizes_hw, protocols, batch_sizes, jax.default_backend())
    gpu_clocks = clocks.of_first_device()
    if single:
        _log.info(f"{', '.join(single)}: one image at a time, whatever --batch_sizes says")
    _log.info("measuring what this device can do: large matrix multiplications and copies")
    used = [p for p in device.precisions_here() if p.name in {e.precision for e in to_run}]
    peaks = device.practical_peaks(used)
    result = report.started(checkpoint, data_set, to_run, wanted, seconds, peaks, gpu_clocks.about)
    expected_s = _expected_s(wanted, result, seconds, len(to_run))
    _say_what_comes(wanted, expected_s, to_run, output)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for i, case, networks, about in _prepared(wanted, models, to_run):
            _log.info(f"[{i + 1}/{len(wanted)}] {report.case_name(case)}: about {expected_s[i]:.0f} s")
            image_file = write_image(Path(folder), case.size_hw)
            measured = measure(case, networks, image_file, seconds, gpu_clocks.read)
            report.add(result, case, measured, to_run, about | {"png_bytes": image_file.stat().st_size})
            report.write(result, outputs)
    result["peaks"] = device.best_of(result["peaks"], device.practical_peaks(used))
    report.finish(result, time.perf_counter() - begin)
    report.write(result, outputs)
    return result


def _prepared(wanted: list[Case], models: dict, to_run: list[Engine]) -> Iterator[tuple]:
    """(index, case, networks, what else is known of it), the networks made once for a variant at a size."""
    numbered = enumerate(wanted)
    for (variant, size_hw), group in itertools.groupby(numbered, lambda item: (item[1].variant, item[1].size_hw)):
        model = models[variant](size_hw)
        networks, flops = _networks(model, size_hw, to_run)
        for i, case in group:
            yield i, case, networks, {"num_classes": model.num_classes, "network_flops": flops}


def measure(
    case: Case, networks: dict, image_file: Path, seconds: float, read: Callable[[], clocks.Reading | None]
) -> dict[str, dict]:
    """One case by all engines, interleaved.

    networks  by label; a text instead of a network says why there is none
    read      the clocks, after each turn
    Returns by label either {"error": why} or the figures of the row.
    """
    protocol, programs, call_s, failed = case.protocol, {}, {}, {}
    first = next(iter(networks))
    for label, network in networks.items():
        if first in failed and jax.default_backend() == "cpu":  # where too much memory ends the process
            failed[label] = {"error": f"not tried: {first} does not fit"}
            continue
        _log.info(f"  {label}: compiling and warming up")
        try:
            programs[label], call_s[label] = _ready(case, network, image_file)
        except Exception as e:
            failed[label] = {"error": _why(e)}
            _log.info(f"  {label}: {failed[label]['error']}")
            programs.pop(label, None)
    turns, failed_late = _turns(programs, call_s, protocol, seconds, read)
    failed |= failed_late
    rows = {}
    for label in networks:
        if label in failed:
            rows[label] = failed[label]
            continue
        program = programs[label]
        rows[label] = timing.summary(turns[label], protocol, case.batch) | {
            "ratio": timing.ratio(turns[label], turns[first]) if first in turns else None,
            "compile_s": program.compile_s,
            "is_from_cache": program.is_from_cache,
            "memory": program.memory,
            "bytes_accessed": program.bytes_accessed,
            "clocks": clocks.summary([turn.reading for turn in turns[label]]),
        }
        _log.info(f"  {label}: {rows[label]['latency_ms']:.1f} ms, {rows[label]['fps']:.2f} images/s")
    return rows


def _turns(
    programs: dict[str, timing.Program],
    call_s: dict[str, float],
    protocol: Protocol,
    seconds: float,
    read: Callable[[], clocks.Reading | None],
) -> tuple[dict, dict]:
    """(the turns of those that end them, the rows of the others): without one that fails, all are measured again."""
    programs = dict(programs)
    failed: dict[str, dict] = {}
    while programs:
        _log.info(f"  measuring {', '.join(programs)}")
        try:
            return timing.interleaved(programs, call_s, protocol, seconds, read=read), failed
        except timing.TurnError as e:
            failed[e.name] = {"error": _why(e.__cause__ or e)}
            _log.info(f"  {e.name}: {failed[e.name]['error']}")
            del programs[e.name]
    return {}, failed


def _ready(case: Case, network, image_file: Path) -> tuple[timing.Program, float]:
    """(a program that has warmed up, seconds of its last forward)"""
    if isinstance(network, str):
        raise EngineError(network)
    program = network.program(case.protocol, case.batch)
    if case.protocol.name == "file":
        program = file_program(program, image_file)
    return program, timing.warm_up(program, case.protocol, least_s=cases.least_warm_up_s(jax.default_backend()))


def _why(error: BaseException) -> str:
    """The words of a row in place of figures. Raises the error again if it is none that a row can have."""
    if isinstance(error, EngineError):
        return str(error)
    if memory.is_out_of_memory(error):
        return f"does not fit in memory: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    raise error


def _networks(model: DDRNet, size_hw: tuple[int, int], to_run: list[Engine]) -> tuple[dict, float | None]:
    """(each engine's network, or why there is none; operations of the network alone for an image)"""
    networks = {}
    for engine in to_run:
        if engine.packages:
            _log.info(f"making the network of {engine.label} for {size(size_hw)}")
        try:
            networks[engine.label] = engine.network(model, size_hw)
        except Exception as e:
            networks[engine.label] = _why(e)
    ours = networks[to_run[0].label]
    return networks, None if isinstance(ours, str) else ours.flops()


def _random_models(variants: Sequence[str]) -> dict[str, Callable[[tuple[int, int]], DDRNet]]:
    """By variant, for an image size: with as many classes as the data set of the paper that has it."""
    return {v: functools.partial(_random_for, v) for v in variants}


def _random_for(variant: str, size_hw: tuple[int, int]) -> DDRNet:
    return _random(variant, num_classes(size_hw))


@functools.lru_cache(maxsize=1)
def _random(variant: str, classes: int) -> DDRNet:
    model = DDRNet(variant, num_classes=classes, rngs=nnx.Rngs(0))
    model.eval()
    return model


def _trained(checkpoint: str | Path) -> tuple[dict[str, Callable[[tuple[int, int]], DDRNet]], str]:
    """(by its variant, for an image size; the data set it was trained on); checked to be a segmenter."""
    loaded = loading.load_weights(checkpoint)
    if loaded.config.task != "segmentation":
        raise CheckpointError(f"{checkpoint}: a classifier, expected a segmenter, which alone predicts masks")
    weights = jax.tree.map(jnp.asarray, (loaded.params, loaded.batch_stats))
    models = {loaded.config.model.variant: lambda size_hw: variables.merge(loaded.graphdef, *weights)}
    return models, loaded.config.data.name


def _expected_s(wanted: list[Case], result: dict, seconds: float, num_engines: int) -> list[float]:
    rate, platform = result["peaks"]["matmul_flops_per_s"][device.FLOAT32.name], jax.default_backend()
    return [cases.expected_s(case, seconds, num_engines, rate, platform) for case in wanted]


def _say_what_comes(wanted: list[Case], expected_s: list[float], to_run: list[Engine], output: Path) -> None:
    minutes = sum(expected_s) / 60
    duration = f"{minutes:.0f} minutes" if minutes >= 1.5 else f"{60 * minutes:.0f} seconds"
    _log.info(
        f"{len(wanted)} cases by {', '.join(e.label for e in to_run)} on {device.label(device.description())}: "
        f"roughly {duration}; after each case, results so far are in {output / report.JSON_NAME}. "
        "Fewer with --variants, --sizes, --protocols, --batch_sizes, --seconds"
    )
    load = device.load()
    if load is not None and load > 0.5:
        _log.warning(f"this machine is busy (load {load:.1f} a core): compare ratios rather than milliseconds")
