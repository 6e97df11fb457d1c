"""The strided convolution equals XLA's own, its gradients too, for even and odd sizes and on every platform's path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddrnet_jax.models.blocks import conv
from ddrnet_jax.models.strided_conv import strided_conv

ARGUMENTS = ((2, 2), ((1, 1), (1, 1)))
OPTIONS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


@pytest.mark.parametrize("size_hw", [(8, 12), (7, 12), (8, 11), (9, 5), (1, 2)])
def test_outputs_and_gradients_are_those_of_the_plain_convolution(size_hw):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size_hw, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 5)), jnp.float32)
    dy = jnp.asarray(rng.normal(size=(2, *(-(-n // 2) for n in size_hw), 5)), jnp.float32)

    def result(convolve):
        y, gradients = jax.vjp(lambda x, kernel: convolve(x, kernel, *ARGUMENTS, **OPTIONS), x, kernel)
        return y, *gradients(dy)

    for ours, plain in zip(result(strided_conv), result(jax.lax.conv_general_dilated), strict=True):
        assert ours.shape == plain.shape
        np.testing.assert_allclose(ours, plain, atol=2e-5)


def test_only_cpus_take_the_gradient_in_parts():
    def gradient(x):
        return jax.grad(lambda x: strided_conv(x, jnp.ones((3, 3, 3, 5)), *ARGUMENTS, **OPTIONS).sum())(x)

    lowered = jax.jit(gradient).trace(jnp.ones((2, 8, 8, 3)))
    dilated = {p: lowered.lower(lowering_platforms=(p,)).as_text().count("lhs_dilate = [2, 2]") for p in ("cpu", "tpu")}
    assert dilated == {"cpu": 0, "tpu": 1}


def test_the_network_uses_it_where_it_fits():
    def function(size, stride):
        return conv(4, 8, size, stride, dtype=None, rngs=nnx.Rngs(0)).conv_general_dilated

    assert function(3, 2) is strided_conv
    assert function(3, 1) is function(1, 2) is jax.lax.conv_general_dilated


@pytest.mark.parametrize(
    ("strides", "padding", "options"),
    [((1, 1), ((1, 1), (1, 1)), {}), ((2, 2), ((0, 0), (0, 0)), {}), (*ARGUMENTS, {"rhs_dilation": (2, 2)})],
)
def test_other_convolutions_are_refused(strides, padding, options):
    with pytest.raises(ValueError, match="expected a 3x3 convolution of stride 2 and padding 1"):
        strided_conv(jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 5)), strides, padding, **OPTIONS, **options)
