"""Classes at image size, found without the logits there, are the classes of the logits there: to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick_compilation

from ddrnet_jax.models import platforms
from ddrnet_jax.models.blocks import upsample_x8
from ddrnet_jax.models.upsampling import argmax_x8
from ddrnet_jax.runtime import compilation

SIZES = [(2, 64, 88, 19), (1, 61, 83, 19), (1, 1, 7, 2), (1, 8, 9, 2), (2, 33, 40, 182)]  # B, H, W, C
RNG = np.random.default_rng(0)


def stride_8(batch, height, width, num_classes, kind):
    shape = (batch, -(-height // 8), -(-width // 8))
    if kind == "equal":  # exact in float32, so that classes are often equal at a pixel
        return RNG.integers(-1, 2, (*shape, num_classes)).astype(np.float32)
    if kind == "last bits":  # the classes differ by rounding alone: any other arithmetic picks others
        one = RNG.standard_normal((*shape, 1)).astype(np.float32)
        return one * (1 + RNG.integers(-4, 5, (*shape, num_classes)).astype(np.float32) * np.float32(2**-23))
    return RNG.standard_normal((*shape, num_classes)).astype(np.float32)


FAST, PLAIN = (  # two programs, as they are in use
    jax.jit(function, static_argnums=1, compiler_options=compilation.options() | quick_compilation.OFF)
    for function in (argmax_x8, upsample_x8)
)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["normal", "equal", "last bits"])
def test_argmax_x8_is_the_argmax_of_upsample_x8(size, kind):
    batch, height, width, num_classes = size
    logits = stride_8(*size, kind)
    classes, upsampled = (program(jnp.asarray(logits), (height, width)) for program in (FAST, PLAIN))
    assert classes.shape == (batch, height, width)
    np.testing.assert_array_equal(classes, np.argmax(upsampled, -1))
    if kind == "equal" and height > 8:
        best = np.sort(upsampled, -1)
        assert (best[..., -1] == best[..., -2]).mean() > 0.01, "the lower class of two is not tried"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["normal", "equal"])
def test_the_form_for_gpus_finds_the_same_classes(size, kind):
    batch, height, width, num_classes = size
    logits = jnp.asarray(stride_8(*size, kind))

    def for_gpus(logits):
        with platforms.compiled_for("gpu"):
            return argmax_x8(logits, (height, width))

    assert "gather" in str(jax.make_jaxpr(for_gpus)(logits))
    np.testing.assert_array_equal(jax.jit(for_gpus)(logits), FAST(logits, (height, width)))


def test_one_class_is_everywhere():
    np.testing.assert_array_equal(argmax_x8(jnp.ones((1, 2, 2, 1)), (13, 16)), np.zeros((1, 13, 16)))
