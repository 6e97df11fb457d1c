"""The platform that a network is traced for: layers look here for the form that suits it, nobody has to ask for one.

A form has the same weights and, up to rounding, the same numbers. "cpu": gradients of 3x3 kernels (conv3x3) and batch
norm's sums (batch_norm) as matrix products. "gpu": resizing by constants (interpolation), ReLU's slope as a sign
(relu), losses of stride-8 logits (training/softmax_x8). "tpu": maps of few channels in blocks of pixels (pixel_blocks).
Source: jax.lax.platform_dependent would trace every form in every program, and rematerialisation would keep the
convolutions of all of them.
"""

from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

_told = jax.make_user_context(None)  # a part of what jax.jit keeps programs by


def compiled_for(platform: str) -> AbstractContextManager[None]:
    """Traces what is within for "cpu", "gpu" or "tpu", also where the default backend is another."""
    return _told(platform)


def current() -> str:
    """The platform that is traced for: as told by `compiled_for`, else the default backend's."""
    return _told.value or jax.default_backend()


def capability(compute_capability: str | None) -> float | None:
    """The number of an NVIDIA GPU, from "9.0"; None of other makers' ("gfx942") and of what is no GPU."""
    is_number = (compute_capability or "").replace(".", "", 1).isdigit()
    return float(compute_capability) if compute_capability and is_number else None


def has_bfloat16(compute_capability: str | None) -> bool:
    """False of NVIDIA GPUs before "8.0", where XLA converts to float32 and back around every convolution."""
    return (capability(compute_capability) or 8) >= 8


def inference_dtype(dtype: DTypeLike | None, compute_capability: str | None) -> DTypeLike | None:
    """The type to run a network of this one in on a device: float16 for bfloat16 where a GPU does not have that.

    Source: as compiled for an RTX 2080 Ti an image of 1024x2048 moves 2.03 GB in bfloat16, more than the 1.43 of
    float32 (benchmarks/results/gpu_bytes_before.json). float16 has more digits than bfloat16, and less range.
    """
    return dtype if dtype != jnp.bfloat16 or has_bfloat16(compute_capability) else jnp.float16
