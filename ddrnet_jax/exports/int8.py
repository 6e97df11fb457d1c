"""An exported ONNX file in int8: calibrated, and measured beside the float file before it is one."""

import json
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddrnet_jax import regular_files
from ddrnet_jax.build import Experiment
from ddrnet_jax.data.samples import Source
from ddrnet_jax.errors import UserError
from ddrnet_jax.evaluation import comparison
from ddrnet_jax.evaluation.evaluate import samples_to_evaluate
from ddrnet_jax.exports import onnx_engine, onnx_graph
from ddrnet_jax.exports.onnx_engine import IMAGES, OnnxPredictor
from ddrnet_jax.runtime import cpu

CALIBRATION_IMAGES = 64
LARGEST_LOSS = 1.0  # points of mIoU
_QUANTISED = ("Conv", "Add", "Relu", "Resize")
_RUNS = 9  # of each file, in turns
_log = logging.getLogger(__name__)


class Int8(NamedTuple):
    """How a file is quantised, and what is accepted.

    experiment    whose training images calibrate, whose eval split is counted; None: the checkpoint's
    images        how many calibrate
    largest_loss  of mIoU, in points (0..100); beyond it nothing is written
    """

    experiment: Experiment | None = None
    images: int = CALIBRATION_IMAGES
    largest_loss: float = LARGEST_LOSS


class Int8Error(UserError):
    """The quantised network loses more than is accepted."""


class Measured(NamedTuple):
    """The float file and the quantised one on the eval split, by the counter of every evaluation, and on this CPU."""

    miou_float: float
    miou_int8: float
    changed_pixels: float  # share
    latency_float_ms: float
    latency_int8_ms: float
    latency_size: str  # of the image that was timed, HxW
    calibration_images: int
    cpu: str

    def lines(self) -> list[str]:
        """For people."""
        loss = 100 * (self.miou_float - self.miou_int8)
        ratio = self.latency_int8_ms / self.latency_float_ms
        slower = "; int8 is slower here" if ratio > 1 else ""
        return [
            f"mIoU {100 * self.miou_float:.2f} in float32, {100 * self.miou_int8:.2f} in int8 ({-loss:+.2f}); "
            f"{self.changed_pixels:.2%} of the pixels changed",
            f"{self.latency_float_ms:.1f} ms in float32, {self.latency_int8_ms:.1f} ms in int8 ({ratio:.2f}) at "
            f"{self.latency_size} on {self.cpu}{slower}",
        ]


def quantised(file: bytes, settings: Int8, trained: Experiment) -> tuple[bytes, Measured]:
    """(an exported float32 file in int8, both measured).

    Source: activations u8, weights s8 a channel, by the extremes of the calibration images; DAPPM and the classifier
    stay in float32, which costs hardly any time and keeps the mIoU.
    Raises Int8Error where it loses too much, EngineError without onnxruntime, DataError without the data.
    """
    experiment = settings.experiment or trained
    images = list(_calibration_images(experiment.train_source(), settings.images))
    result = calibrated(file, images)
    measured = _measured(file, result, experiment, len(images))
    loss = 100 * (measured.miou_float - measured.miou_int8)
    if loss > settings.largest_loss:
        raise Int8Error(
            f"int8 loses {loss:.2f} points of mIoU of {100 * measured.miou_float:.2f}, "
            f"limit {settings.largest_loss:g}; nothing was written; --calibrate more images, or set --max_loss"
        )
    return result, measured


def calibrated(file: bytes, images: Sequence[np.ndarray]) -> bytes:
    """An exported float32 file in int8, by the extremes of its activations on images u8[H,W,3]; not measured.

    Raises EngineError without onnxruntime.
    """
    return _quantised(onnx_engine.installed("onnx").load_from_string(file), images)


def with_card(file: bytes, card: dict) -> bytes:
    """The file with another card inside."""
    onnx = onnx_engine.installed("onnx")
    model = onnx.load_from_string(file)
    onnx.helper.set_model_props(model, {onnx_engine.CARD: json.dumps(card)})
    return model.SerializeToString()


def _calibration_images(source: Source, count: int) -> Iterator[np.ndarray]:
    """u8[H,W,3] each, evenly spread over the source, the same ones every time."""
    for index in np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int)):
        yield source[int(index)]["image"]


class _Reader:
    """Calibration images as ONNX Runtime asks for them."""

    def __init__(self, images: Sequence[np.ndarray]):
        self._images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {IMAGES: image[None]}


def _quantised(model, images: Sequence[np.ndarray]) -> bytes:
    quantization = onnx_engine.installed("onnxruntime.quantization")
    names = [node.name for node in model.graph.node if node.name.startswith(onnx_graph.BODY)]
    logging.disable(logging.WARNING)  # its advice is for other networks
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            quantization.quantize_static(
                model,
                path,
                _Reader(images),
                per_channel=True,
                reduce_range=cpu.is_x86() and not cpu.has("avx512_vnni", "avx_vnni"),  # whose 16-bit sums overflow
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                op_types_to_quantize=list(_QUANTISED),
                nodes_to_quantize=names,
            )
            return regular_files.read_bytes(path)
    finally:
        logging.disable(logging.NOTSET)


def _measured(file: bytes, result: bytes, experiment: Experiment, count: int) -> Measured:
    ours, theirs = (OnnxPredictor("", file=each) for each in (file, result))
    with samples_to_evaluate(experiment.eval_source(), None, num_threads=experiment.num_threads) as samples:
        compared = comparison.compare(ours, theirs, samples, experiment.spec.num_classes)
    image = experiment.eval_source()[0]["image"]
    float_ms, int8_ms = _latencies_ms((ours, theirs), image)
    return Measured(
        compared.scores.miou,
        compared.other.miou,
        compared.differing / int(compared.pairs.sum()),
        float_ms,
        int8_ms,
        "x".join(map(str, image.shape[:2])),
        count,
        cpu.name(),
    )


def _latencies_ms(predictors: Sequence[comparison.Predict], image: np.ndarray) -> list[float]:
    """The median of each, in turns."""
    seconds: list[list[float]] = [[] for _ in predictors]
    for _ in range(_RUNS):
        for times, predictor in zip(seconds, predictors, strict=True):
            start = time.perf_counter()
            predictor(image)
            times.append(time.perf_counter() - start)
    return [1000 * float(np.median(times)) for times in seconds]
