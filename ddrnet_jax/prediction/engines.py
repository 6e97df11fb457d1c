"""The engine that predicts: which one is fastest here, and a segmenter that runs by it.

Loads JAX where the engine is JAX, or a checkpoint's network has to be exported first.
"""

import importlib.util
import json
import logging
import os
from pathlib import Path

from ml_collections import ConfigDict

from ddrnet_jax.config import ConfigError, base
from ddrnet_jax.config import files as config_files
from ddrnet_jax.exports import cached, onnx_engine
from ddrnet_jax.exports.onnx_engine import EngineError, OnnxPredictor
from ddrnet_jax.prediction import segmenter
from ddrnet_jax.prediction.segmenter import Segmenter
from ddrnet_jax.runs import find, step_files
from ddrnet_jax.runtime import cpu
from ddrnet_jax.weights import files as weight_files
from ddrnet_jax.weights import places
from ddrnet_jax.weights.card import CONFIG_ENTRY

_log = logging.getLogger(__name__)
AUTO, JAX = "auto", "jax"
ENGINES = (AUTO, JAX, *onnx_engine.ENGINES)


def load(checkpoint: str | Path, engine: str = AUTO) -> Segmenter:
    """A segmenter of a checkpoint, weights or an exported file by an engine of ENGINES; one line says which.

    "auto" is the fastest that is installed for this machine, and ONNX Runtime for an ONNX file in hand. Other engines
    than JAX run a network of ours as such a file, made and compared with ours once, and kept in the cache.
    Raises EngineError where the engine cannot run it, CheckpointError where there is nothing to run.
    """
    path = places.local(checkpoint)
    if path.suffix == ".onnx":
        if engine == JAX:
            raise EngineError(f"--checkpoint {path}: an exported file; add --engine onnxruntime")
        return _by(OnnxPredictor(path, "onnxruntime" if engine == AUTO else engine))
    reason = _why_jax(path, engine)
    if reason is None:
        predictor, reason = _exported(_weights(path), _fastest() if engine == AUTO else engine)
        if predictor:
            return _by(predictor)
    if engine not in (AUTO, JAX):
        raise EngineError(f"--engine {engine}: cannot run {checkpoint} ({reason}); --engine jax can")
    return _by_jax(path, reason if engine == AUTO else "")


def _by(predictor: OnnxPredictor) -> Segmenter:
    _log.info(f"engine: {predictor.engine}")
    return segmenter.of_onnx(predictor)


def _by_jax(path: Path, reason: str | None) -> Segmenter:
    from ddrnet_jax.runtime import compilation, devices

    compilation.enable_cache()
    devices.check()
    _log.info(f"engine: jax{f' ({reason})' if reason else ''}")
    return segmenter.load(path)


def _why_jax(path: Path, engine: str) -> str | None:
    """Why JAX alone can run a checkpoint; None: no reason that is known before it is read."""
    if engine == JAX:
        return ""
    if path.suffix == ".stablehlo":
        return "which alone runs StableHLO"
    try:
        config = _config(_weights(path))
    except ConfigError as e:
        return str(e)
    if config.task != "segmentation":
        raise segmenter.not_a_segmenter(path)
    for key in ("size_hw", "tile_hw"):
        if config.eval[key]:
            return f"eval.{key}, which an exported file does not know"
    if cached.folder() is None:
        return "no cache folder to keep an exported file in"
    return "for the accelerator that is asked for, or installed" if engine == AUTO and _has_accelerator() else None


def _weights(path: Path) -> Path:
    """The step's folder, or the file, that holds the weights."""
    return path if path.is_file() else find.find_step(path)


def _config(weights: Path) -> ConfigDict:
    """That of a step, or of a file of ours; a file of anyone's has the config that nobody changed."""
    if weights.is_dir():
        return config_files.from_json(step_files.read_description(weights)["config"])
    entry = weight_files.read_metadata(weights).get(CONFIG_ENTRY)
    try:
        return config_files.from_json(json.loads(entry)) if entry else base()
    except (ValueError, RecursionError) as e:
        raise ConfigError(f"{weights}: its config cannot be read") from e


def _has_accelerator() -> bool:
    """True if JAX may find an accelerator: one is asked for, or one of its plugins is installed and it may look."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    return asked != "cpu" and bool(asked or any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu")))


def _fastest() -> str:
    """The faster engine for ONNX files. In bfloat16 OpenVINO takes half of ONNX Runtime's time; in float32 the same."""
    has_openvino = importlib.util.find_spec("openvino") is not None
    return "openvino" if has_openvino and cpu.has("avx512_bf16", "amx_bf16") else "onnxruntime"


def _exported(weights: Path, engine: str) -> tuple[OnnxPredictor | None, str | None]:
    """(the predictor of the weights' network by an engine, None), or (None, why there is none)."""
    folder = cached.folder()
    if folder is None:
        return None, "no cache folder to keep an exported file in"
    entry = cached.Entry(weights, folder)
    try:
        onnx_engine.installed(engine, extra="openvino" if engine == "openvino" else "")
        file = entry.read()
        if file is None:
            _log.info(f"exporting the network for {engine}, once a checkpoint")
            file = _export(weights)
            entry.write(file)
        return OnnxPredictor(weights, engine, file), None
    except EngineError as e:
        return None, str(e)


def _export(weights: Path) -> bytes:
    from ddrnet_jax.exports import export
    from ddrnet_jax.runtime import compilation, devices

    compilation.enable_cache()
    devices.check()
    return export.onnx_of_any_size(weights)
