"""Prediction by an exported ONNX file through ONNX Runtime."""

import importlib
import json
import logging
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ddrnet_jax import regular_files
from ddrnet_jax.config import files as config_files
from ddrnet_jax.errors import UserError
from ddrnet_jax.text import size

if TYPE_CHECKING:
    import onnxruntime

_log = logging.getLogger(__name__)
IMAGES, MASKS = "images", "masks"  # what a file of ours calls its input and its output
CARD = "card"  # of its metadata


class EngineError(UserError):
    """Another engine is not installed, cannot use a file, or computes something else than we do."""


def installed(name: str, extra: str = "onnx") -> ModuleType:
    """A package of one of our extras: onnx, onnxruntime. Raises EngineError with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise EngineError(f"{name} is not installed: pip install 'ddrnet-jax[{extra}]'") from e


def session(model: bytes | str) -> "onnxruntime.InferenceSession":
    """An ONNX Runtime session on the CPU with as many threads as cores, of a file's bytes or its path."""
    return installed("onnxruntime").InferenceSession(model, providers=["CPUExecutionProvider"])


class OnnxPredictor:
    """Images u8[H,W,3] -> masks u8[H,W] by a file of `export --format onnx`.

    config   of the run that the weights are from
    size_hw  of the images that the network sees; None: any
    """

    def __init__(self, path: str | Path):
        """Raises EngineError if onnxruntime is missing or the file is none of ours."""
        self._is_told = False
        try:
            self._session = session(regular_files.read_bytes(path))
            card = json.loads(self._session.get_modelmeta().custom_metadata_map[CARD])
            self.config = config_files.from_json(card["config"])
            size_hw = self._session.get_inputs()[0].shape[1:3]
            self.size_hw: tuple[int, int] | None = tuple(size_hw) if isinstance(size_hw[0], int) else None
        except EngineError:
            raise
        except Exception as e:  # ONNX Runtime's own have no common class
            reason = str(e).splitlines()[0] if not isinstance(e, KeyError) else "it has no card"
            raise EngineError(f"--checkpoint {path}: not a file of export --format onnx ({reason})") from e

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """u8[H,W,3] RGB -> u8[H,W] train ids"""
        image_hw = image.shape[:2]
        if self.size_hw in (None, image_hw):
            return self._masks(image[None])[0]
        self._say_once(image_hw, self.size_hw)
        mask = self._masks(cv2.resize(image, self.size_hw[::-1], interpolation=cv2.INTER_LINEAR)[None])[0]
        return cv2.resize(mask, image_hw[::-1], interpolation=cv2.INTER_NEAREST_EXACT)

    def batch(self, images: np.ndarray) -> np.ndarray:
        """u8[B,H,W,3] RGB -> u8[B,H,W] train ids"""
        return self._masks(images) if self.size_hw is None else np.stack([self(image) for image in images])

    def _masks(self, images: np.ndarray) -> np.ndarray:
        return self._session.run([MASKS], {IMAGES: np.ascontiguousarray(images)})[0]

    def _say_once(self, image_hw: tuple[int, ...], seen_hw: tuple[int, int]) -> None:
        if self._is_told:
            return
        self._is_told = True
        _log.warning(
            f"images of {size(image_hw)} (HxW) are resized to the file's {size(seen_hw)}, "
            "and their masks back to the nearest pixel; an export with --size any avoids it"
        )
