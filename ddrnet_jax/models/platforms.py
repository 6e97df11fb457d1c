"""The platform that a network is traced for: layers look here for the form that suits it, nobody has to ask for one.

A form has the same weights and, up to rounding, the same numbers. "cpu": gradients of 3x3 kernels (conv3x3) and batch
norm's sums (batch_norm) as matrix products. "tpu": maps of few channels in blocks of pixels (pixel_blocks).
Source: jax.lax.platform_dependent would trace every form in every program, and rematerialisation would keep the
convolutions of all of them.
"""

from contextlib import AbstractContextManager

import jax

_told = jax.make_user_context(None)  # a part of what jax.jit keeps programs by


def compiled_for(platform: str) -> AbstractContextManager[None]:
    """Traces what is within for "cpu", "gpu" or "tpu", also where the default backend is another."""
    return _told(platform)


def current() -> str:
    """The platform that is traced for: as told by `compiled_for`, else the default backend's."""
    return _told.value or jax.default_backend()
