"""Two figures by which people know that they hold the same weights: an exact hash, and what a fixed input gives."""

import hashlib

import numpy as np

from ddrnet_jax.models import variables
from ddrnet_jax.models.ddrnet import DDRNet
from ddrnet_jax.models.inference import logits_program
from ddrnet_jax.weights import state_dicts
from ddrnet_jax.weights.origins import without_stem_bias

_SAMPLES = 8


def weights_sha256(model: DDRNet) -> str:
    """sha256 over the official names in order: name, a zero byte, little-endian float32 in PyTorch's layout.

    Source: without the stem's biases, so that it is the same for every naming a file may have.
    """
    digest = hashlib.sha256()
    for name, array in sorted(without_stem_bias(state_dicts.to_state_dict(model)).items()):
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(array, "<f4").tobytes())
    return digest.hexdigest()


def fixed_images() -> np.ndarray:
    """u8[1,128,192,3], the same on every machine: all values, edges and slopes."""
    y, x, c = np.mgrid[:128, :192, :3]
    return ((7 * x + 13 * y + 29 * c + x * y // 11) % 256).astype(np.uint8)[None]


def forward_digest(model: DDRNet) -> dict[str, float | list[float]]:
    """Mean, deviation, extremes and eight samples of the logits on `fixed_images`, rounded to four digits.

    Different machines agree on all digits but, now and then, the last: rounding differs, weights do not.
    """
    graphdef, *weights = variables.split(model)
    values = np.asarray(logits_program(graphdef)(weights, fixed_images()), np.float64)
    samples = values.ravel()[np.linspace(0, values.size - 1, _SAMPLES).round().astype(int)]
    numbers = {"mean": values.mean(), "std": values.std(), "min": values.min(), "max": values.max()}
    return {k: _rounded(v) for k, v in numbers.items()} | {"samples": [_rounded(v) for v in samples]}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
