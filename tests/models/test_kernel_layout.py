"""Kernels in the order that a GPU reads them in, here on a CPU."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding

from ddrnet_jax.models import kernel_layout, platforms
from ddrnet_jax.models.kernel_layout import WITH_CHANNELS_FIRST, WITH_CHANNELS_LAST

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("capability", "dtype", "expected"),
    [
        ("7.5", jnp.float32, WITH_CHANNELS_FIRST),
        ("7.5", jnp.bfloat16, WITH_CHANNELS_FIRST),  # which XLA computes in float32 there
        ("7.5", jnp.float16, WITH_CHANNELS_LAST),
        ("8.0", jnp.float32, WITH_CHANNELS_FIRST),
        ("8.0", jnp.bfloat16, WITH_CHANNELS_LAST),
        ("9.0", jnp.float32, WITH_CHANNELS_LAST),
        ("12.0", jnp.bfloat16, WITH_CHANNELS_LAST),
        ("gfx942", jnp.float32, None),
    ],
)
def test_the_order_is_by_gpu_and_type(capability, dtype, expected):
    assert kernel_layout.order(capability, dtype) == expected


def test_kernels_alone_have_an_order_and_on_gpus_alone():
    weights = {"kernel": np.zeros((3, 3, 4, 8), np.float32), "bias": np.zeros(8, np.float32)}

    def formats(platform):
        device = types.SimpleNamespace(platform=platform, compute_capability="9.0")
        return kernel_layout.formats(weights, types.SimpleNamespace(device_set=[device]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_layout, "Format", lambda layout, sharding: layout)
        assert formats("gpu")["kernel"] == Layout(WITH_CHANNELS_LAST)
        assert not isinstance(formats("gpu")["bias"], Layout)
        assert not any(isinstance(leaf, Layout) for leaf in formats("tpu").values())


def test_a_program_takes_the_order_of_the_kernels_that_it_is_given():
    """So that no program has to know: the numbers are the same, and nothing is transposed back before."""
    kernel, x = (RNG.standard_normal(shape).astype(np.float32) for shape in ((3, 3, 4, 8), (1, 6, 6, 4)))
    place = Format(Layout(WITH_CHANNELS_LAST), SingleDeviceSharding(jax.devices()[0]))

    @jax.jit
    def convolved(kernel, x):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    placed = jax.device_put(kernel, place)
    np.testing.assert_allclose(convolved(placed, x), convolved(kernel, x), rtol=1e-6)
    compiled = convolved.lower(placed, x).compile()
    assert compiled.input_formats[0][0].layout.major_to_minor == WITH_CHANNELS_LAST


@pytest.mark.parametrize(
    ("dtype", "capability", "expected"),
    [
        (jnp.bfloat16, "7.5", jnp.float16),
        (jnp.bfloat16, "8.0", jnp.bfloat16),
        (jnp.bfloat16, "gfx942", jnp.bfloat16),
        (jnp.bfloat16, None, jnp.bfloat16),
        (None, "7.5", None),
        (jnp.float32, "7.5", jnp.float32),
    ],
)
def test_bfloat16_is_left_where_a_gpu_has_none(dtype, capability, expected):
    assert platforms.inference_dtype(dtype, capability) == expected
