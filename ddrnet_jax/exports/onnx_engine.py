"""Engines that run an exported ONNX file: ONNX Runtime, OpenVINO. They load no JAX."""

import functools
import importlib
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from ddrnet_jax import regular_files
from ddrnet_jax.config import files as config_files
from ddrnet_jax.errors import UserError
from ddrnet_jax.runtime import cpu, signal_stack
from ddrnet_jax.text import size

if TYPE_CHECKING:
    import onnxruntime
    import openvino

_log = logging.getLogger(__name__)
IMAGES, MASKS = "images", "masks"  # what a file of ours calls its input and its output
CARD = "card"  # of its metadata
# Pixels that become one column at 1/64, of which OpenVINO 2026.4 computes convolutions wrongly in bfloat16 (AMX): it
# reads memory that is not theirs, and up to all pixels of the mask are wrong.
_NARROW = 64


class EngineError(UserError):
    """Another engine is not installed, cannot use a file, or computes something else than we do."""


def installed(name: str, extra: str = "") -> ModuleType:
    """A package that an engine needs. Raises EngineError with the command that installs it."""
    if name == "openvino":  # whose import reports to its maker, in a process that it forks beside JAX's threads
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it goes without
    try:
        return importlib.import_module(name)
    except ImportError as e:
        what = f"'ddrnet-jax[{extra}]'" if extra else name
        raise EngineError(f"{name} is not installed: pip install {what}") from e


def session(model: bytes | str, **settings: str) -> "onnxruntime.InferenceSession":
    """An ONNX Runtime session on the CPU with as many threads as cores, of a file's bytes or its path.

    settings  of the session, by the names that ONNX Runtime has for them after "session."
    """
    onnxruntime = installed("onnxruntime")
    options = onnxruntime.SessionOptions()
    if cpu.cores() < (os.cpu_count() or 1):  # by itself it binds a thread to every core, the forbidden ones too
        options.intra_op_num_threads = cpu.cores()
    for name, value in settings.items():
        options.add_session_config_entry(f"session.{name}", value)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Program(NamedTuple):
    """An exported file, made ready by an engine.

    masks    u8[B,H,W,3] RGB -> u8[B,H,W] train ids
    size_hw  of the images; None: any, and any number
    card     what the file says about itself
    engine   what runs it, in words
    """

    masks: Callable[[np.ndarray], np.ndarray]
    size_hw: tuple[int, int] | None
    card: dict
    engine: str


def _by_onnxruntime(file: bytes) -> Program:
    ready = session(file)
    size_hw = ready.get_inputs()[0].shape[1:3]
    return Program(
        lambda images: ready.run([MASKS], {IMAGES: images})[0],
        tuple(size_hw) if isinstance(size_hw[0], int) else None,
        json.loads(ready.get_modelmeta().custom_metadata_map[CARD]),
        f"onnxruntime {installed('onnxruntime').__version__} on the CPU",
    )


def _by_openvino(file: bytes) -> Program:
    """In bfloat16 where the CPU computes in it, which OpenVINO chooses itself; narrow images in float32."""
    core = installed("openvino", "openvino").Core()
    model = core.read_model(file)
    card = json.loads(model.get_rt_info(["framework", CARD]).value)
    if "int8" in card:  # 7 to 9 % of the pixels differed
        raise EngineError("an int8 file, which OpenVINO computes wrongly; --engine onnxruntime runs it")
    is_fixed = not model.input(0).partial_shape.is_dynamic
    # Of its default, 5000 kernels of sizes seen before, a server of many sizes keeps more and more memory.
    options = {"PERFORMANCE_HINT": "LATENCY", "CPU_RUNTIME_CACHE_CAPACITY": 1000}

    def compiled(**precision: str) -> "openvino.CompiledModel":
        found = core.compile_model(model, "CPU", options | precision)
        signal_stack.use_ordinary()
        return found

    fast = compiled()
    precision = fast.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    request = fast.create_infer_request()
    of_narrow = functools.cache(lambda: compiled(INFERENCE_PRECISION_HINT="f32").create_infer_request())

    def masks(images: np.ndarray) -> np.ndarray:
        is_narrow = precision != "f32" and images.shape[2] <= _NARROW
        return (of_narrow() if is_narrow else request).infer({IMAGES: images})[MASKS].copy()  # the next takes its place

    return Program(
        masks,
        tuple(model.input(0).shape)[1:3] if is_fixed else None,
        card,
        f"openvino {installed('openvino').__version__.split('-')[0]} on the CPU in {precision}",
    )


ENGINES = {"onnxruntime": _by_onnxruntime, "openvino": _by_openvino}


class OnnxPredictor:
    """Images u8[H,W,3] -> masks u8[H,W] by a file of `export --format onnx`.

    config   of the run that the weights are from
    size_hw  of the images that the network sees; None: any
    engine   what runs it, in words
    """

    def __init__(self, path: str | Path, engine: str = "onnxruntime", file: bytes | None = None):
        """
        engine  one of ENGINES
        file    what the path holds, where it was read already

        Raises EngineError if the engine is missing or the file is none of ours.
        """
        self._is_told = False
        try:
            program = ENGINES[engine](file or regular_files.read_bytes(path))
            self.config = config_files.from_json(program.card["config"])
        except EngineError as e:
            raise EngineError(f"--checkpoint {path}: {e}") from e
        except Exception as e:  # the engines' own have no common class
            lines = ["it has no card"] if isinstance(e, KeyError) else str(e).strip().splitlines()
            line = -1 if engine == "openvino" else 0  # its first names its own source
            reason = lines[line] if lines else type(e).__name__
            raise EngineError(f"--checkpoint {path}: not a file of export --format onnx ({reason})") from e
        self._masks, self.size_hw, self.engine = program.masks, program.size_hw, program.engine

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """u8[H,W,3] RGB -> u8[H,W] train ids"""
        image_hw = image.shape[:2]
        if self.size_hw in (None, image_hw):
            return self._masks(np.ascontiguousarray(image[None]))[0]
        self._say_once(image_hw, self.size_hw)
        seen = cv2.resize(image, self.size_hw[::-1], interpolation=cv2.INTER_LINEAR)
        return cv2.resize(self._masks(seen[None])[0], image_hw[::-1], interpolation=cv2.INTER_NEAREST_EXACT)

    def batch(self, images: np.ndarray) -> np.ndarray:
        """u8[B,H,W,3] RGB -> u8[B,H,W] train ids"""
        if self.size_hw:
            return np.stack([self(image) for image in images])
        return self._masks(np.ascontiguousarray(images))

    def _say_once(self, image_hw: tuple[int, ...], seen_hw: tuple[int, int]) -> None:
        if self._is_told:
            return
        self._is_told = True
        _log.warning(
            f"images of {size(image_hw)} (HxW) are resized to the file's {size(seen_hw)}, "
            "and their masks back to the nearest pixel; an export with --size any avoids it"
        )
