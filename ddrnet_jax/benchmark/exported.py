"""The network through other engines as a program to time: the file of `export`, cut to what a protocol times."""

import functools
import time

import jax
import numpy as np

from ddrnet_jax.benchmark.cases import Protocol
from ddrnet_jax.benchmark.files import image_to_measure
from ddrnet_jax.benchmark.timing import Program
from ddrnet_jax.exports import int8, onnx_engine
from ddrnet_jax.exports import onnx as to_onnx
from ddrnet_jax.exports.onnx_engine import IMAGES, MASKS, EngineError
from ddrnet_jax.exports.onnx_graph import CENTRED, HALF_PIXEL_BILINEAR, LOGITS
from ddrnet_jax.models.ddrnet import IMAGENET_MEAN, DDRNet

PACKAGES = ("onnx", "onnxruntime")
NOTE = (
    "onnxruntime: float32 on the CPU, as many threads as cores, the file that --mode export writes; "
    "in paper and logits from images less their mean, channels first"
)
INT8_NOTE = "int8: the same file as export --int8 quantises it, calibrated on the image that is measured"
OPENVINO_NOTE = "openvino: the same file; in bfloat16 where the CPU computes in it, which OpenVINO chooses itself"


def check_installed(name: str = "onnxruntime") -> None:
    """Raises EngineError with what to do if a package is missing, or JAX uses another device than the CPU."""
    for package in PACKAGES:
        onnx_engine.installed(package)
    if name == "openvino":
        onnx_engine.installed(name, name)
    platform = jax.default_backend()
    if platform != "cpu":
        raise EngineError(f"--engines {name}: on the CPU alone, JAX uses {platform}; JAX_PLATFORMS=cpu compares CPUs")


class OnnxNetwork:
    """A network at one image size; its masks and logits were compared with ours when it was made."""

    def __init__(self, model: DDRNet, size_hw: tuple[int, int]):
        """Raises EngineError if it computes something else than ours."""
        self._size_hw = size_hw
        self._file, _ = to_onnx.to_onnx(model, size_hw)
        self._image = image_to_measure(size_hw)[None]

    def program(self, protocol: Protocol, batch: int) -> Program:
        """The program that a protocol times, as `OurNetwork` gives it. Raises EngineError for more than one image."""
        if batch != 1:
            raise EngineError("an exported ONNX file takes one image at a time")
        if protocol.name in ("mask", "file"):
            return self._masks
        return self._logits(at_image_size=protocol.name == "paper")

    @functools.cached_property
    def _masks(self) -> Program:
        session, seconds = _session(self._file)
        return Program(lambda images=self._image: session.run([MASKS], {IMAGES: images})[0], compile_s=seconds)

    def _logits(self, at_image_size: bool) -> Program:
        """From images less their mean, in channels first: the exported file divides in its first kernel."""
        onnx = onnx_engine.installed("onnx")
        model = onnx.shape_inference.infer_shapes(onnx.load_from_string(self._file))
        extracted = onnx.utils.Extractor(model).extract_model([IMAGES, CENTRED], [LOGITS])
        if at_image_size:
            _upsample(onnx, extracted.graph)
        session, seconds = _session(extracted.SerializeToString())
        images = self._image.astype(np.float32) - np.array(IMAGENET_MEAN, np.float32) * 255
        feed = {CENTRED: np.ascontiguousarray(images.transpose(0, 3, 1, 2)), IMAGES: self._image}  # whose size is asked
        return Program(lambda: session.run(None, feed)[0], compile_s=seconds)


class _MasksAlone(OnnxNetwork):
    def _logits(self, at_image_size: bool) -> Program:
        raise EngineError("masks alone: its protocols are mask and file")


class Int8Network(_MasksAlone):
    """The same in int8."""

    def __init__(self, model: DDRNet, size_hw: tuple[int, int]):
        """Raises EngineError if the float file computes something else than ours."""
        super().__init__(model, size_hw)
        self._file = int8.calibrated(self._file, list(self._image))


class OpenVinoNetwork(_MasksAlone):
    """The same by OpenVINO."""

    @functools.cached_property
    def _masks(self) -> Program:
        start = time.perf_counter()
        masks = onnx_engine.ENGINES["openvino"](self._file).masks
        return Program(lambda images=self._image: masks(images), compile_s=time.perf_counter() - start)


def _upsample(onnx, graph) -> None:
    """Logits at image size for output, channels last, which takes half the time of channels first; not cropped."""
    scales = onnx.numpy_helper.from_array(np.array([1, 8, 8, 1], np.float32), "scales")
    graph.initializer.append(scales)
    graph.node.append(onnx.helper.make_node("Transpose", [LOGITS], ["last"], perm=[0, 2, 3, 1]))
    graph.node.append(onnx.helper.make_node("Resize", ["last", "", "scales"], ["upsampled"], **HALF_PIXEL_BILINEAR))
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("upsampled", onnx.TensorProto.FLOAT, None))


def _session(model: bytes):
    """(session, seconds to make it); between runs its threads sleep, so as not to slow the other engines down."""
    start = time.perf_counter()
    session = onnx_engine.session(model, force_spinning_stop="1")
    return session, time.perf_counter() - start
