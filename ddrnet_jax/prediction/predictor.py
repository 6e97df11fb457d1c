"""Prediction by JAX: the network folded, and compiled once per image size."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from ddrnet_jax.evaluation.views import WHOLE_IMAGES, View, mask_program
from ddrnet_jax.models import kernel_layout, platforms, variables
from ddrnet_jax.models.ddrnet import DDRNet
from ddrnet_jax.models.folding import fold

_log = logging.getLogger(__name__)


class Predictor:
    """Images u8[H,W,3] -> masks u8[H,W] by the network, folded if it is a DDRNet; compiled once per image size.

    at_a_time  images that threads should give it together, so that an accelerator never waits for the next
    Source: images are not donated, since no output has their size: JAX would warn that it cannot use them.
    """

    def __init__(self, model: nnx.Module, view: View = WHOLE_IMAGES, dtype: DTypeLike | None = None):
        """
        dtype  to compute in; None: the network's own, or what the default device has in its place
        """
        if isinstance(model, DDRNet):
            model = fold(model, dtype or _for_device(model.dtype))
        graphdef, *weights = variables.split(model)
        self._weights = kernel_layout.put(weights)
        self._masks = mask_program(graphdef, view)
        self.at_a_time = 1 if jax.default_backend() == "cpu" else 2
        self._seen_sizes: set[tuple[int, ...]] = set()

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """u8[H,W,3] RGB -> u8[H,W] train ids"""
        return self.batch(image[None])[0]

    def batch(self, images: np.ndarray) -> np.ndarray:
        """u8[B,H,W,3] RGB -> u8[B,H,W] train ids"""
        if images.shape not in self._seen_sizes:
            self._seen_sizes.add(images.shape)
            _log.info(f"compiling for {images.shape[1]}x{images.shape[2]} (HxW) images")
        return np.asarray(self._masks(self._weights, images))


def _for_device(dtype: DTypeLike | None) -> DTypeLike | None:
    device = jax.devices()[0]
    suited = platforms.inference_dtype(dtype, getattr(device, "compute_capability", None))
    if suited != dtype:
        _log.info(f"{device.device_kind} has no bfloat16: predicting in {jnp.dtype(suited)}")
    return suited
