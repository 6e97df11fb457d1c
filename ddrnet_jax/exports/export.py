"""A checkpoint of ours as a file for others, with a card: weights by anyone's naming, or a program that runs alone."""

import calendar
import datetime
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from ddrnet_jax import regular_files
from ddrnet_jax.errors import UserError
from ddrnet_jax.evaluation.views import prediction_view
from ddrnet_jax.exports import hub_page, load_stablehlo
from ddrnet_jax.exports import onnx as to_onnx
from ddrnet_jax.exports import stablehlo as to_stablehlo
from ddrnet_jax.exports.int8 import Int8, quantised, with_card
from ddrnet_jax.models import variables
from ddrnet_jax.models.ddrnet import IMAGENET_MEAN, IMAGENET_STD, DDRNet
from ddrnet_jax.models.folding import fold
from ddrnet_jax.runs import find
from ddrnet_jax.runs.checkpoints import Loaded
from ddrnet_jax.runs.metrics_file import read_lines, training_time
from ddrnet_jax.runs.step_folders import FOLDER
from ddrnet_jax.runtime import compilation
from ddrnet_jax.weights import files as weight_files
from ddrnet_jax.weights import fingerprint, loading, origins, shipped, state_dicts
from ddrnet_jax.weights.card import CONFIG_ENTRY, card_path, score_entry

WEIGHTS, PROGRAMS = ("safetensors", "pth"), ("stablehlo", "onnx")
Size = tuple[int, int] | Literal["any"] | None
DTYPES = ("float32", "float16")  # of weights


class ExportError(UserError):
    """A checkpoint cannot be written in this form; the message says why."""


def export(
    checkpoint: str | Path,
    output: str | Path,
    *,
    file_format: str,
    naming: str | None = None,
    size_hw: Size = None,
    int8: Int8 | None = None,
    dtype: str = "float32",
) -> dict:
    """Write OUTPUT (its suffix is the format) and its card, OUTPUT.json; returns the card.

    file_format  one of WEIGHTS or PROGRAMS; beside a StableHLO file comes its loader, load_stablehlo.py, beside
                 safetensors the page of a model hub, unless a file of its names is there
    naming       of weights, one of names.ORIGINS; None: official
    size_hw      of the images that a program takes, or "any"; None: the checkpoint's eval.size_hw for onnx, else any
    int8         how an onnx file is quantised and measured, None: not at all
    dtype        of weights, one of DTYPES. float16: of kernels alone, so that no variance is too large for it
    Raises       ExportError, EngineError, Int8Error, CheckpointError or WeightsFileError with one line.
    """
    output = Path(output)
    _check_arguments(output, file_format, naming, size_hw, dtype)
    if int8 and file_format != "onnx":
        raise ExportError(f"--int8: {file_format} given, expected --format onnx, which alone is quantised")
    _make_folder(output)
    loaded, model = _loaded(checkpoint, dtype)
    card = _card(loaded, fingerprint.weights_sha256(model))
    if file_format in WEIGHTS:
        card["config"] = _without_places(card["config"])
        about, write = _weights(checkpoint, loaded, model, naming or "official", file_format, dtype, card)
    else:
        _check_segmenter(checkpoint, loaded)
        if file_format == "stablehlo":
            about, write = _stablehlo(loaded, model, size_hw, card)
        else:
            about, write = _onnx(loaded, model, size_hw, card, int8)
    card |= about
    try:
        write(output)
        if file_format in WEIGHTS:
            card["file_sha256"] = hashlib.sha256(regular_files.read_bytes(output)).hexdigest()
        if file_format == "safetensors":
            card["notes"].append(_write_page(card, output))
        regular_files.write(card_path(output), json.dumps(card, indent=2) + "\n")
    except OSError as e:
        raise ExportError(f"--output {output}: cannot be written ({e.strerror})") from e
    return card


def onnx_of_any_size(checkpoint: str | Path) -> bytes:
    """The ONNX file of a checkpoint for images of any size, its card inside.

    Raises ExportError, EngineError or CheckpointError with one line.
    """
    loaded, model = _loaded(checkpoint)
    _check_segmenter(checkpoint, loaded)
    if not isinstance(model, DDRNet):
        raise to_onnx.EngineError("its network is no DDRNet")
    card = _card(loaded, fingerprint.weights_sha256(model)) | _about_program(None)
    return to_onnx.to_onnx(model, None, json.dumps(card))[0]


def _loaded(checkpoint: str | Path, dtype: str = "float32") -> tuple[Loaded, DDRNet]:
    loaded = loading.load_weights(checkpoint)
    if dtype == "float16":
        loaded = loaded._replace(params=_rounded(checkpoint, loaded.params))
    return loaded, variables.merge(loaded.graphdef, *jax.device_put((loaded.params, loaded.batch_stats)))


def _check_arguments(output: Path, file_format: str, naming: str | None, size_hw: Size, dtype: str) -> None:
    if file_format not in WEIGHTS + PROGRAMS:
        raise ExportError(f"format {file_format!r} given, expected one of {', '.join(WEIGHTS + PROGRAMS)}")
    if output.suffix != f".{file_format}":
        raise ExportError(f"--output {output}: expected a name that ends in .{file_format}, the format asked for")
    if naming and file_format in PROGRAMS:
        raise ExportError(f"--naming {naming}: {file_format} files have no tensor names; {' and '.join(WEIGHTS)} have")
    if size_hw and file_format in WEIGHTS:
        size = size_hw if size_hw == "any" else "x".join(map(str, size_hw))
        raise ExportError(
            f"--size {size}: weights in {file_format} files have no image size; {' and '.join(PROGRAMS)} have"
        )
    if dtype not in DTYPES:
        raise ExportError(f"dtype {dtype!r} given, expected one of {', '.join(DTYPES)}")
    if dtype != "float32" and file_format in PROGRAMS:
        raise ExportError(f"--dtype {dtype}: {file_format} files compute in float32; it is of {' and '.join(WEIGHTS)}")
    for path in (output, card_path(output)):
        if os.path.lexists(path):
            raise ExportError(f"--output {path}: exists already; choose a new name")
    loader = _loader_path(output)
    if file_format == "stablehlo" and os.path.lexists(loader) and regular_files.read_bytes(loader) != _loader():
        raise ExportError(
            f"--output {output}: {loader} is in the way, a file of another content; choose another folder"
        )


def _make_folder(output: Path) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ExportError(f"--output {output}: cannot be written ({e.strerror})") from e


def _check_segmenter(checkpoint: str | Path, loaded: Loaded) -> None:
    if loaded.experiment.task != "segmentation":
        raise ExportError(
            f"{checkpoint}: a classifier; programs are of segmenters, its weights go as {' or '.join(WEIGHTS)}"
        )


def _rounded(checkpoint: str | Path, params: dict) -> dict:
    """Parameters with kernels that float16 holds exactly; vectors, which are few, stay as they are."""
    with np.errstate(over="ignore"):
        rounded = jax.tree.map(lambda x: x.astype(np.float16).astype(x.dtype) if x.ndim > 1 else x, params)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(rounded)):
        raise ExportError(f"{checkpoint}: has kernels beyond the range of float16; leave --dtype out")
    return rounded


def _without_places(config: dict) -> dict:
    """A config without the paths of the machine that it was used on; a name of shipped weights is none."""
    groups = {"data": {"root": "", "pseudo_root": ""}, "distill": {"teacher": ""}}
    start = {} if config["init_from"] in shipped.NAMES else {"init_from": "", "init_head": "load"}
    return config | start | {name: config[name] | new for name, new in groups.items()}


def _weights(
    checkpoint: str | Path, loaded: Loaded, model: DDRNet, naming: str, file_format: str, dtype: str, card: dict
) -> tuple[dict, Callable[[Path], object]]:
    """The weights' entries of the card, and the function that writes them. The functions below return the same pair."""
    try:
        tensors = origins.to_origin(state_dicts.to_state_dict(model), naming, model.variant)
    except ValueError as e:
        raise ExportError(f"{checkpoint}: {e}") from e
    tensors = {name: array.astype(dtype) if array.ndim > 1 else array for name, array in tensors.items()}
    terms = hub_page.terms(loaded.experiment.config)

    def write(output: Path) -> None:
        if file_format == "safetensors":
            metadata = {CONFIG_ENTRY: json.dumps(card["config"]), "format": "pt"}
            if loaded.score is not None:
                metadata[score_entry(loaded.metric)] = repr(loaded.score)
            weight_files.write_safetensors(output, tensors, metadata)
        else:
            weight_files.write_pth(output, tensors)

    return {
        "naming": naming,
        "dtype": dtype,
        "output_stride": 1 if naming == "super-gradients" else 8,  # its heads upsample inside
        "license": terms.license,
        "terms": terms.text,
        "not_for": hub_page.NOT_FOR,
        "notes": _notes(loaded, naming),
    } | _training(checkpoint, loaded), write


def _training(checkpoint: str | Path, loaded: Loaded) -> dict:
    """The step, the hours and the evaluations of the run that a checkpoint is in; nothing of one that was moved."""
    path = find.on_this_disk(checkpoint).expanduser()
    step = find.find_step(path) if path.is_dir() else path
    if step.parent.name != FOLDER:
        return {}
    lines = [line for line in read_lines(step.parent.parent) if line["step"] <= (loaded.step or 0)]
    seconds, _ = training_time(lines, loaded.experiment.batch_size)
    return {
        "step": loaded.step,
        "training_hours": round(seconds / 3600, 3),
        "evaluations": [
            {key: value for key, value in line.items() if key == "step" or key.startswith("val/")}
            for line in lines
            if loaded.metric in line
        ],
    }


def _write_page(card: dict, output: Path) -> str:
    """Write the page of a model hub beside the weights; a note that says so, or why not."""
    texts = hub_page.files(card, output)
    there = [name for name in texts if os.path.lexists(output.parent / name)]
    if there:
        return f"no page for a model hub: {output.parent / there[0]} is there already; a new folder gets one"
    for name, text in texts.items():
        regular_files.write(output.parent / name, text)
    return f"{' and '.join(texts)} beside it are its page for a model hub; read the licence there first"


def _stablehlo(loaded: Loaded, model: DDRNet, size: Size, card: dict) -> tuple[dict, Callable[[Path], object]]:
    view, size_hw = prediction_view(loaded.experiment.view), None if size == "any" else size
    if view.tile_hw and not (size_hw or view.size_hw):
        raise ExportError("eval.tile_hw: a program that sees tiles takes images of one size; say which with --size")
    program = to_stablehlo.to_stablehlo(fold(model), view, size_hw)
    expires = six_months_after(datetime.date.today())

    def write(output: Path) -> None:
        regular_files.write(output, program)
        regular_files.write(_loader_path(output), _loader())

    return _about_program(size_hw) | {
        "platforms": list(to_stablehlo.PLATFORMS),
        "compiler_options": compilation.OPTIONS,  # an exported program does not keep its own
        "jax": jax.__version__,
        "expires": str(expires),
        "notes": [
            f"{load_stablehlo.__name__.split('.')[-1]}.py beside it runs it; it needs jax {jax.__version__} or newer",
            f"jax guarantees that versions up to six months newer than {jax.__version__} read it, so none after "
            f"{expires}: the checkpoint is the archive, export again from it",
        ],
    }, write


def six_months_after(day: datetime.date) -> datetime.date:
    """The same day of the month, or its last."""
    year, month = day.year + (day.month + 5) // 12, (day.month + 5) % 12 + 1
    return datetime.date(year, month, min(day.day, calendar.monthrange(year, month)[1]))


def _onnx(
    loaded: Loaded, model: DDRNet, size: Size, card: dict, int8: Int8 | None
) -> tuple[dict, Callable[[Path], object]]:
    view = prediction_view(loaded.experiment.view)
    size_hw = None if size == "any" else size or view.size_hw
    if view.tile_hw and (not size_hw or view.tile_hw[0] < size_hw[0] or view.tile_hw[1] < size_hw[1]):
        raise ExportError(f"eval.tile_hw: an onnx file sees no tiles; --size must fit into {view.tile_hw}")
    about = _about_program(size_hw)
    program, agreement = to_onnx.to_onnx(model, size_hw, json.dumps(card | about))
    note = (
        f"ONNX Runtime agrees: logits within {agreement.relative_logit_difference:.0e} of the largest, "
        f"{agreement.differing_pixels} of {agreement.pixels} pixels differ"
    )
    about |= {"agreement": agreement._asdict(), "notes": [note]}
    if int8:
        program, measured = quantised(program, int8, loaded.experiment)
        about |= {"int8": measured._asdict(), "notes": [note, *measured.lines()]}
        program = with_card(program, card | about)
    return about, lambda output: regular_files.write(output, program)


def _about_program(size_hw: tuple[int, int] | None) -> dict:
    height, width = size_hw or ("H", "W")
    batch = "1" if size_hw else "B"
    return {
        "program": f"u8[{batch},{height},{width},3] RGB -> u8[{batch},{height},{width}] train ids; normalises itself",
        "output_stride": 1,
    }


def _loader_path(output: Path) -> Path:
    return output.with_name(Path(load_stablehlo.__file__).name)


def _loader() -> bytes:
    return regular_files.read_bytes(load_stablehlo.__file__)


def _card(loaded: Loaded, weights_sha256: str) -> dict:
    spec = loaded.experiment.spec
    return {
        "network": f"DDRNet-{loaded.experiment.variant}",
        "task": loaded.experiment.task,
        score_entry(loaded.metric): loaded.score,
        "classes": list(spec.classes),
        "colors": [list(color) for color in spec.colors],
        "ignore": 255,
        "input": {"channels": "RGB", "scale": 1 / 255, "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        "weights_sha256": weights_sha256,
        "config": loaded.experiment.config,
    }


def _notes(loaded: Loaded, naming: str) -> list[str]:
    if naming == "mmsegmentation" and not loaded.experiment.config["model"]["aux_head"]:
        return ["without an auxiliary head, which mmsegmentation's always has: load it there with strict=False"]
    return []
