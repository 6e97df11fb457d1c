"""The inference network as an ONNX file, for images of one size or of any, checked against ours."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddrnet_jax.exports import onnx_engine, onnx_graph
from ddrnet_jax.exports.onnx_engine import IMAGES, MASKS, EngineError
from ddrnet_jax.exports.onnx_graph import LOGITS
from ddrnet_jax.models.blocks import upsample_x8
from ddrnet_jax.models.ddrnet import DDRNet, normalise
from ddrnet_jax.models.folding import fold
from ddrnet_jax.models.upsampling import argmax_x8
from ddrnet_jax.runtime import compilation
from ddrnet_jax.weights.fingerprint import fixed_images

RELATIVE_LIMIT = 1e-4  # of the largest logit: how far theirs may be from ours
_FREE_SHAPE = (2, 77, 101)  # B,H,W that a file for any size is compared at


class Agreement(NamedTuple):
    """The distance of ONNX Runtime from us on the images that were compared."""

    relative_logit_difference: float  # largest, over our largest logit
    differing_pixels: int
    pixels: int


def to_onnx(model: DDRNet, size_hw: tuple[int, int] | None, card: str = "{}") -> tuple[bytes, Agreement]:
    """(the file's bytes, how well they agree with the model): u8[B,H,W,3] RGB -> u8[B,H,W] train ids, in float32.

    size_hw  of the images, which are then one at a time (B = 1); None: any
    card     text that travels in the file
    Raises   EngineError if onnx or onnxruntime is missing, or if theirs differs from ours.
    """
    onnx = onnx_engine.installed("onnx")
    folded = fold(model, jnp.float32)
    proto = onnx_graph.program(onnx, folded, size_hw)
    onnx.helper.set_model_props(proto, {onnx_engine.CARD: card})
    proto.graph.output.append(onnx.helper.make_tensor_value_info(LOGITS, onnx.TensorProto.FLOAT, None))
    agreement = _compare(folded, proto.SerializeToString(), (1, *size_hw) if size_hw else _FREE_SHAPE)
    proto.graph.output.pop()
    return proto.SerializeToString(), agreement


def _images(shape: tuple[int, ...]) -> np.ndarray:
    """u8[B,H,W,3] of a fixed pattern, each image another part of it."""
    batch, height, width = shape
    pattern = fixed_images()[0]
    repeats = [-(-n // m) for n, m in zip((batch * height, width), pattern.shape, strict=False)]
    return np.tile(pattern, [*repeats, 1])[: batch * height, :width].reshape(*shape, 3)


def _compare(folded: DDRNet, theirs: bytes, shape: tuple[int, ...]) -> Agreement:
    """Raises EngineError where logits differ by more than rounding, or classes do where our best two are apart."""
    images, size_hw = _images(shape), shape[1:]
    their_masks, their_logits = onnx_engine.session(theirs).run([MASKS, LOGITS], {IMAGES: images})

    def ours(images):
        logits = folded(normalise(images)).logits
        return argmax_x8(logits, size_hw), logits

    our_masks, our_logits = jax.jit(ours, compiler_options=compilation.options())(images)
    largest = float(jnp.abs(our_logits).max())
    difference = float(np.abs(np.moveaxis(their_logits, 1, -1) - our_logits).max()) / largest
    differ = their_masks != np.asarray(our_masks)
    agreement = Agreement(difference, int(differ.sum()), differ.size)
    margins = _margins(np.asarray(upsample_x8(our_logits, size_hw))[differ]) / largest if differ.any() else np.zeros(1)
    if not difference <= RELATIVE_LIMIT or margins.max() > RELATIVE_LIMIT:
        raise EngineError(
            f"ONNX Runtime differs from our network: logits by {difference:.1e} of the largest (limit "
            f"{RELATIVE_LIMIT:.0e}), classes at {agreement.differing_pixels} of {differ.size} pixels; "
            "nothing was written"
        )
    return agreement


def _margins(logits: np.ndarray) -> np.ndarray:
    """f32[N,C] -> f32[N], the best minus the second best"""
    best = np.sort(logits, -1)
    return best[:, -1] - best[:, -2]
